"""Picture files of many kinds, and their pixels."""

import io
import struct
import zlib

import cv2
import numpy as np
import tifffile
from PIL import Image

# Arrays as a camera stores an upright one, by EXIF orientation: which side of the scene row 0 and column 0 hold.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda upright: upright[::-1].swapaxes(0, 1),  # left, bottom
}


def noise(channels: int, dtype: type = np.uint8, height: int = 7, width: int = 11) -> np.ndarray:
    """[H, W, C] over the whole range of the dtype, the same at every call."""
    largest = np.iinfo(dtype).max
    return np.random.default_rng(channels).integers(0, largest, (height, width, channels), dtype, endpoint=True)


def smooth_picture(height: int = 30, width: int = 40) -> np.ndarray:
    """[H, W, 3] uint8 with a different ramp in each channel, so that swapped axes or channels show."""
    rows, columns = np.mgrid[0:height, 0:width]
    down, across = rows / max(height - 1, 1), columns / max(width - 1, 1)
    return np.stack([255 * across, 255 * down, 120 * (1 - across)], axis=-1).astype(np.uint8)


def encode(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    """A file as Pillow writes it."""
    file = io.BytesIO()
    if isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))
    pixels.save(file, kind, **options)
    return file.getvalue()


def encode_16(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    """A file as OpenCV writes [H, W, C] uint16; a TIFF is compressed by LZW."""
    order = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[pixels.shape[-1]]
    done, content = cv2.imencode(suffix, pixels if order is None else cv2.cvtColor(pixels, order))
    assert done
    return content.tobytes()


def encode_tiff(pixels: np.ndarray, **options) -> bytes:
    """A TIFF as tifffile writes it."""
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"metadata": None} | options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with a chunk inserted before its pixels."""
    place = png.index(b"IDAT") - 4
    return png[:place] + png_chunk(kind, data) + png[place:]


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


def exif_block(orientation: int = 1, thumbnail: bytes = b"", order: str = "<") -> bytes:
    """A camera's EXIF block: make, orientation, a directory with sizes and maker's note, and a thumbnail."""

    def entry(tag, kind, count, value):
        packed = struct.pack(order + ("HH" if kind == 3 else "L"), *((value, 0) if kind == 3 else (value,)))
        return struct.pack(order + "HHL", tag, kind, count) + packed

    note = b"maker's note at its own place"
    sub, second = 8 + 2 + 3 * 12 + 4, 8 + 2 + 3 * 12 + 4 + 2 + 3 * 12 + 4
    tail = second + (2 + 2 * 12 + 4 if thumbnail else 0)
    first = entry(0x10F, 2, 4, 0)[:8] + b"Cam\0" + entry(0x112, 3, 1, orientation) + entry(0x8769, 4, 1, sub)
    inner = entry(0x927C, 7, len(note), tail) + entry(0xA002, 4, 1, 640) + entry(0xA003, 4, 1, 480)
    block = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "L", 8)
    block += struct.pack(order + "H", 3) + first + struct.pack(order + "L", second if thumbnail else 0)
    block += struct.pack(order + "H", 3) + inner + bytes(4)
    if thumbnail:
        place = tail + len(note)
        entries = entry(0x201, 4, 1, place) + entry(0x202, 4, 1, len(thumbnail))
        block += struct.pack(order + "H", 2) + entries + bytes(4)
    return b"Exif\0\0" + block + note + thumbnail

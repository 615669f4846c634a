"""Samples of 16 bits, which Pillow cuts to 8: decoded by OpenCV, tifffile, pillow_heif; encoded as PNG, TIFF."""

import contextlib
import io
import itertools
import logging
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, TiffTags
from PIL.TiffImagePlugin import COMPRESSION_INFO_REV, ImageFileDirectory_v2, TiffImageFile


def decode_colour(content: bytes) -> np.ndarray:
    """Decodes 16-bit colour of a PNG, TIFF or JPEG 2000 with OpenCV.

    Args:
      content: A file that Pillow has decoded to its end; of a truncated file, OpenCV would decode a part.

    Returns:
      [H, W, 3] or [H, W, 4] uint16, RGB or RGBA; grey with alpha as RGBA; a TIFF upright.

    Raises:
      ValueError: OpenCV cannot decode it, or it has no 16-bit colour.
    """
    import cv2

    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ValueError("no 16-bit colour")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[-1] == 3 else cv2.COLOR_BGRA2RGBA)


def decode_heif(content: bytes) -> np.ndarray:
    """Decodes HEIC colour of more than 8 bits, scaled to 16; returns as `decode_colour`, upright."""
    import pillow_heif

    image = pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=False)
    shift = 16 - image.info["bit_depth"]
    values = np.asarray(image) >> shift
    if values.dtype != np.uint16 or values.ndim != 3:
        raise ValueError("no 16-bit colour")
    white = (1 << image.info["bit_depth"]) - 1
    return ((values.astype(np.uint32) * 65535 + white // 2) // white).astype(np.uint16)


def high_bytes_agree(pixels: np.ndarray, image: Image.Image) -> bool:
    """Returns whether 16-bit pixels agree with Pillow's pixels, which are their high bytes.

    Args:
      pixels: [H, W, C] uint16.
      image: The same image, decoded by Pillow.
    """
    known = np.asarray(image)
    if pixels.shape != known.shape:
        return False
    high = (pixels >> 8).astype(np.uint8)
    if image.format == "JPEG2000":  # Pillow rounds, and the brightest value wraps to 0.
        return bool((known - high <= 1).all())
    if image.format == "HEIF":  # libheif rounds before it converts to RGB.
        return bool((np.abs(known.astype(np.int16) - high) <= 4).all())
    return bool(np.array_equal(high, known))


@contextlib.contextmanager
def _single_page(content: bytes) -> Iterator[Any]:
    import tifffile

    # It logs damage line by line; the caller reports one line.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        if len(file.pages) != 1:
            raise ValueError(f"{len(file.pages)} pages")
        yield file.pages.first


def tiff_size(content: bytes) -> tuple[tuple[int, int], dict[int, int]]:
    """Returns (width, height) of a TIFF that Pillow does not know, and the tags of its tile size and depth."""
    with _single_page(content) as page:
        return (page.imagewidth, page.imagelength), {
            322: page.tilewidth,
            323: page.tilelength,
            32997: page.imagedepth,
        }


def decode_tiff(content: bytes, extra_kinds: tuple[int, ...] = (2,)) -> np.ndarray:
    """Decodes a TIFF with tifffile: 16-bit grey with alpha, 16-bit or 32-bit colour, floats.

    Args:
      content: The file.
      extra_kinds: Allowed kinds of an extra channel, as in TIFF's ExtraSamples: 2 is unassociated alpha.

    Returns:
      [H, W, C] in the file's dtype, C = 1 to 4, as stored; with C = 2 or 4 the last channel is the extra one.

    Raises:
      ValueError: It is damaged or of an unknown kind. tifffile itself raises nearly every type.
    """
    with _single_page(content) as page:
        ends = [start + size for start, size in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > len(content):  # tifffile would return whatever it finds there.
            raise ValueError("the file is truncated")
        colours = {1: 1, 2: 3}.get(int(page.photometric), 0)
        extra = tuple(int(kind) for kind in page.extrasamples)
        known = page.dtype is not None and page.dtype.kind in "uif" and page.dtype.itemsize >= 2
        if not known or page.samplesperpixel != colours + len(extra) or len(extra) > 1:
            raise ValueError("a TIFF of an unknown kind")
        if extra and extra[0] not in extra_kinds:
            raise ValueError("a TIFF with an unknown channel")
        pixels = page.asarray()
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            pixels = np.moveaxis(pixels, 0, -1)
        return pixels.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def eight_bit(pixels: np.ndarray) -> np.ndarray:
    """Rounds uint16 in [0, 65535], any shape, to uint8 in [0, 255]."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def encode_png(pixels: np.ndarray, chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Encodes [H, W, C] uint16, C = 1 to 4, as a 16-bit PNG, with (name, data) of chunks before its pixels."""
    height, width, channels = pixels.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    # The "Up" filter stores the difference from the row above, which compresses photographs better.
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(filtered.data, 4)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
        for kind, data in body
    )


def encode_tiff(
    pixels: np.ndarray,
    directory: ImageFileDirectory_v2,
    icc_profile: bytes,
    dpi: tuple[float, float] | None,
    compression: str = "raw",
) -> bytes:
    """Encodes a TIFF. Pillow writes no 16-bit colour, and no EXIF directory into a compressed file.

    Args:
      pixels: [H, W, C] uint8 or uint16, C = 1 to 4.
      directory: Other tags; it is changed.
      icc_profile: The colour profile, or nothing.
      dpi: Dots per inch, across and down.
      compression: Pillow's name: "raw", "tiff_lzw" or "tiff_adobe_deflate".
    """
    height, width, channels = pixels.shape
    rows, strips = height, [np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes()]
    if compression != "raw":
        differences = pixels.copy()
        differences[:, 1:] -= pixels[:, :-1]
        rows, strips = _compress(differences, compression)
        directory[317] = 2  # The predictor: differences from the pixel to the left.
    stored = {256: width, 257: height, 259: COMPRESSION_INFO_REV[compression], 277: channels, 278: rows, 284: 1}
    for tag, value in stored.items():
        directory[tag] = value
    directory[262] = 2 if channels > 2 else 1
    directory[258] = (8 * pixels.itemsize,) * channels
    if channels in (2, 4):
        directory[338] = 2  # Unassociated alpha.
    if dpi:
        directory[282], directory[283], directory[296] = dpi[0], dpi[1], 2
    if icc_profile:
        directory.tagtype[34675] = TiffTags.UNDEFINED
        directory[34675] = icc_profile
    sizes = [len(strip) for strip in strips]
    directory.tagtype[273] = directory.tagtype[279] = TiffTags.LONG
    directory[273] = tuple(itertools.accumulate(sizes[:-1], initial=0))  # Counted from the end of the directory.
    directory[279] = tuple(sizes)
    content = io.BytesIO()
    directory.save(content)
    content.write(b"".join(strips))
    return content.getvalue()


def _compress(pixels: np.ndarray, compression: str) -> tuple[int, list[bytes]]:
    """Returns the rows of a strip and the strips of [H, W, C], compressed by libtiff, which sees rows of bytes."""
    stored = pixels.astype(pixels.dtype.newbyteorder("<")).reshape(len(pixels), -1).view(np.uint8)
    content = io.BytesIO()
    Image.fromarray(stored).save(content, "TIFF", compression=compression)
    content.seek(0)
    with TiffImageFile(content) as image:  # Not Image.open, which limits the pixels of a whole process.
        tags = image.tag_v2
        starts, sizes, rows = tags[273], tags[279], tags[278]
    data = content.getbuffer()
    return rows, [bytes(data[start : start + size]) for start, size in zip(starts, sizes, strict=True)]

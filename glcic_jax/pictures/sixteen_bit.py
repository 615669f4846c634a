"""Sixteen bits a colour, which Pillow cuts to eight: reading and writing them in PNG and TIFF."""

import contextlib
import io
import logging
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from glcic_jax.pictures.metadata import describing, parsed, tiff_as_stored

_INCHES_IN_A_METRE = 1 / 0.0254


def decode_colour(content: bytes) -> np.ndarray:
    """Reads a PNG, TIFF or JPEG 2000 of 16 bits a colour as it is stored.

    Args:
      content: A file that Pillow has read to its end: of a truncated one this returns a part.

    Returns:
      [H, W, 3] or [H, W, 4] uint16, RGB or RGBA; grey with alpha as RGBA.

    Raises:
      ValueError: It cannot be read.
    """
    import cv2

    if content[:2] in (b"II", b"MM"):
        content = tiff_as_stored(content)
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("damaged 16-bit colours")
    if image.dtype != np.uint16 or image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ValueError("16-bit colours of an unknown kind")
    order = cv2.COLOR_BGR2RGB if image.shape[-1] == 3 else cv2.COLOR_BGRA2RGBA
    return cv2.cvtColor(image, order)


@contextlib.contextmanager
def _first_page(content: bytes) -> Iterator[Any]:
    """The first page of a TIFF. Raises ValueError where there are more, or none."""
    import tifffile

    # It logs what is wrong with a file, line by line, and the caller has one line for it.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        if len(file.pages) != 1:
            raise ValueError(f"{len(file.pages)} pages")
        yield file.pages.first


def tiff_size(content: bytes) -> tuple[tuple[int, int], dict[int, int]]:
    """Reads the size of a TIFF of a kind that Pillow does not know.

    Returns:
      (width, height), and what its pixels take beyond that: tile width, tile length and depth by TIFF's numbers.

    Raises:
      ValueError: It has more pages than one, or nobody knows its kind.
    """
    with _first_page(content) as page:
        tags = {322: page.tilewidth, 323: page.tilelength, 32997: page.imagedepth}
        return (page.imagewidth, page.imagelength), tags


def decode_rare_tiff(content: bytes, extra_kinds: tuple[int, ...] = (2,)) -> np.ndarray:
    """Reads a TIFF of a kind that Pillow does not know: 16-bit grey with alpha, colours of 32 bits or floats.

    Args:
      content: The file.
      extra_kinds: What a channel behind the colours may be, in TIFF's numbers: 2 is alpha.

    Returns:
      [H, W, C] of the file's own dtype, C = 1 to 4, as it is stored; the last of 2 or 4 is alpha.

    Raises:
      ValueError: It cannot be read, or is damaged.
    """
    with _first_page(content) as page:
        # Or what lies behind the end would come back as something.
        ends = [start + size for start, size in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > len(content):
            raise ValueError("the file is truncated")
        colours = {1: 1, 2: 3}.get(int(page.photometric), 0)
        extra = tuple(int(kind) for kind in page.extrasamples)
        if page.samplesperpixel != colours + len(extra) or extra not in ((), *((kind,) for kind in extra_kinds)):
            raise ValueError("a TIFF of an unknown kind")
        if page.dtype is None or page.dtype.kind not in "uif" or page.dtype.itemsize < 2:
            raise ValueError("a TIFF of an unknown kind")
        pixels = page.asarray()
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            pixels = np.moveaxis(pixels, 0, -1)
        return pixels.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def encode_png(pixels: np.ndarray, icc_profile: bytes, exif: bytes, dpi: tuple[float, float] | None) -> bytes:
    """Writes [H, W, C] uint16, C = 1 to 4, as a PNG of 16 bits a sample."""
    height, width, channels = pixels.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)),
    ]
    if icc_profile:
        chunks.append(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile)))
    if dpi:
        across, down = (round(value * _INCHES_IN_A_METRE) for value in dpi)
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", across, down, 1)))
    if exif:
        chunks.append(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    # Each row but the first as its difference from the one above ("Up"), which is smaller in photographs.
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    chunks.append(_chunk(b"IDAT", zlib.compress(filtered.data, 4)))
    return b"".join([*chunks, _chunk(b"IEND", b"")])


def encode_tiff(pixels: np.ndarray, icc_profile: bytes, exif: bytes, dpi: tuple[float, float] | None) -> bytes:
    """Writes [H, W, C] uint16, C = 1, 3 or 4, as an uncompressed TIFF of 16 bits a sample."""
    height, width, channels = pixels.shape
    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II\x2a\0\x08\0\0\0")
    if exif:
        described = describing(parsed(exif))
        for tag in described:
            directory[tag] = described[tag]
    stored = {256: width, 257: height, 259: 1, 262: 2 if channels > 2 else 1, 277: channels, 278: height, 284: 1}
    for tag, value in stored.items():
        directory[tag] = value
    directory[258] = (16,) * channels
    if channels == 4:
        directory[338] = 2  # Alpha with which nothing is multiplied.
    if dpi:
        directory[282], directory[283], directory[296] = dpi[0], dpi[1], 2
    if icc_profile:
        directory.tagtype[34675] = 7
        directory[34675] = icc_profile
    directory[273], directory[279] = 0, pixels.nbytes  # The first is counted from the directory's end.
    content = io.BytesIO()
    directory.save(content)
    content.write(np.ascontiguousarray(pixels, "<u2").data)
    return content.getvalue()


def eight_bit(pixels: np.ndarray) -> np.ndarray:
    """Rounds uint16 in [0, 65535], any shape, to uint8 in [0, 255]."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def high_bytes_agree(pixels: np.ndarray, image: Image.Image, premultiplied: bool) -> bool:
    """Says whether 16-bit pixels are what Pillow read of the same file, of which it keeps the high bytes.

    Args:
      pixels: [H, W, C], as the file has them.
      image: Pillow's, decoded.
      premultiplied: If the file's colours are multiplied with its alpha; Pillow has divided them again.
    """
    known = np.asarray(image)
    if pixels.dtype != np.uint16 or pixels.shape != known.shape:
        return False
    high = (pixels >> 8).astype(np.uint8)
    if image.format == "JPEG2000":  # Which Pillow rounds, and the brightest to 0.
        return bool((known - high <= 1).all())
    if not premultiplied or known.shape[-1] != 4:
        return bool(np.array_equal(high, known))
    multiplied = known[..., :3] * (known[..., 3:] / 255.0)
    # Pillow divides whole numbers, and clips colours brighter than their alpha.
    near = np.abs(np.minimum(high[..., :3], known[..., 3:]) - multiplied).max(initial=0.0) <= 2
    return bool(np.array_equal(high[..., 3], known[..., 3]) and near)

"""Damage that decoders pass over: they invent what is missing, often as grey, and report nothing."""

import io
import re
from typing import IO

from PIL import Image, ImageChops, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # Of a JPEG; the others occur inside a scan.
_START, _SCAN, _END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
# Frames with Huffman codes. Arithmetic codes may omit zeros at their end.
_SEQUENTIAL, _PROGRESSIVE = frozenset({b"\xff\xc0", b"\xff\xc1"}), b"\xff\xc2"
_COEFFICIENTS = 64  # Of a block.
# libjpeg looks ahead by up to eight bytes. No Huffman code consists of ones, so these hold next to no pixels.
_LOOK_AHEAD = 8 * b"\xff\0"
_NOISE = bytes(range(1, 65))  # Decodes to other pixels than the zeros that libjpeg invents.
_ZERO_SHARE, _FEWEST_ZEROS = 16, 32  # Encoders end their files with at most five zeros.


def sound_image(image: ImageFile.ImageFile, stream: IO[bytes]) -> ImageFile.ImageFile:
    """Returns an opened image whose decoder reports missing data, as far as the file can show that any is missing.

    Args:
      image: The image, just opened from the stream.
      stream: Its file.

    Raises:
      OSError, SyntaxError: The file is damaged.
    """
    if image.format == "JPEG":
        return _sound_jpeg(image, stream)
    if isinstance(image, PngImageFile):
        if not image.tile:
            raise OSError("it has no pixels")
        image.verify()  # The checksums from the pixels on, which decoding ignores; the image is unusable then.
        stream.seek(0)
        return PngImageFile(stream)
    if image.format in ("WEBP", "AVIF", "HEIF"):
        size = stream.seek(0, io.SEEK_END)
        tail = max(size // _ZERO_SHARE, _FEWEST_ZEROS)
        stream.seek(max(0, size - tail))
        if not any(stream.read()):
            raise OSError("its end was never written: it consists of zeros")
    return image


def _sound_jpeg(image: ImageFile.ImageFile, stream: IO[bytes]) -> ImageFile.ImageFile:
    stream.seek(0)
    content = stream.read()
    segments = _segments(content)
    markers = [marker for marker, _ in segments]
    if _PROGRESSIVE in markers:
        _check_scans(segments)
    if not _SEQUENTIAL.isdisjoint(markers) and markers.count(_SCAN) == 1:
        # At the end marker, libjpeg would invent all pixels that are missing; without it, Pillow misses them.
        return JpegImageFile(io.BytesIO(segments[-1][1] + _LOOK_AHEAD))
    return image


def _segments(jpeg: bytes) -> list[tuple[bytes, bytes]]:
    """Returns the markers of a JPEG with their contents; the content of the end marker is all that precedes it."""
    segments: list[tuple[bytes, bytes]] = []
    place = jpeg.index(_START) + len(_START)
    while found := _MARKER.search(jpeg, place):
        if found[0] == _END:
            return [*segments, (_END, jpeg[: found.start()])]
        place = found.end() + int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
        segments.append((found[0], jpeg[found.end() + 2 : place]))
    raise OSError("its end is missing: it has no end marker")


def _check_scans(segments: list[tuple[bytes, bytes]]) -> None:
    """Raises OSError unless the scans of a progressive JPEG give all bits of all coefficients."""
    missing_bits: dict[int, list[int]] = {}  # By component.
    try:
        for marker, content in segments:
            if marker == _PROGRESSIVE:
                missing_bits = {content[6 + 3 * index]: [99] * _COEFFICIENTS for index in range(content[5])}
            elif marker == _SCAN:
                count = content[0]
                first, last, bits = content[1 + 2 * count : 4 + 2 * count]
                for component in content[1 : 1 + 2 * count : 2]:
                    missing_bits[component][first : last + 1] = [bits & 15] * (last + 1 - first)
    except (IndexError, KeyError, ValueError) as error:
        raise OSError("the header of a scan is damaged") from error
    if any(any(bits) for bits in missing_bits.values()):
        raise OSError("its end is missing: it lacks scans")


def check_last_scan(image: Image.Image, jpeg: bytes) -> None:
    """Decodes a progressive JPEG again with noise behind its last scan, which shows if that scan is incomplete.

    Args:
      image: The decoded JPEG.
      jpeg: Its file.

    Raises:
      OSError: The last scan is incomplete.
    """
    segments = _segments(jpeg)
    if _PROGRESSIVE not in dict(segments):
        return
    content = segments[-1][1]
    with JpegImageFile(io.BytesIO(content + _NOISE + _END)) as other:
        # An image of another size was decoded at a reduced one.
        if image.size == other.size and ImageChops.difference(image, other).getbbox(alpha_only=False):
            raise OSError("its end is missing: the last scan is incomplete")

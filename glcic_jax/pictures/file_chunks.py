"""What picture files say in chunks, boxes and segments that Pillow passes over."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

# What a PNG says of its colours beside a profile, and how many bytes that takes.
_PNG_COLOUR = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"mDCV": 24, b"cLLI": 8}
_CODESTREAM = b"\xff\x4f\xff\x51"  # Of JPEG 2000: its start, and the marker of the sizes.


@contextlib.contextmanager
def _opened(source: bytes | str | Path) -> Iterator[BinaryIO]:
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        yield file


def _pieces(file: BinaryIO, place: int, span: Callable[[bytes], tuple[bytes, int, int]]) -> Iterator[bytes]:
    """The kind of each piece of a file, which stands at the piece's data then.

    Args:
      file: Any that can be sought in.
      place: Where the first piece lies.
      span: From 16 bytes at a piece's start, zeros where the file ends, to its kind, to where its data begin, and
        to where the next piece does; both are counted from its start.
    """
    file.seek(place)
    while len(start := file.read(16)) >= 8:
        kind, data, following = span(start.ljust(16, b"\0"))
        file.seek(place + data)
        yield kind
        if following < 8:  # It goes to the end of the file, or is damaged.
            return
        place += following
        file.seek(place)


def _png_span(start: bytes) -> tuple[bytes, int, int]:
    length, kind = struct.unpack(">L4s", start[:8])
    return kind, 8, 12 + length


def _riff_span(start: bytes) -> tuple[bytes, int, int]:
    kind, length = struct.unpack("<4sL", start[:8])
    return kind, 8, 8 + length + length % 2


def _box_span(start: bytes) -> tuple[bytes, int, int]:
    length, kind, longer = struct.unpack(">L4sQ", start)
    return (kind, 16, longer) if length == 1 else (kind, 8, length)


def png_colour(source: bytes | str | Path) -> bytes:
    """The chunks in which a PNG says what its colours mean, whole, one behind the other; empty if it does not."""
    found: dict[bytes, bytes] = {}
    with _opened(source) as file:
        for kind in _pieces(file, 8, _png_span):
            if kind in (b"IDAT", b"IEND"):
                break
            if kind in _PNG_COLOUR and kind not in found:
                found[kind] = file.read(_PNG_COLOUR[kind])
    return b"".join(
        struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))
        for kind, data in found.items()
    )


def is_lossless_webp(source: bytes | str | Path) -> bool:
    """Says whether a WebP's pixels are stored without loss."""
    with _opened(source) as file:
        for kind in _pieces(file, 12, _riff_span):
            if kind in (b"VP8L", b"VP8 "):
                return kind == b"VP8L"
    return False


def jpeg2000_bits(source: bytes | str | Path) -> int:
    """Bits of a value of a JPEG 2000's first channel; 8 where they cannot be told."""
    with _opened(source) as file:
        if file.read(4) == _CODESTREAM:
            file.seek(0)
        elif not any(kind == b"jp2c" for kind in _pieces(file, 0, _box_span)):
            return 8
        sizes = file.read(43)
    return (sizes[42] & 0x7F) + 1 if sizes[:4] == _CODESTREAM and len(sizes) == 43 else 8

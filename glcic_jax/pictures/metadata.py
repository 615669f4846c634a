"""What describes the pixels of an image file: its EXIF block, its colour profile, its resolution."""

import contextlib
import io
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from glcic_jax.errors import printable

PLAIN_MODES = ("L", "LA", "RGB", "RGBA")  # Pillow's, whose channels are ours.
# How an ICC profile names its colour space, and the channels of pixels that it fits.
_COLOUR_SPACES = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4, b"Lab ": 0, b"YCbr": 0}


def valid_orientation(value: object) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is none."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of an image that was opened; raises what Pillow raises."""
    return valid_orientation(image.getexif().get(ORIENTATION, 1))


def read_exif(image: Image.Image, notes: list[str]) -> tuple[int, bytes]:
    """The orientation, and the EXIF block as the file has it."""
    try:
        orientation = orientation_of(image)
        block = image.info.get("exif") or b""  # pillow_heif puts None where there is none.
        if image.format == "TIFF" or "Raw profile type exif" in image.info:
            described = describing(image.getexif())
            block = described.tobytes() if len(described) else b""
    except Exception:  # Pillow raises nearly every type here too.
        notes.append("the EXIF block is damaged and was left out")
        return 1, b""
    return orientation, block


def cleaned_exif(exif: bytes, turned: bool, notes: list[str]) -> bytes:
    """An EXIF block as `exif.cleaned` has it; empty, with a note, where it is damaged."""
    try:
        return cleaned(exif, turned)
    except ValueError:
        notes.append("the EXIF block is damaged and was left out")
        return b""


def fitting_profile(image: Image.Image, channels: int, notes: list[str]) -> bytes:
    """The colour profile of an image, if it fits the pixels that were made of it still; empty if not.

    Args:
      image: Of any mode.
      channels: Of the pixels.
      notes: What is left out is added.
    """
    kept = image.mode in (*PLAIN_MODES, "1", "P", "PA") or image.mode[0] in "IF"
    return profile_for(image.info.get("icc_profile") or b"", channels if kept else 0, notes)


def profile_for(profile: bytes, channels: int, notes: list[str]) -> bytes:
    """The colour profile, if it fits the pixels still; 0 channels for pixels of another colour space than it."""
    colours = 1 if channels in (1, 2) else 3
    if profile and _COLOUR_SPACES.get(profile[16:20], colours if channels else 0) != colours:
        space = printable(profile[16:20].decode("latin-1")).strip()
        notes.append(f"the colour profile ({space}) does not fit the pixels and was left out")
        return b""
    return profile


def tiff_dpi(tags: Image.Exif) -> tuple[float, float] | None:
    """Dots per inch as a TIFF's tags have them, in inches or centimetres; None where they are in neither."""
    inches = {2: 1.0, 3: 2.54}.get(tags.get(296, 2))
    values = tags.get(282), tags.get(283)
    if inches is None or values[0] is None or values[1] is None:
        return None
    return float(values[0]) * inches, float(values[1]) * inches


def resolution(dpi: object, turned: bool) -> tuple[float, float] | None:
    """Dots per inch, if they are any."""
    try:
        across, down = (float(value) for value in dpi)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not all(math.isfinite(value) and 1 <= value <= 65535 for value in (across, down)):
        return None
    return (down, across) if turned else (across, down)


_PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
_SUB_BLOCK, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_WIDTH, _HEIGHT = 0xA002, 0xA003
# Where a thumbnail lies: its offsets and its lengths, as a JPEG or as strips.
_THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))
# What a TIFF's own tags say of the scene, the camera and the author. The others say how its pixels are stored.
_DESCRIBING = (
    *(0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x0213, 0x4746, 0x4749, 0x8298),
    *range(0x9C9B, 0x9CA0),
)
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


class _Entry(NamedTuple):
    kind: int
    number: int
    place: int  # Of its value, or of the offset to it.


class _Block:
    """An EXIF block to change in place: camera makers' notes hold offsets, and break when they are moved."""

    def __init__(self, data: bytes):
        self.data = bytearray(data)
        self.order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
        if not self.order or self.number("H", 2) != 42:
            raise ValueError("no EXIF block")

    def number(self, kind: str, place: int) -> int:
        return struct.unpack_from(self.order + kind, self.data, place)[0]

    def set(self, kind: str, place: int, value: int) -> None:
        struct.pack_into(self.order + kind, self.data, place, value)

    def directory(self, place: int) -> tuple[dict[int, _Entry], int]:
        """The entries of a directory by tag, and the place of the offset to the next one."""
        count = self.number("H", place)
        entries = {}
        for start in range(place + 2, place + 2 + 12 * count, 12):
            entries[self.number("H", start)] = _Entry(
                self.number("H", start + 2), self.number("L", start + 4), start + 8
            )
        return entries, place + 2 + 12 * count

    def integers(self, entry: _Entry) -> list[int]:
        kind = {3: "H", 4: "L"}[entry.kind]
        size = _SIZES[entry.kind]
        start = entry.place if entry.number * size <= 4 else self.number("L", entry.place)
        if start + entry.number * size > len(self.data):
            raise ValueError("an EXIF value lies outside its block")
        return [self.number(kind, start + size * index) for index in range(entry.number)]

    def blank(self, start: int, length: int) -> None:
        stop = min(start + length, len(self.data))
        if stop > start:
            self.data[start:stop] = bytes(stop - start)

    def blank_all(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Blanks from each start so many bytes; each byte once, however often the pairs name it."""
        blanked = 0
        for start, length in sorted(pairs):
            stop = min(start + length, len(self.data))
            self.blank(max(start, blanked), stop - max(start, blanked))
            blanked = max(blanked, stop)

    def drop_thumbnails(self, next_place: int) -> None:
        first = self.number("L", next_place)
        self.set("L", next_place, 0)
        if first:
            entries, _ = self.directory(first)
            for offsets, lengths in _THUMBNAILS:
                if offsets in entries and lengths in entries:
                    places = self.integers(entries[offsets])
                    self.blank_all(zip(places, self.integers(entries[lengths]), strict=False))
        # Makers' notes hold previews too.
        start = self.data.find(b"\xff\xd8\xff")
        while start >= 0:
            end = self.data.find(b"\xff\xd9", start)
            self.blank(start, (end + 2 if end >= 0 else len(self.data)) - start)
            start = self.data.find(b"\xff\xd8\xff", start)


def cleaned(exif: bytes, turned: bool) -> bytes:
    """Returns an EXIF block for a picture that stands upright and was changed.

    The orientation becomes 1. Thumbnails are erased, which show the picture before the change.

    Args:
      exif: As a file holds it, with or without `Exif` in front.
      turned: If width and height changed places.

    Returns:
      The block, with `Exif` and two zeros in front; empty if there is none.

    Raises:
      ValueError: The block is damaged.
    """
    data = re.sub(b"^(Exif\0\0){1,2}", b"", exif)
    if not data:
        return b""
    try:
        block = _Block(data)
        entries, next_place = block.directory(block.number("L", 4))
        if ORIENTATION in entries:
            orientation = entries[ORIENTATION]
            block.set({3: "H", 4: "L"}[orientation.kind], orientation.place, 1)
        block.drop_thumbnails(next_place)
        if _SUB_BLOCK in entries:
            inner, _ = block.directory(block.number("L", entries[_SUB_BLOCK].place))
            if turned and _WIDTH in inner and _HEIGHT in inner and inner[_WIDTH].kind == inner[_HEIGHT].kind:
                width, height = inner[_WIDTH].place, inner[_HEIGHT].place
                old_width, old_height = block.number("L", width), block.number("L", height)
                block.set("L", width, old_height)
                block.set("L", height, old_width)
    except (struct.error, KeyError) as error:
        raise ValueError("damaged EXIF block") from error
    return _PREFIX + bytes(block.data)


def describing(exif: Image.Exif) -> Image.Exif:
    """Returns what describes a picture and not how a file stores it, for TIFF, which mixes both."""
    result = Image.Exif()
    result.endian = "<"
    for tag in (*_DESCRIBING, _SUB_BLOCK, _GPS):
        if tag not in exif:
            continue
        value = exif[tag]
        if tag in (_SUB_BLOCK, _GPS):
            value = dict(exif.get_ifd(tag))
            if _INTEROPERABILITY in value:
                value[_INTEROPERABILITY] = exif.get_ifd(_INTEROPERABILITY)
        if value not in (None, {}):
            result[tag] = value
    if ORIENTATION in exif:
        result[ORIENTATION] = 1
    return result


def parsed(exif: bytes) -> Image.Exif:
    """A block, or a whole TIFF, as Pillow reads it."""
    result = Image.Exif()
    result.load(exif)
    return result


def tiff_as_stored(content: bytes) -> bytes:
    """A TIFF whose orientation is 1, so that no reader turns it. Raises ValueError where it is no classic TIFF."""
    try:
        block = _Block(content)
        entries, _ = block.directory(block.number("L", 4))
        if ORIENTATION in entries:
            block.set("H", entries[ORIENTATION].place, 1)
        return bytes(block.data)
    except struct.error as error:
        raise ValueError("damaged TIFF") from error


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

"""EXIF blocks: what of them describes a changed picture still, and what would give the old one away."""

import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image

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

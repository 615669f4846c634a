"""Drawn mask sets: the set's name, the image's size and its index alone determine each hole."""

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from glcic_jax.errors import ConfigError, printable

Range = tuple[int, int]
Size = tuple[int, int]
Set = TypeVar("Set", bound="DrawnMasks")


class TextRandom:
    """An endless sequence of random integers that a text determines.

    64-bit words come from the SHA-256 of the text and a counter. NumPy's distributions may change between
    versions, and floating-point functions differ between machines.

    Args:
      text: The seed.
    """

    def __init__(self, text: str):
        self._state = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
        self._blocks = 0
        self._words: list[int] = []

    def integer(self, lowest: int, highest: int) -> int:
        """The next number, uniform in [lowest, highest], both included.

        The product with a word's fraction is truncated without rejection: a probability is off by less than 2^-64.
        """
        if lowest > highest:
            raise ValueError(f"there is no number from {lowest} to {highest}")
        return lowest + ((self._word() * (highest - lowest + 1)) >> 64)

    def _word(self) -> int:
        if not self._words:
            block = self._state.copy()
            block.update(b"\0" + self._blocks.to_bytes(8, "big"))
            self._blocks += 1
            digest = block.digest()
            self._words = [int.from_bytes(digest[start : start + 8], "big") for start in (24, 16, 8, 0)]
        return self._words.pop()


_PARTS = 16  # Units of length per pixel.
_QUARTER = 1024  # Directions in a quarter turn.
_BITS = 14  # Fractional bits of a sine.
# No value is so close to halfway between two integers that another machine's sine would round differently.
SINES = tuple(round(math.sin(math.pi / 2 * step / _QUARTER) * 2**_BITS) for step in range(_QUARTER + 1))
# 1.5 radians.
_LARGEST_TURN = 978
# 0.75 px, so that every stroke covers the centre of some pixel.
_THINNEST = 12


def draw_strokes(random: TextRandom, size: Size, strokes: Range, vertices: Range, brush: Range) -> np.ndarray:
    """Draws strokes that begin anywhere in the image and follow its border instead of leaving it.

    The segments of a stroke are a sixteenth to a quarter of the image's shorter side long and turn by up to 1.5
    radians.

    Args:
      random: The random numbers.
      size: (height, width) in pixels, up to 2^20 each.
      strokes: Minimum and maximum number of strokes.
      vertices: Minimum and maximum number of segments of a stroke.
      brush: Smallest and largest diameter of the brush, in hundredths of the shorter side.

    Returns:
      [H, W] bool, True = hole; never empty.
    """
    hole = np.zeros(size, bool)
    for _ in range(random.integer(*strokes)):
        points, radius = _random_walk(random, size, vertices, brush)
        for point in points:
            _paint_disc(hole, point, radius)
        for start, end in itertools.pairwise(points):
            _paint_band(hole, start, end, radius)
    return hole


def sine(direction: int) -> int:
    """The sine of a direction in 4096ths of a turn, in units of 2^-14."""
    quarter, rest = divmod(direction % (4 * _QUARTER), _QUARTER)
    magnitude = SINES[_QUARTER - rest] if quarter % 2 else SINES[rest]
    return -magnitude if quarter >= 2 else magnitude


def _random_walk(
    random: TextRandom, size: Size, vertices: Range, brush: Range
) -> tuple[list[tuple[int, int]], int]:
    """The vertices (row, column) of a stroke and its radius, all in sixteenths of a pixel."""
    shorter = min(size)
    row, column = (random.integer(0, _PARTS * side - 1) for side in size)
    direction = random.integer(0, 4 * _QUARTER - 1)
    # In sixteenths of a pixel, a radius of a hundredth of the side is 16 / 200 of it.
    thinnest, thickest = ((4 * percent * shorter + 25) // 50 for percent in brush)
    radius = max(_THINNEST, random.integer(thinnest, thickest))
    points = [_inside(row, column, size)]
    for _ in range(random.integer(*vertices)):
        direction += random.integer(-_LARGEST_TURN, _LARGEST_TURN)
        length = random.integer(shorter, 4 * shorter)  # A sixteenth of the side is `shorter` sixteenths.
        row += _rounded(length * sine(direction))
        column += _rounded(length * sine(direction + _QUARTER))
        points.append(_inside(row, column, size))
    return points, radius


def _rounded(product: int) -> int:
    return (product + 2 ** (_BITS - 1)) >> _BITS


def _inside(row: int, column: int, size: Size) -> tuple[int, int]:
    height, width = size
    return min(max(row, 0), _PARTS * (height - 1)), min(max(column, 0), _PARTS * (width - 1))


def _near(lowest: int, highest: int, radius: int, side: int) -> tuple[slice, np.ndarray]:
    """The rows (or columns) whose centres are within a radius of [lowest, highest]: a slice and the centres."""
    half = _PARTS // 2
    first = max(0, -((half + radius - lowest) // _PARTS))
    last = min(side - 1, (highest + radius - half) // _PARTS)
    return slice(first, last + 1), _PARTS * np.arange(first, last + 1, dtype=np.int64) + half


def _paint_disc(hole: np.ndarray, centre: tuple[int, int], radius: int) -> None:
    rows, row_centres = _near(centre[0], centre[0], radius, hole.shape[0])
    columns, column_centres = _near(centre[1], centre[1], radius, hole.shape[1])
    squared = (row_centres[:, None] - centre[0]) ** 2 + (column_centres - centre[1]) ** 2
    hole[rows, columns] |= squared <= radius**2


def _paint_band(hole: np.ndarray, start: tuple[int, int], end: tuple[int, int], radius: int) -> None:
    """Draws a segment without its round ends."""
    down, right = end[0] - start[0], end[1] - start[1]
    squared_length = down**2 + right**2
    if squared_length == 0:  # It has no sides, and every pixel would lie between them.
        return
    rows, row_centres = _near(min(start[0], end[0]), max(start[0], end[0]), radius, hole.shape[0])
    columns, column_centres = _near(min(start[1], end[1]), max(start[1], end[1]), radius, hole.shape[1])
    below, beside = (row_centres - start[0])[:, None], column_centres - start[1]
    along = below * down + beside * right
    # |across| <= radius * length in integers: products stay below 2^50 up to the largest image.
    across = below * right - beside * down
    band = np.abs(across) <= math.isqrt(radius**2 * squared_length)
    hole[rows, columns] |= band & (along >= 0) & (along <= squared_length)


# Valid values of each option, and of both ends of a range.
_LIMITS: dict[str, Range] = {
    "seed": (0, 2**63 - 1),
    "min": (1, 2**16),
    "max": (1, 2**16),
    "local": (1, 2**16),
    "at": (1, 2**16),
    "count": (1, 64),
    "strokes": (1, 64),
    "vertices": (1, 64),
    "brush": (1, 50),
}
_ORDERED = ("min", "max", "local", "at")  # Each is at most the next.


@dataclasses.dataclass(frozen=True)
class DrawnMasks:
    """The base of all drawn sets; the fields of a set are its options."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            lowest, highest = _LIMITS[field.name]
            ends = value if isinstance(value, tuple) else (value,)
            if not (all(lowest <= end <= highest for end in ends) and list(ends) == sorted(ends)):
                order = ", the smaller first" if len(ends) == 2 else ""
                raise ConfigError(
                    f"mask set {self.name}: {field.name}={_text(value)} is not from {lowest} to {highest}{order}"
                )
        names = [name for name in _ORDERED if hasattr(self, name)]
        lengths = [getattr(self, name) for name in names]
        if lengths != sorted(lengths):
            given = ", ".join(f"{name}={length}" for name, length in zip(names, lengths, strict=True))
            raise ConfigError(f"mask set {self.name}: needs {' <= '.join(names)}, but has {given}")

    @property
    def name(self) -> str:
        fields = dataclasses.fields(self)
        given = [(field.name, getattr(self, field.name), field.default) for field in fields]
        options = [
            f"{name}={_text(value)}" for name, value, default in given if name == "seed" or value != default
        ]
        return f"{self.kind}:{','.join(options)}" if options else self.kind

    @property
    def description(self) -> str:
        return self.name

    @property
    def default_count_and_size(self) -> tuple[int, Size]:
        return 1000, (256, 256)

    def hole(self, index: int, size: Size, original: Size | None = None, image: str = "") -> np.ndarray:
        """Draws a hole; see `MaskSet.hole`. The original size and the image's name have no effect."""
        del original, image
        return self.draw(TextRandom(f"{self.name} {size[0]}x{size[1]} {index}"), size)

    def draw(self, random: TextRandom, size: Size) -> np.ndarray:
        """Draws a hole [H, W] bool of `size` (height, width)."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Paper(DrawnMasks):
    """One rectangle at the centre of a local box, which is uniform over all positions inside the image.

    Height and width are independent. The CelebA setting is "paper:min=48,max=96,local=96,at=160".

    Args:
      seed: Seed of the random numbers.
      min, max: Shortest and longest side in pixels.
      local: Side of the local box in pixels.
      at: The image's shorter side for which these lengths hold; they scale with it.

    Reference: Iizuka et al. 2017, Section 4; `model.masks.rectangle`.
    """

    kind: ClassVar[str] = "paper"
    seed: int = 0
    min: int = 96
    max: int = 128
    local: int = 128
    at: int = 256

    def draw(self, random: TextRandom, size: Size) -> np.ndarray:
        shortest, longest, local = (_scaled(length, size, self.at) for length in (self.min, self.max, self.local))
        corner = [random.integer(0, side - local) for side in size]
        sides = [random.integer(shortest, longest) for _ in size]
        corner = [start + (local - side) // 2 for start, side in zip(corner, sides, strict=True)]
        return _filled(np.zeros(size, bool), corner, sides)


@dataclasses.dataclass(frozen=True)
class Box(DrawnMasks):
    """One square, uniform over all positions inside the image; options as in `Paper`.

    Its sides are those that MMagic publishes with its results; `Mmagic` draws what MMagic's code draws.
    """

    kind: ClassVar[str] = "box"
    seed: int = 0
    min: int = 108
    max: int = 128
    at: int = 256

    def draw(self, random: TextRandom, size: Size) -> np.ndarray:
        square = random.integer(_scaled(self.min, size, self.at), _scaled(self.max, size, self.at))
        corner = [random.integer(0, side - square) for side in size]
        return _filled(np.zeros(size, bool), corner, [square, square])


@dataclasses.dataclass(frozen=True)
class Mmagic(DrawnMasks):
    """One rectangle like the "bbox" masks of MMagic's code for GLCIC.

    A box of 128 px, uniform over all positions at least 20 px from the border (21 at the right and the bottom),
    loses up to 20 px at its top and at its left, independently.

    Reference: open-mmlab/mmagic, `random_bbox` and `bbox2mask`, with the settings of its GLCIC configurations.
    """

    kind: ClassVar[str] = "mmagic"
    seed: int = 0
    at: int = 256

    def draw(self, random: TextRandom, size: Size) -> np.ndarray:
        box, margin = (_scaled(length, size, self.at) for length in (128, 20))
        last = [max(0, side - box - margin - 1) for side in size]
        corner = [random.integer(min(margin, end), end) for end in last]
        taken = [random.integer(0, min(margin, box - 1)) for _ in size]
        start = [one + less for one, less in zip(corner, taken, strict=True)]
        return _filled(np.zeros(size, bool), start, [box - less for less in taken])


@dataclasses.dataclass(frozen=True)
class Centre(DrawnMasks):
    """A square of half the image's shorter side at the centre."""

    kind: ClassVar[str] = "centre"

    def draw(self, random: TextRandom, size: Size) -> np.ndarray:
        del random
        square = _scaled(1, size, at=2)
        return _filled(np.zeros(size, bool), [(side - square) // 2 for side in size], [square, square])


@dataclasses.dataclass(frozen=True)
class Rectangles(DrawnMasks):
    """Several rectangles, each uniform over all positions inside the image; they may overlap.

    Args:
      seed, min, max, at: As in `Paper`.
      count: Minimum and maximum number of rectangles in an image.

    Reference: `model.masks.rectangles`.
    """

    kind: ClassVar[str] = "rectangles"
    seed: int = 0
    count: Range = (2, 4)
    min: int = 32
    max: int = 80
    at: int = 256

    def draw(self, random: TextRandom, size: Size) -> np.ndarray:
        shortest, longest = _scaled(self.min, size, self.at), _scaled(self.max, size, self.at)
        hole = np.zeros(size, bool)
        for _ in range(random.integer(*self.count)):
            sides = [random.integer(shortest, longest) for _ in size]
            corner = [random.integer(0, side - own) for side, own in zip(size, sides, strict=True)]
            _filled(hole, corner, sides)
        return hole


@dataclasses.dataclass(frozen=True)
class FreeForm(DrawnMasks):
    """Strokes of round brushes, see `draw_strokes`.

    Args:
      seed: Seed of the random numbers.
      strokes, vertices, brush: As in `draw_strokes`.

    Reference: `model.masks.free_form`.
    """

    kind: ClassVar[str] = "free_form"
    seed: int = 0
    strokes: Range = (1, 4)
    vertices: Range = (2, 8)
    brush: Range = (5, 16)

    def draw(self, random: TextRandom, size: Size) -> np.ndarray:
        return draw_strokes(random, size, self.strokes, self.vertices, self.brush)


def parse_options(kind: type[Set], options: str | None) -> Set:
    """Creates a set from the options in its name.

    Args:
      kind: The class of the set.
      options: Such as "seed=3,count=2-5"; None: all defaults. A single number for a range is both its ends.

    Raises:
      ConfigError: An option is unknown, given twice, not a number, or out of range.
    """
    known: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(kind)}
    where = f"mask set {kind.kind}"
    if options is not None and not known:
        raise ConfigError(f"{where} has no options: leave out ':{printable(options)}'")
    chosen: dict[str, int | Range] = {}
    for option in options.split(",") if options is not None else ():
        name, _, text = option.partition("=")
        if name not in known:
            raise ConfigError(f"{where} has no option '{printable(name)}': choose from {', '.join(known)}")
        if name in chosen:
            raise ConfigError(f"{where}: {name} is given twice")
        ranged = isinstance(known[name], tuple)
        if not re.fullmatch(r"[0-9]{1,19}(-[0-9]{1,19})?" if ranged else r"[0-9]{1,19}", text):
            example = f"{name}={_text(known[name])}"
            raise ConfigError(f"{where}: {name} is '{printable(text)}': write it as in {example}")
        numbers = [int(number) for number in text.split("-")]
        chosen[name] = (numbers[0], numbers[-1]) if ranged else numbers[0]
    return kind(**chosen)


def _text(value: int | Range) -> str:
    if isinstance(value, tuple):
        return str(value[0]) if value[0] == value[1] else f"{value[0]}-{value[1]}"
    return str(value)


def _scaled(length: int, size: Size, at: int) -> int:
    """Scales a length from images of the shorter side `at` to `size`: rounded, at least 1 px."""
    return max(1, (2 * length * min(size) + at) // (2 * at))


def _filled(hole: np.ndarray, corner: Sequence[int], sides: Sequence[int]) -> np.ndarray:
    """Adds a rectangle to a hole, and returns the hole."""
    hole[corner[0] : corner[0] + sides[0], corner[1] : corner[1] + sides[1]] = True
    return hole

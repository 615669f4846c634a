"""Free-form strokes in whole numbers, so that every machine draws the same pixels.

They are those of `masks.free_form`: round brushes along random walks. Coordinates are in sixteenths of a pixel,
directions in 4096ths of a turn.
"""

import itertools
import math

import numpy as np

from glcic_jax.evaluation.mask_sets.stable_random import TextRandom

Range = tuple[int, int]

_PARTS = 16  # Of a pixel.
_QUARTER = 1024  # Directions in a quarter of a turn.
_BITS = 14  # Of a sine's fraction.
# None lies so near the middle between two whole numbers that another machine's sine would round elsewhere.
SINES = tuple(round(math.sin(math.pi / 2 * step / _QUARTER) * 2**_BITS) for step in range(_QUARTER + 1))
# 1.5 radians.
_LARGEST_TURN = 978
# 0.75 px, so that every stroke covers the centre of some pixel.
_THINNEST = 12


def draw_strokes(
    random: TextRandom, size: tuple[int, int], strokes: Range, vertices: Range, brush: Range
) -> np.ndarray:
    """Paints strokes; each begins anywhere in the image, and runs along its border where it would leave it.

    The straight pieces of a stroke are a sixteenth to a quarter of the image's shorter side long, and turn by up
    to 1.5 radians.

    Args:
      random: Where the numbers come from.
      size: (height, width) in pixels, up to 2^20 each.
      strokes: Fewest and most strokes.
      vertices: Fewest and most straight pieces of each stroke.
      brush: Thinnest and thickest brush (its diameter), in hundredths of the shorter side.

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
    random: TextRandom, size: tuple[int, int], vertices: Range, brush: Range
) -> tuple[list[tuple[int, int]], int]:
    """The corners of a stroke, (row, column), and its radius, all in sixteenths of a pixel."""
    shorter = min(size)
    row, column = (random.integer(0, _PARTS * side - 1) for side in size)
    direction = random.integer(0, 4 * _QUARTER - 1)
    # A hundredth of the side is 16 / 200 of it in sixteenths of a pixel, for the radius.
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


def _inside(row: int, column: int, size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    return min(max(row, 0), _PARTS * (height - 1)), min(max(column, 0), _PARTS * (width - 1))


def _near(lowest: int, highest: int, radius: int, side: int) -> tuple[slice, np.ndarray]:
    """The rows (or columns) of pixels whose centres are at most a radius outside [lowest, highest], and these."""
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
    """Paints what lies beside a piece, without its round ends."""
    down, right = end[0] - start[0], end[1] - start[1]
    squared_length = down**2 + right**2
    if squared_length == 0:  # It has no sides, and everything would lie between them.
        return
    rows, row_centres = _near(min(start[0], end[0]), max(start[0], end[0]), radius, hole.shape[0])
    columns, column_centres = _near(min(start[1], end[1]), max(start[1], end[1]), radius, hole.shape[1])
    below, beside = (row_centres - start[0])[:, None], column_centres - start[1]
    along = below * down + beside * right
    # |across| <= radius * length, with both sides whole: products stay below 2^50 up to the largest image.
    across = below * right - beside * down
    band = np.abs(across) <= math.isqrt(radius**2 * squared_length)
    hole[rows, columns] |= band & (along >= 0) & (along <= squared_length)

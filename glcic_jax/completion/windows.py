"""Where in a picture the completion network looks, and at what size: the strategies.

The network sees at most 307 x 307 px around a pixel (Iizuka et al. 2017, Section 3.2), so a window with that much
around its part of the hole gives what the whole picture would give, however large that is; nearly, where the hole
begins as a smooth fill, which sees farther. Windows begin on multiples of 4, as the network's strides do.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from glcic_jax.errors import ConfigError, lookup
from glcic_jax.model.images import STRIDE

# Half of 307, rounded up to a multiple of the network's stride: what lies further away changes nothing.
CONTEXT = 156


class Box(NamedTuple):
    """A rectangle in a picture, in pixels; `bottom` and `right` are just outside it."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """What cuts it out of an array [H, W, ...]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


class Group(NamedTuple):
    """Holes that are filled together: `part` [box.height, box.width] bool at `box`, seen at `scale`."""

    box: Box
    part: np.ndarray
    scale: float


class Holes:
    """The connected holes of a picture, and how thick each is."""

    def __init__(self, hole: np.ndarray):
        self.shape = hole.shape
        # All that follows happens inside the bounds, with a pixel around them to tell the hole's edge.
        tight = bounds(hole)
        self._frame = grown(tight, 1, hole.shape)
        part = np.ascontiguousarray(hole[self._frame.slices], np.uint8)
        total, self._labels, statistics, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
        self.count = total - 1
        left, top, width, height = statistics[1:, :4].T
        edges = np.stack([top, left, top + height, left + width], axis=1)
        # [count, 4] int: top, left, bottom and right of each, in the picture's pixels.
        self._boxes = edges + np.array([self._frame.top, self._frame.left] * 2)
        self._thickness = self._measure(part)

    def _measure(self, part: np.ndarray) -> np.ndarray:
        """[count] float: how many pixels have to be bridged.

        Twice the distance from the innermost pixel to the nearest that is no hole, less one: the side of a square
        and the width of a stroke, if odd.
        """
        if part.all():
            return np.array([float(max(self.shape))])
        distance = cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        deepest = np.zeros(self.count + 1, np.float32)
        inside = part.astype(bool)
        np.maximum.at(deepest, self._labels[inside], distance[inside])
        return 2.0 * deepest[1:].astype(float) - 1.0

    @property
    def thickness(self) -> np.ndarray:
        """[count] float: of each hole, in pixels."""
        return self._thickness

    def groups(self, scale_for: Callable[[np.ndarray], np.ndarray]) -> Iterator[Group]:
        """Holes whose windows touch, together, if they are reduced alike: no scratch is blurred with others.

        Args:
          scale_for: From thicknesses in pixels to what the holes are reduced by, at most 1.
        """
        scales = scale_for(self._thickness)
        octaves = np.ceil(-np.log2(scales)).astype(int)  # 0: not reduced; 1: to a half at the least; ...
        for octave in np.unique(octaves):
            yield from self._merged(np.flatnonzero(octaves == octave), scales)

    def _merged(self, members: np.ndarray, scales: np.ndarray) -> Iterator[Group]:
        margins = CONTEXT / scales[members, None]
        groups = _touching(_grown(self._boxes[members], margins, self.shape), self.shape)
        regions, smallest = _together(self._boxes[members], scales[members], groups)
        group_of = np.full(self.count + 1, -1)
        group_of[members + 1] = groups
        for group, (edges, scale) in enumerate(zip(regions.tolist(), smallest.tolist(), strict=True)):
            region = Box(*edges)
            labels = self._labels[moved(region, self._frame).slices]
            yield Group(region, group_of[labels] == group, scale)


def bounds(hole: np.ndarray) -> Box:
    """The smallest rectangle that holds all of a hole [H, W], which is not empty."""
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def moved(box: Box, origin: Box) -> Box:
    """As seen from the top left of another."""
    return Box(box.top - origin.top, box.left - origin.left, box.bottom - origin.top, box.right - origin.left)


def grown(box: Box, margin: float, shape: tuple[int, int]) -> Box:
    """With a margin on all sides, begun and ended on the network's stride, inside the picture."""
    return Box(*_grown(np.array([box]), np.array([[margin]]), shape)[0].tolist())


def _grown(boxes: np.ndarray, margins: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The same for [n, 4] boxes with [n, 1] margins."""
    low = np.maximum(0, np.floor((boxes[:, :2] - margins) / STRIDE) * STRIDE)
    high = np.minimum(shape, np.ceil((boxes[:, 2:] + margins) / STRIDE) * STRIDE)
    return np.concatenate([low, high], axis=1).astype(int)


def _together(boxes: np.ndarray, scales: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounds [k, 4] and the smallest scale [k] of each group of boxes [n, 4]."""
    count = int(groups.max()) + 1
    low, high = np.full((count, 2), np.iinfo(np.int64).max), np.zeros((count, 2), np.int64)
    smallest = np.ones(count)
    np.minimum.at(low, groups, boxes[:, :2])
    np.maximum.at(high, groups, boxes[:, 2:])
    np.minimum.at(smallest, groups, scales)
    return np.concatenate([low, high], axis=1), smallest


def _touching(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[n] int: boxes [n, 4] that touch or overlap, or that the bounds of such do, have the same number."""
    groups = np.arange(len(boxes))
    regions = boxes
    while True:
        # Drawn at a quarter of the size: windows begin and end there, and a photograph stays small. Corners are
        # counted, and sums along rows and columns fill the boxes: there may be a hundred thousand.
        quarter = np.concatenate([regions[:, :2] // STRIDE, -(-regions[:, 2:] // STRIDE)], axis=1)
        corners = np.zeros((shape[0] // STRIDE + 2, shape[1] // STRIDE + 2), np.int32)
        for rows, columns, sign in ((0, 1, 1), (0, 3, -1), (2, 1, -1), (2, 3, 1)):
            np.add.at(corners, (quarter[:, rows], quarter[:, columns]), sign)
        canvas = corners.cumsum(axis=0).cumsum(axis=1) > 0
        total, labels = cv2.connectedComponents(canvas.astype(np.uint8), connectivity=4)
        of_region = labels[quarter[:, 0], quarter[:, 1]] - 1
        groups = of_region[groups]
        if total - 1 == len(regions):
            return groups
        regions, _ = _together(regions, np.ones(len(regions)), of_region)


# The authors' release reduces pictures to this long side.
MAX_SIDE = 600
SMALLEST_MAX_SIDE = 64
_SMALLEST_CELL = 72
# A hole may be so much thicker than those trained on before it is reduced; ours.
_TOLERATED = 1.25


class Window(NamedTuple):
    """What the network looks at in one run.

    Attributes:
      box: The part of the picture.
      part: [box.height, box.width] bool, the pixels of the hole that this run fills. Others may be hole too.
      scale: The picture's part is reduced by it before the network sees it; in (0, 1].
    """

    box: Box
    part: np.ndarray
    scale: float

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width that the network sees."""
        return max(1, round(self.box.height * self.scale)), max(1, round(self.box.width * self.scale))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a hole will be filled.

    Attributes:
      strategy: The name in `STRATEGIES` of what is done, never "auto".
      windows: Together their parts are the hole, each of its pixels once.
      reason: What is done and why, in one line.
    """

    strategy: str
    windows: tuple[Window, ...]
    reason: str


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the network is to be used on.

    Attributes:
      largest_hole: Largest side of the holes trained on, in pixels.
      max_side: Longest side that the network is run on at once, in pixels; `original` knows none.

    Raises:
      ConfigError: max_side is too small to leave anything to see around a hole.
    """

    largest_hole: int
    max_side: int = MAX_SIDE

    def __post_init__(self) -> None:
        if isinstance(self.max_side, bool) or not isinstance(self.max_side, int):
            raise ConfigError(f"the longest side is a whole number of pixels, and not {self.max_side!r}")
        if self.max_side < SMALLEST_MAX_SIDE:
            raise ConfigError(
                f"a longest side of {self.max_side} px is too small: give {SMALLEST_MAX_SIDE} or more"
            )

    def scale_for(self, thickness: np.ndarray | float) -> np.ndarray:
        """What holes are reduced by, at most 1; a little thicker than those trained on is not worth the blur."""
        thickness = np.asarray(thickness, np.float64)
        return np.where(thickness <= _TOLERATED * self.largest_hole, 1.0, self.largest_hole / thickness)


def plan(hole: np.ndarray, strategy: str, limits: Limits) -> Plan:
    """Decides what the network looks at.

    Args:
      hole: [H, W] bool.
      strategy: A name in `STRATEGIES`: "original" (the whole picture at its size), "resize" (the whole picture,
        reduced to max_side and until its holes are no thicker than those trained on), "crop" (windows around the
        holes, reduced only where a hole is thicker than those trained on) or "auto" (one of them).
      limits: What the weights were trained on, and what the memory allows.

    Raises:
      ConfigError: The strategy is unknown.
    """
    chosen = lookup(STRATEGIES, strategy, "strategy")
    if not hole.any():
        return Plan("original", (), "nothing to fill: the hole is empty")
    return chosen(hole, limits)


def _whole(hole: np.ndarray, scale: float) -> tuple[Window, ...]:
    return (Window(Box(0, 0, *hole.shape), hole, scale),)


def _original(hole: np.ndarray, limits: Limits) -> Plan:
    del limits
    height, width = hole.shape
    return Plan("original", _whole(hole, 1.0), f"the whole picture at its size, {width} x {height} px")


def _resize(hole: np.ndarray, limits: Limits) -> Plan:
    fitting = min(1.0, limits.max_side / max(hole.shape))
    thickness = Holes(hole).thickness.max()
    scale = min(fitting, float(limits.scale_for(thickness)))
    windows = _whole(hole, scale)
    height, width = windows[0].network_size
    reason = f"the whole picture at {width} x {height} px"
    if scale < fitting:
        reason += (
            f", where its hole of {thickness:.0f} px is as thick as those trained on, {limits.largest_hole} px"
        )
    return Plan("resize", windows, reason)


def _crop(hole: np.ndarray, limits: Limits) -> Plan:
    holes = Holes(hole)
    windows = tuple(
        window for group in holes.groups(limits.scale_for) for window in _cells(group, hole.shape, limits.max_side)
    )
    height, width = np.max([window.network_size for window in windows], axis=0)
    reason = (
        f"{_counted(len(windows), 'window')} around {_counted(holes.count, 'hole')}, up to {width} x {height} px"
    )
    if any(window.scale < 1 for window in windows):
        smallest, thickest = min(window.scale for window in windows), holes.thickness.max()
        reason += (
            f", reduced to {100 * smallest:.0f} % where a hole ({thickest:.0f} px) is thicker than those "
            f"trained on ({limits.largest_hole} px)"
        )
    return Plan("crop", windows, reason)


def _auto(hole: np.ndarray, limits: Limits) -> Plan:
    longest = max(hole.shape)
    scales = limits.scale_for(Holes(hole).thickness)
    if scales.min() == 1 and longest <= limits.max_side:
        chosen, why = _original, f"its long side is at most {limits.max_side} px"
    elif scales.max() < 1 and scales.max() <= 2 * scales.min() and longest * scales.max() <= limits.max_side:
        chosen, why = _resize, "all holes are thicker than those trained on"
    elif longest <= limits.max_side:
        chosen, why = _crop, "some holes are thicker than those trained on, and others are not so thick"
    else:
        chosen, why = _crop, f"the picture's long side is {longest} px, above {limits.max_side}"
    decided = chosen(hole, limits)
    return dataclasses.replace(decided, reason=f"{decided.reason} (chosen because {why})")


def _cells(group: Group, shape: tuple[int, int], max_side: int) -> Iterator[Window]:
    """One window, or where that would be longer than `max_side` a grid of overlapping ones."""
    # Where max_side leaves no room for all that matters, cells see less around them.
    context = min(CONTEXT, max(max_side // 3, (max_side - _SMALLEST_CELL) // 2) // STRIDE * STRIDE)
    whole = grown(group.box, CONTEXT / group.scale, shape)
    if max(whole.height, whole.width) * group.scale <= max_side:
        yield _window(whole, group, group.box)
        return
    side = int((max_side - 2 * context - 2 * STRIDE) / group.scale)
    for top, bottom in _pieces(group.box.top, group.box.bottom, side):
        for left, right in _pieces(group.box.left, group.box.right, side):
            cell = Box(top, left, bottom, right)
            inside = group.part[moved(cell, group.box).slices]
            if inside.any():
                tight = moved(bounds(inside), Box(-top, -left, 0, 0))
                yield _window(grown(tight, context / group.scale, shape), group, tight)


def _window(box: Box, group: Group, region: Box) -> Window:
    """A window that fills what lies of a group inside a region."""
    part = np.zeros((box.height, box.width), bool)
    part[moved(region, box).slices] = group.part[moved(region, group.box).slices]
    return Window(box, part, group.scale)


def _pieces(start: int, stop: int, longest: int) -> list[tuple[int, int]]:
    """Cuts a stretch into pieces as equal as can be."""
    count = math.ceil((stop - start) / longest)
    edges = [start + (stop - start) * index // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


STRATEGIES: dict[str, Callable[[np.ndarray, Limits], Plan]] = {
    "auto": _auto,
    "original": _original,
    "resize": _resize,
    "crop": _crop,
}

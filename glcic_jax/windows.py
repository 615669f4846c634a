"""Where in a picture the completion network looks, and at what size: the strategies.

The network sees at most 307 x 307 px around a pixel (Iizuka et al. 2017, Section 3.2), so a window with that much
around its part of the hole gives what the whole picture would give, however large that is. Windows begin on
multiples of 4, as the network's strides do.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from glcic_jax.errors import ConfigError, lookup

# Half of 307, rounded up to a multiple of the network's stride: what lies further away changes nothing.
CONTEXT = 156
STRIDE = 4
# The authors' release reduces pictures to this long side.
MAX_SIDE = 600
SMALLEST_MAX_SIDE = 64


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
        if self.max_side < SMALLEST_MAX_SIDE:
            raise ConfigError(
                f"a longest side of {self.max_side} px is too small: give {SMALLEST_MAX_SIDE} or more"
            )


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


def bounds(hole: np.ndarray) -> Box:
    """The smallest rectangle that holds all of a hole [H, W], which is not empty."""
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _whole(hole: np.ndarray, scale: float) -> tuple[Window, ...]:
    return (Window(Box(0, 0, *hole.shape), hole, scale),)


def _original(hole: np.ndarray, limits: Limits) -> Plan:
    del limits
    height, width = hole.shape
    return Plan("original", _whole(hole, 1.0), f"the whole picture at its size, {width} x {height} px")


def _resize(hole: np.ndarray, limits: Limits) -> Plan:
    fitting = min(1.0, limits.max_side / max(hole.shape))
    thickness = _Holes(hole).thickest
    scale = min(fitting, limits.largest_hole / thickness)
    windows = _whole(hole, scale)
    height, width = windows[0].network_size
    reason = f"the whole picture at {width} x {height} px"
    if scale < fitting:
        reason += (
            f", where its hole of {thickness:.0f} px is as thick as those trained on, {limits.largest_hole} px"
        )
    return Plan("resize", windows, reason)


def _crop(hole: np.ndarray, limits: Limits) -> Plan:
    holes = _Holes(hole)
    windows = tuple(
        window for group in holes.groups(limits) for window in _cells(group, hole.shape, limits.max_side)
    )
    height, width = np.max([window.network_size for window in windows], axis=0)
    reason = (
        f"{_counted(len(windows), 'window')} around {_counted(holes.count, 'hole')}, up to {width} x {height} px"
    )
    if any(window.scale < 1 for window in windows):
        smallest = min(window.scale for window in windows)
        reason += (
            f", reduced to {100 * smallest:.0f} % where a hole ({holes.thickest:.0f} px) is thicker than those "
            f"trained on ({limits.largest_hole} px)"
        )
    return Plan("crop", windows, reason)


def _auto(hole: np.ndarray, limits: Limits) -> Plan:
    longest = max(hole.shape)
    scale = min(1.0, limits.largest_hole / _Holes(hole).thickest)
    if longest * scale > limits.max_side:
        chosen, why = _crop, f"the picture's long side is {longest} px, above {limits.max_side}"
    elif scale < 1:
        chosen, why = _resize, "the hole is thicker than those trained on"
    else:
        chosen, why = _original, f"its long side is at most {limits.max_side} px"
    decided = chosen(hole, limits)
    return dataclasses.replace(decided, reason=f"{decided.reason} (chosen because {why})")


class _Group(NamedTuple):
    """Holes that are filled together: `part` [box.height, box.width] bool at `box`, seen at `scale`."""

    box: Box
    part: np.ndarray
    scale: float


class _Holes:
    """The connected holes of a picture, and how thick each is."""

    def __init__(self, hole: np.ndarray):
        self.shape = hole.shape
        # All that follows happens inside the bounds, with a pixel around them to tell the hole's edge.
        tight = bounds(hole)
        self._frame = _grown(tight, 1, hole.shape)
        part = np.ascontiguousarray(hole[self._frame.slices], np.uint8)
        total, self._labels, statistics, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
        self.count = total - 1
        self._boxes = statistics[1:, [cv2.CC_STAT_TOP, cv2.CC_STAT_LEFT, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH]]
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
    def thickest(self) -> float:
        """In pixels."""
        return float(self._thickness.max())

    def groups(self, limits: Limits) -> Iterator[_Group]:
        """Holes whose windows touch, together; those to be reduced apart from those that are not."""
        scales = np.minimum(1.0, limits.largest_hole / self._thickness)
        for members in (np.flatnonzero(scales == 1), np.flatnonzero(scales < 1)):
            yield from self._merged(members, scales)

    def _merged(self, members: np.ndarray, scales: np.ndarray) -> Iterator[_Group]:
        if not len(members):
            return
        boxes = [self._window(member, scales[member]) for member in members]
        groups = _touching(boxes, self.shape)
        for group in range(groups.max() + 1):
            chosen = members[groups == group]
            wanted = np.zeros(self.count + 1, bool)
            wanted[chosen + 1] = True
            region = _around([self._box(member) for member in chosen])
            top, left = self._frame.top, self._frame.left
            inside = self._labels[region.top - top : region.bottom - top, region.left - left : region.right - left]
            yield _Group(region, wanted[inside], float(scales[chosen].min()))

    def _box(self, member: int) -> Box:
        """In the picture's pixels."""
        top, left, height, width = (int(value) for value in self._boxes[member])
        top, left = top + self._frame.top, left + self._frame.left
        return Box(top, left, top + height, left + width)

    def _window(self, member: int, scale: float) -> Box:
        return _grown(self._box(member), CONTEXT / scale, self.shape)


def _touching(boxes: list[Box], shape: tuple[int, int]) -> np.ndarray:
    """[len(boxes)] int: boxes that touch or overlap, or that the bounds of such do, have the same number."""
    groups = np.arange(len(boxes))
    regions = boxes
    while True:
        # Drawn at a quarter of the size: windows begin and end there, and a photograph stays small.
        canvas = np.zeros((shape[0] // STRIDE + 1, shape[1] // STRIDE + 1), np.uint8)
        for region in regions:
            canvas[
                region.top // STRIDE : -(-region.bottom // STRIDE),
                region.left // STRIDE : -(-region.right // STRIDE),
            ] = 1
        total, labels = cv2.connectedComponents(canvas, connectivity=4)
        of_region = np.array([labels[region.top // STRIDE, region.left // STRIDE] - 1 for region in regions])
        groups = of_region[groups]
        if total - 1 == len(regions):
            return groups
        regions = [
            _around([region for region, label in zip(regions, of_region, strict=True) if label == group])
            for group in range(total - 1)
        ]


def _cells(group: _Group, shape: tuple[int, int], max_side: int) -> Iterator[Window]:
    """One window, or where that would be longer than `max_side` a grid of overlapping ones."""
    # Less to see at the cells' edges where max_side leaves no room for all that matters.
    context = min(CONTEXT, max_side // 3 // STRIDE * STRIDE)
    whole = _grown(group.box, CONTEXT / group.scale, shape)
    if max(whole.height, whole.width) * group.scale <= max_side:
        yield _window(whole, group, group.box)
        return
    side = int((max_side - 2 * context - 2 * STRIDE) / group.scale)
    for top, bottom in _pieces(group.box.top, group.box.bottom, side):
        for left, right in _pieces(group.box.left, group.box.right, side):
            cell = Box(top, left, bottom, right)
            inside = group.part[_moved(cell, group.box).slices]
            if inside.any():
                tight = _moved(bounds(inside), Box(-top, -left, 0, 0))
                yield _window(_grown(tight, context / group.scale, shape), group, tight)


def _window(box: Box, group: _Group, region: Box) -> Window:
    """A window that fills what lies of a group inside a region."""
    part = np.zeros((box.height, box.width), bool)
    part[_moved(region, box).slices] = group.part[_moved(region, group.box).slices]
    return Window(box, part, group.scale)


def _pieces(start: int, stop: int, longest: int) -> list[tuple[int, int]]:
    """Cuts a stretch into pieces as equal as can be."""
    count = math.ceil((stop - start) / longest)
    edges = [start + (stop - start) * index // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def _moved(box: Box, origin: Box) -> Box:
    """As seen from the top left of another."""
    return Box(box.top - origin.top, box.left - origin.left, box.bottom - origin.top, box.right - origin.left)


def _grown(box: Box, margin: float, shape: tuple[int, int]) -> Box:
    """With a margin on all sides, begun and ended on the network's stride, inside the picture."""
    top, left = (max(0, math.floor((edge - margin) / STRIDE) * STRIDE) for edge in box[:2])
    bottom, right = (
        min(limit, math.ceil((edge + margin) / STRIDE) * STRIDE)
        for edge, limit in zip(box[2:], shape, strict=True)
    )
    return Box(top, left, bottom, right)


def _around(boxes: list[Box]) -> Box:
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return Box(min(tops), min(lefts), max(bottoms), max(rights))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


STRATEGIES: dict[str, Callable[[np.ndarray, Limits], Plan]] = {
    "auto": _auto,
    "original": _original,
    "resize": _resize,
    "crop": _crop,
}

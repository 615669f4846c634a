"""Plans the windows of an image that the completion network sees, and their scale.

The receptive field is 307 x 307 px (Iizuka et al. 2017, Section 3.2): a window with that much context around its
part of the hole gives the same result as the whole image. With a smooth initial fill, which depends on more
distant pixels, the results agree only approximately. Windows are aligned to the network's stride of 4 px.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from glcic_jax.errors import ConfigError, lookup

STRIDE = 4  # Sides of the network's input are multiples of it.
# Half the receptive field, rounded up to a multiple of the stride.
CONTEXT = 156
# The authors' release resizes images to this long side.
MAX_SIDE = 600
SMALLEST_MAX_SIDE = 64
_SMALLEST_CELL = 72
# Holes up to this factor thicker than the training holes are not downscaled (our choice).
_THICKNESS_TOLERANCE = 1.25


class Box(NamedTuple):
    """A rectangle in an image, in pixels; `bottom` and `right` are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices for an array [H, W, ...]."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def relative_to(self, origin: "Box") -> "Box":
        """Returns the rectangle in the coordinates of another box."""
        return Box(
            self.top - origin.top, self.left - origin.left, self.bottom - origin.top, self.right - origin.left
        )

    def expand(self, margin: float, shape: tuple[int, int]) -> "Box":
        """Adds a margin in pixels on all sides, aligns to the stride and clips to an image of `shape` (H, W)."""
        return Box(*_expand(np.array([self]), np.array([[margin]]), shape)[0].tolist())


class Window(NamedTuple):
    """One run of the network.

    Attributes:
      box: The part of the image that the network sees.
      fill_mask: [box.height, box.width] bool, the hole pixels that this run fills; the box may hold other ones.
      scale: Scale at which the network sees the box, in (0, 1].
    """

    box: Box
    fill_mask: np.ndarray
    scale: float

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return max(1, round(self.box.height * self.scale)), max(1, round(self.box.width * self.scale))


@dataclasses.dataclass(frozen=True)
class CompletionPlan:
    """How a hole will be filled.

    Attributes:
      strategy: A name in `STRATEGIES`, never "auto".
      windows: Their fill masks partition the hole.
      reason: What is done and why, in one line.
    """

    strategy: str
    windows: tuple[Window, ...]
    reason: str


@dataclasses.dataclass(frozen=True)
class WindowLimits:
    """Limits of the windows.

    Attributes:
      largest_hole: Largest side of the training holes, in pixels.
      max_side: Longest side of the network's input, in pixels; ignored by "original".

    Raises:
      ConfigError: max_side is not a whole number, or too small.
    """

    largest_hole: int
    max_side: int = MAX_SIDE

    def __post_init__(self) -> None:
        if isinstance(self.max_side, bool) or not isinstance(self.max_side, int):
            raise ConfigError(f"the longest side is a whole number of pixels, not {self.max_side!r}")
        if self.max_side < SMALLEST_MAX_SIDE:
            raise ConfigError(
                f"a longest side of {self.max_side} px is too small: give {SMALLEST_MAX_SIDE} or more"
            )

    def scale_for(self, thickness: np.ndarray | float) -> np.ndarray:
        """Returns the scale, at most 1, at which holes of a thickness in pixels are as thick as training holes."""
        thickness = np.asarray(thickness, np.float64)
        return np.where(thickness <= _THICKNESS_TOLERANCE * self.largest_hole, 1.0, self.largest_hole / thickness)


def plan_completion(hole: np.ndarray, strategy: str, limits: WindowLimits) -> CompletionPlan:
    """Plans the windows that fill a hole.

    Args:
      hole: [H, W] bool.
      strategy: A name in `STRATEGIES`: "original" (the whole image at full size), "resize" (the whole image,
        downscaled to max_side and until its holes are no thicker than the training holes), "crop" (windows around
        the holes, downscaled only where a hole is thicker than the training holes) or "auto" (one of these).
      limits: Limits of the windows.

    Raises:
      ConfigError: The strategy is unknown.
    """
    chosen = lookup(STRATEGIES, strategy, "strategy")
    if not hole.any():
        return CompletionPlan("original", (), "nothing to fill: the hole is empty")
    return chosen(hole, limits)


def bounds(hole: np.ndarray) -> Box:
    """Returns the bounding box of a non-empty hole [H, W] bool."""
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


class _HoleGroup(NamedTuple):
    """Hole components that share windows: `mask` [box.height, box.width] bool at `box`, seen at `scale`."""

    box: Box
    mask: np.ndarray
    scale: float


class _HoleComponents:
    """The 8-connected components of a hole [H, W] bool.

    Attributes:
      count: Number of components.
      thickness: [count] float, in pixels: twice the distance from the innermost pixel to the nearest known pixel,
        minus one; the side of a square and the width of a stroke, if odd.
    """

    def __init__(self, hole: np.ndarray):
        import cv2

        self._shape = hole.shape
        # The distance transform needs known pixels around the hole.
        self._frame = bounds(hole).expand(1, hole.shape)
        part = np.ascontiguousarray(hole[self._frame.slices], np.uint8)
        total, self._labels, statistics, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
        self.count = total - 1
        left, top, width, height = statistics[1:, :4].T
        edges = np.stack([top, left, top + height, left + width], axis=1)
        self._boxes = edges + np.array([self._frame.top, self._frame.left] * 2)
        if part.all():
            self.thickness = np.array([float(max(hole.shape))])
            return
        distance = cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        deepest = np.zeros(total, np.float32)
        inside = part.astype(bool)
        np.maximum.at(deepest, self._labels[inside], distance[inside])
        self.thickness = 2.0 * deepest[1:].astype(float) - 1.0

    def groups(self, limits: WindowLimits) -> Iterator[_HoleGroup]:
        """Groups components whose windows touch and whose scales lie in the same octave.

        A thin scratch is thus not downscaled together with a thick hole.
        """
        scales = limits.scale_for(self.thickness)
        octaves = np.ceil(-np.log2(scales)).astype(int)  # 0: full size; 1: at least half size; ...
        for octave in np.unique(octaves):
            members = np.flatnonzero(octaves == octave)
            margins = CONTEXT / scales[members, None]
            groups = _touching(_expand(self._boxes[members], margins, self._shape), self._shape)
            regions, smallest = _merge(self._boxes[members], scales[members], groups)
            group_of = np.full(self.count + 1, -1)
            group_of[members + 1] = groups
            for group, (edges, scale) in enumerate(zip(regions.tolist(), smallest.tolist(), strict=True)):
                box = Box(*edges)
                labels = self._labels[box.relative_to(self._frame).slices]
                yield _HoleGroup(box, group_of[labels] == group, scale)


def _expand(boxes: np.ndarray, margins: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Expands boxes [n, 4] int by margins [n, 1] as `Box.expand` does; returns [n, 4] int."""
    low = np.maximum(0, np.floor((boxes[:, :2] - margins) / STRIDE) * STRIDE)
    high = np.minimum(shape, np.ceil((boxes[:, 2:] + margins) / STRIDE) * STRIDE)
    return np.concatenate([low, high], axis=1).astype(int)


def _merge(boxes: np.ndarray, scales: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounding box [k, 4] and the smallest scale [k] of each group of boxes [n, 4]."""
    count = int(groups.max()) + 1
    low, high = np.full((count, 2), np.iinfo(np.int64).max), np.zeros((count, 2), np.int64)
    smallest = np.ones(count)
    np.minimum.at(low, groups, boxes[:, :2])
    np.maximum.at(high, groups, boxes[:, 2:])
    np.minimum.at(smallest, groups, scales)
    return np.concatenate([low, high], axis=1), smallest


def _touching(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Groups boxes [n, 4] that touch or overlap, or whose groups' bounds do; returns group numbers [n] int."""
    import cv2

    groups = np.arange(len(boxes))
    regions = boxes
    while True:
        # There may be 100,000 boxes: draw them at a quarter of the size, where windows are aligned, by marking
        # their corners and summing along rows and columns.
        quarter = np.concatenate([regions[:, :2] // STRIDE, -(-regions[:, 2:] // STRIDE)], axis=1)
        corners = np.zeros((shape[0] // STRIDE + 2, shape[1] // STRIDE + 2), np.int32)
        for rows, columns, sign in ((0, 1, 1), (0, 3, -1), (2, 1, -1), (2, 3, 1)):
            np.add.at(corners, (quarter[:, rows], quarter[:, columns]), sign)
        canvas = corners.cumsum(axis=0).cumsum(axis=1) > 0
        total, labels = cv2.connectedComponents(canvas.astype(np.uint8), connectivity=4)
        region_groups = labels[quarter[:, 0], quarter[:, 1]] - 1
        groups = region_groups[groups]
        if total - 1 == len(regions):
            return groups
        regions, _ = _merge(regions, np.ones(len(regions)), region_groups)


def _group_windows(group: _HoleGroup, shape: tuple[int, int], max_side: int) -> Iterator[Window]:
    """Yields one window, or a grid of overlapping ones if that would exceed `max_side`."""
    whole = group.box.expand(CONTEXT / group.scale, shape)
    if max(whole.height, whole.width) * group.scale <= max_side:
        yield _window(whole, group, group.box)
        return
    # With a small max_side the cells see less context.
    context = min(CONTEXT, max(max_side // 3, (max_side - _SMALLEST_CELL) // 2) // STRIDE * STRIDE)
    side = int((max_side - 2 * context - 2 * STRIDE) / group.scale)
    for top, bottom in _split(group.box.top, group.box.bottom, side):
        for left, right in _split(group.box.left, group.box.right, side):
            cell = Box(top, left, bottom, right)
            inside = group.mask[cell.relative_to(group.box).slices]
            if inside.any():
                tight = bounds(inside).relative_to(Box(-top, -left, 0, 0))
                yield _window(tight.expand(context / group.scale, shape), group, tight)


def _window(box: Box, group: _HoleGroup, region: Box) -> Window:
    """Returns a window at `box` that fills the group's pixels inside `region`."""
    fill_mask = np.zeros((box.height, box.width), bool)
    fill_mask[region.relative_to(box).slices] = group.mask[region.relative_to(group.box).slices]
    return Window(box, fill_mask, group.scale)


def _split(start: int, stop: int, longest: int) -> list[tuple[int, int]]:
    """Splits a range into nearly equal parts of at most `longest`."""
    count = math.ceil((stop - start) / longest)
    edges = [start + (stop - start) * index // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _original(hole: np.ndarray, limits: WindowLimits) -> CompletionPlan:
    del limits
    height, width = hole.shape
    window = Window(Box(0, 0, height, width), hole, 1.0)
    return CompletionPlan("original", (window,), f"the whole image at full size, {width} x {height} px")


def _resize(hole: np.ndarray, limits: WindowLimits) -> CompletionPlan:
    max_side_scale = min(1.0, limits.max_side / max(hole.shape))
    thickness = _HoleComponents(hole).thickness.max()
    scale = min(max_side_scale, float(limits.scale_for(thickness)))
    window = Window(Box(0, 0, *hole.shape), hole, scale)
    height, width = window.network_size
    reason = f"the whole image at {width} x {height} px"
    if scale < max_side_scale:
        reason += (
            f", where its hole of {thickness:.0f} px is as thick as the training holes, {limits.largest_hole} px"
        )
    return CompletionPlan("resize", (window,), reason)


def _crop(hole: np.ndarray, limits: WindowLimits) -> CompletionPlan:
    components = _HoleComponents(hole)
    windows = tuple(
        window
        for group in components.groups(limits)
        for window in _group_windows(group, hole.shape, limits.max_side)
    )
    height, width = np.max([window.network_size for window in windows], axis=0)
    reason = (
        f"{_counted(len(windows), 'window')} around {_counted(components.count, 'hole')}, "
        f"up to {width} x {height} px"
    )
    smallest = min(window.scale for window in windows)
    if smallest < 1:
        reason += (
            f", reduced to {100 * smallest:.0f} % where a hole ({components.thickness.max():.0f} px) is thicker "
            f"than the training holes ({limits.largest_hole} px)"
        )
    return CompletionPlan("crop", windows, reason)


def _auto(hole: np.ndarray, limits: WindowLimits) -> CompletionPlan:
    longest = max(hole.shape)
    scales = limits.scale_for(_HoleComponents(hole).thickness)
    if scales.min() == 1 and longest <= limits.max_side:
        chosen, why = _original, f"its long side is at most {limits.max_side} px"
    elif scales.max() < 1 and scales.max() <= 2 * scales.min() and longest * scales.max() <= limits.max_side:
        chosen, why = _resize, "all holes are thicker than the training holes"
    elif longest <= limits.max_side:
        chosen, why = _crop, "only some holes are thicker than the training holes"
    else:
        chosen, why = _crop, f"the image's long side is {longest} px, above {limits.max_side}"
    plan = chosen(hole, limits)
    return dataclasses.replace(plan, reason=f"{plan.reason} (chosen because {why})")


STRATEGIES: dict[str, Callable[[np.ndarray, WindowLimits], CompletionPlan]] = {
    "auto": _auto,
    "original": _original,
    "resize": _resize,
    "crop": _crop,
}

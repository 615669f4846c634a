"""The connected holes of a picture: how thick each is, and which are near enough to share a window."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

# Half of 307, rounded up to a multiple of the network's stride: what lies further away changes nothing.
CONTEXT = 156
STRIDE = 4
_SMALLEST_BUCKET = 16


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


def bucket(side: int) -> int:
    """The padded side: a multiple of a quarter of the power of two below, so that few sizes are compiled."""
    step = max(_SMALLEST_BUCKET, 1 << max(0, side.bit_length() - 3))
    return -(-side // step) * step

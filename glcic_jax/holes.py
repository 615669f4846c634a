"""The connected holes of a picture: how thick each is, and which are near enough to share a window."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

# Half of 307, rounded up to a multiple of the network's stride: what lies further away changes nothing.
CONTEXT = 156
STRIDE = 4


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

    def groups(self, scale_for: Callable[[np.ndarray], np.ndarray]) -> Iterator[Group]:
        """Holes whose windows touch, together; those to be reduced apart from those that are not.

        Args:
          scale_for: From thicknesses in pixels to what the holes are reduced by.
        """
        scales = scale_for(self._thickness)
        for members in (np.flatnonzero(scales == 1), np.flatnonzero(scales < 1)):
            yield from self._merged(members, scales)

    def _merged(self, members: np.ndarray, scales: np.ndarray) -> Iterator[Group]:
        if not len(members):
            return
        boxes = [self._window(member, scales[member]) for member in members]
        groups = _touching(boxes, self.shape)
        for group in range(groups.max() + 1):
            chosen = members[groups == group]
            wanted = np.zeros(self.count + 1, bool)
            wanted[chosen + 1] = True
            region = around([self._box(member) for member in chosen])
            top, left = self._frame.top, self._frame.left
            inside = self._labels[region.top - top : region.bottom - top, region.left - left : region.right - left]
            yield Group(region, wanted[inside], float(scales[chosen].min()))

    def _box(self, member: int) -> Box:
        """In the picture's pixels."""
        top, left, height, width = (int(value) for value in self._boxes[member])
        top, left = top + self._frame.top, left + self._frame.left
        return Box(top, left, top + height, left + width)

    def _window(self, member: int, scale: float) -> Box:
        return grown(self._box(member), CONTEXT / scale, self.shape)


def bounds(hole: np.ndarray) -> Box:
    """The smallest rectangle that holds all of a hole [H, W], which is not empty."""
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def moved(box: Box, origin: Box) -> Box:
    """As seen from the top left of another."""
    return Box(box.top - origin.top, box.left - origin.left, box.bottom - origin.top, box.right - origin.left)


def grown(box: Box, margin: float, shape: tuple[int, int]) -> Box:
    """With a margin on all sides, begun and ended on the network's stride, inside the picture."""
    top, left = (max(0, math.floor((edge - margin) / STRIDE) * STRIDE) for edge in box[:2])
    bottom, right = (
        min(limit, math.ceil((edge + margin) / STRIDE) * STRIDE)
        for edge, limit in zip(box[2:], shape, strict=True)
    )
    return Box(top, left, bottom, right)


def around(boxes: list[Box]) -> Box:
    """The smallest rectangle that holds all of them."""
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return Box(min(tops), min(lefts), max(bottoms), max(rights))


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
            around([region for region, label in zip(regions, of_region, strict=True) if label == group])
            for group in range(total - 1)
        ]

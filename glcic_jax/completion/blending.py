"""Blends a completion into its image: fast marching near the hole's edge, then Poisson blending; on the CPU."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from glcic_jax.completion import poisson
from glcic_jax.completion.windows import bounds
from glcic_jax.errors import DataError

# OpenCV's seamlessClone, which the authors call, erodes its mask three times by 3 x 3 pixels: up to this distance
# from the hole's edge the gradients are those of the fast marching fill.
_RING = 3
# The authors' radius of fast marching.
_MARCHING_RADIUS = 1.0
# Fast marching fills from the edge inwards, so the ring is the same if the middle of a large hole counts as known,
# as long as the front from the middle arrives later than the one from the edge.
_MARCHED = 16
# OpenCV adds up to 1.4 units to every pixel that it fills (its gradient term is normalised). In 8 bits that is
# noise of one or two grey levels; in this unit it is negligible.
_MARCHING_UNIT = 2.0**24
# Fast marching reads fewer pixels than this around the hole.
_MARGIN = 4
# "auto" blends parts of a hole that are at least this thick in pixels. In thinner parts,
# which are mostly the fast marching fill, the error rises; in thicker ones it falls a little (the room's manual).
_THICK = 12
# "auto" leaves larger parts, in pixels, as they are: the equations of a million pixels take several seconds.
_LARGE = 1_000_000
# Fixed cost of one more window, as a number of pixels.
_WINDOW_COST = 20_000


def blend(image: np.ndarray, completed: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Blends a completion seamlessly into its image.

    The result matches the image at the hole's edge. It has the gradients of the completion, but within three
    pixels of the edge those of a fast marching fill, so a hole up to six pixels wide becomes that fill.
    Where the hole touches the image border there is no boundary condition. An image that is all hole keeps the
    completion.

    The equations are solved on the hole's pixels only. OpenCV's seamlessClone solves on the bounding box, changes
    pixels outside the hole and fails at the image border.

    Args:
      image: [H, W, 3] float32 in [0, 1]; values inside the hole are ignored.
      completed: [H, W, 3] float32 in [0, 1]; values outside the hole are ignored.
      hole: [H, W] bool.

    Returns:
      [H, W, 3] float32 in [0, 1]; bit-identical to the image outside the hole.

    Raises:
      DataError: The completion is not finite inside the hole, or the image is not finite beside it.
      ValueError: The shapes do not match.

    References: Iizuka et al. 2017, Section 3 (post-processing); Telea 2004; Perez, Gangnet and Blake 2003,
    "Poisson image editing".
    """
    if image.shape != completed.shape or image.shape != (*hole.shape, 3):
        raise ValueError(f"image {image.shape}, completed {completed.shape} and hole {hole.shape} do not fit")
    result = image.copy()
    for window, part in _windows(hole):
        fill = completed[window][part]
        _require_finite(fill, "the completion inside the hole (damaged weights?)")
        if not part.all():
            known = np.where(hole[window][..., None], np.float32(0), image[window])
            fill = fill + _correction(known, completed[window], part)
        result[window][part] = np.clip(fill, 0.0, 1.0)
    return result


def thick_parts(hole: np.ndarray) -> np.ndarray:
    """Returns the parts of a hole [H, W] bool that are at least 12 px thick and at most a million px large.

    The thickness of a connected part is twice the distance from its innermost pixel to its edge.
    """
    binary = hole.astype(np.uint8)
    _, label, boxes, _ = cv2.connectedComponentsWithStats(binary, connectivity=8)
    chosen = boxes[:, cv2.CC_STAT_AREA] <= _LARGE
    thick = np.zeros(len(boxes), bool)
    thick[label[cv2.distanceTransform(binary, cv2.DIST_L2, cv2.DIST_MASK_5) >= _THICK / 2]] = True
    return (chosen & thick)[label] & hole


def _require_finite(values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        raise DataError(f"cannot blend: {what} has values that are not finite numbers")


def _windows(hole: np.ndarray) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Splits a hole [H, W] bool into windows with a margin, if that is less work than one window.

    Yields:
      `(window, part)`: row and column slices, and [h, w] bool, the hole's pixels that belong to the window.
    """
    if not hole.any():
        return
    height, width = hole.shape
    box = bounds(hole)
    top, left = max(box.top - _MARGIN, 0), max(box.left - _MARGIN, 0)
    whole = slice(top, min(box.bottom + _MARGIN, height)), slice(left, min(box.right + _MARGIN, width))
    # Parts whose margins touch share a window.
    near = cv2.dilate(hole[whole].astype(np.uint8), _square(_MARGIN))
    _, label, boxes, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    boxes = boxes[1:]  # The first is the background.
    areas = boxes[:, cv2.CC_STAT_WIDTH].astype(np.int64) * boxes[:, cv2.CC_STAT_HEIGHT]
    if (areas + _WINDOW_COST).sum() >= near.size + _WINDOW_COST:
        yield whole, hole[whole]
        return
    for number, (x, y, width, height, _) in enumerate(boxes, 1):
        window = slice(top + y, top + y + height), slice(left + x, left + x + width)
        yield window, hole[window] & (label[y : y + height, x : x + width] == number)


def _square(radius: int) -> np.ndarray:
    """Returns a structuring element that erodes or dilates by `radius` pixels in all eight directions."""
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def _correction(known: np.ndarray, completed: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Returns the difference to add to a completion so that it matches the image at the hole's edge.

    Args:
      known: [h, w, 3] float32, the image; finite but arbitrary inside the hole.
      completed: [h, w, 3] float32.
      hole: [h, w] bool; neither empty nor all True.

    Returns:
      [n, 3] float64 for the n pixels of the hole, in row-major order.
    """
    binary = hole.astype(np.uint8)
    middle = cv2.erode(binary, _square(_RING)).astype(bool)  # The image border does not erode in OpenCV.
    # The ring, and one pixel more for the differences across the ring's inner edge.
    needed = hole & ~cv2.erode(binary, _square(_RING + 1)).astype(bool)
    marched = _march(known, binary - cv2.erode(binary, _square(_MARCHED)))
    difference = np.where(needed[..., None], marched - completed, np.float32(0))

    # Parts without a middle are the fast marching fill itself: nothing to solve.
    _, label = cv2.connectedComponents(binary, connectivity=4)
    has_middle = np.zeros(label.max() + 1, bool)
    has_middle[label[middle]] = True
    unknown = has_middle[label] & hole
    result = difference[hole].astype(np.float64)
    if unknown.any():
        right = [_right_side(difference[..., channel], middle)[unknown] for channel in range(3)]
        result[unknown[hole]] = poisson.solve(unknown, np.stack(right, axis=-1))
    return result


def _march(known: np.ndarray, near_edge: np.ndarray) -> np.ndarray:
    """Fills the outer part of a hole by fast marching.

    Args:
      known: [h, w, 3] float32, the image; finite inside the hole too.
      near_edge: [h, w] uint8, 1 in the hole up to `_MARCHED` pixels from its edge.

    Returns:
      [h, w, 3] float32; valid only within a few pixels of the edge.
    """
    _require_finite(known, "the image outside the hole")
    # Pad by one pixel: OpenCV's fill is not finite in the last pixel of a strip one pixel wide.
    source, where = (cv2.copyMakeBorder(array, 1, 1, 1, 1, cv2.BORDER_REPLICATE) for array in (known, near_edge))
    marched = [
        cv2.inpaint(channel * np.float32(_MARCHING_UNIT), where, _MARCHING_RADIUS, cv2.INPAINT_TELEA)
        for channel in cv2.split(source)
    ]
    return np.stack(marched, axis=-1)[1:-1, 1:-1] / np.float32(_MARCHING_UNIT)


def _right_side(difference: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Returns the right-hand side of the Poisson equation for the correction, for one channel.

    Between two neighbours in the middle the completion's gradient stays, so the correction's gradient is 0.
    Between any other two it is the gradient of fast marching minus that of the completion.

    Args:
      difference: [h, w] float32, fast marching minus completion; 0 outside the hole.
      middle: [h, w] bool.

    Returns:
      [h, w] float64.
    """
    sums = np.zeros(difference.shape)
    for axis in (0, 1):
        before, after = [(slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None))]
        ring = ~(middle[before] & middle[after])
        step = np.where(ring, difference[after] - difference[before], np.float32(0))
        sums[after] += step
        sums[before] -= step
    return sums


# The part of a hole [H, W] bool that is blended.
BLENDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "auto": thick_parts,
    "on": lambda hole: hole,
    "off": np.zeros_like,
}

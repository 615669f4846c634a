"""Blending a completion into its image, on the CPU."""

from collections.abc import Iterator

import cv2
import numpy as np

from glcic_jax.completion import poisson
from glcic_jax.errors import DataError

# OpenCV's seamlessClone, which the authors call, erodes its mask three times by 3 x 3 pixels: so far from the
# hole's edge the gradients are those of the fast marching fill.
_RING = 3
# The authors' radius of fast marching.
_MARCHING_RADIUS = 1.0
# Fast marching fills from the edge inwards, so that the ring comes out the same if the middle of a large hole
# is taken for known, as long as the front from the middle arrives later than the one from the edge.
_MARCHED = 16
# OpenCV adds up to 1.4 of whatever unit it is given to every pixel that it fills (its gradient term is
# normalised). In 8 bits that is noise of a grey level or two a pixel; in this unit it is nothing.
_MARCHING_UNIT = 2.0**24
# What fast marching looks at around the hole, with some to spare.
_MARGIN = 4
# What one window more costs beside its pixels, as a number of pixels.
_PIXELS_A_WINDOW = 20_000


def blend(image: np.ndarray, completed: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fits a completion into its image, so that no edge shows.

    The result has the gradients of the completion, and within three pixels of the hole's edge those of a fast
    marching fill, and meets the image at the edge. A hole that is nowhere wider than six pixels is thus the
    fast marching fill. Where the image ends inside the hole nothing is met: the completion's gradients alone
    decide there. An image that is all hole keeps the completion.

    The equations are solved on the hole's pixels alone, unlike by OpenCV's seamlessClone, which solves on the
    hole's bounding box, changes pixels outside the hole and fails at the image's border.

    Args:
      image: [H, W, 3] float32 in [0, 1]; what lies inside the hole is not looked at.
      completed: [H, W, 3] float32 in [0, 1]; what lies outside the hole is not looked at.
      hole: [H, W] bool.

    Returns:
      [H, W, 3] float32 in [0, 1]; pixels outside the hole are bit-identical to the image's.

    Raises:
      DataError: The completion is not finite inside the hole, or the image beside it.
      ValueError: The shapes do not fit together.

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


def _require_finite(values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        raise DataError(f"cannot blend: {what} has values that are not finite numbers")


def _windows(hole: np.ndarray) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """The rectangles to work on, each with a margin, and the pixels of the hole that belong to it.

    Parts of the hole that lie far apart have windows of their own where that is less work than one window.

    Args:
      hole: [H, W] bool.

    Yields:
      `(window, part)`: what to index the image with, and [h, w] bool.
    """
    if not hole.any():
        return
    rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    whole = _window(hole.shape, rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)
    # Parts whose margins touch are one.
    near = cv2.dilate(hole[whole].astype(np.uint8), _square(_MARGIN))
    _, label, boxes, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    boxes = boxes[1:]  # The first is what is no hole.
    areas = boxes[:, cv2.CC_STAT_WIDTH].astype(np.int64) * boxes[:, cv2.CC_STAT_HEIGHT]
    if (areas + _PIXELS_A_WINDOW).sum() >= near.size + _PIXELS_A_WINDOW:
        yield whole, hole[whole]
        return
    top, left = whole[0].start, whole[1].start
    for number, (x, y, width, height, _) in enumerate(boxes, 1):
        window = slice(top + y, top + y + height), slice(left + x, left + x + width)
        yield window, hole[window] & (label[y : y + height, x : x + width] == number)


def _window(shape: tuple[int, ...], top: int, left: int, bottom: int, right: int) -> tuple[slice, slice]:
    """A box and its margin, as far as the image reaches."""
    height, width = shape
    return (
        slice(max(top - _MARGIN, 0), min(bottom + _MARGIN, height)),
        slice(max(left - _MARGIN, 0), min(right + _MARGIN, width)),
    )


def _square(reach: int) -> np.ndarray:
    """What erodes or dilates by `reach` pixels in all eight directions."""
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)


def _correction(known: np.ndarray, completed: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """What to add to a completion so that it meets the image.

    Args:
      known: [h, w, 3] float32, the image; finite in the hole too, where it does not matter.
      completed: [h, w, 3] float32.
      hole: [h, w] bool; neither empty nor all True.

    Returns:
      [n, 3] float64 for the n pixels of the hole, in the order of its rows.
    """
    binary = hole.astype(np.uint8)
    middle = cv2.erode(binary, _square(_RING)).astype(bool)  # Beyond the image's border OpenCV sees no edge.
    # Fast marching is wanted in the ring, and one pixel further for the differences across the ring's end.
    wanted = hole & ~cv2.erode(binary, _square(_RING + 1)).astype(bool)
    marched = _march(known, binary - cv2.erode(binary, _square(_MARCHED)))
    difference = np.where(wanted[..., None], marched - completed, np.float32(0))

    # Parts without a middle are the fast marching fill itself: there is nothing to solve.
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
    """Fills `near_edge` by fast marching, from the hole's edge and, uselessly, from its middle.

    Args:
      known: [h, w, 3] float32, the image; finite in the hole too.
      near_edge: [h, w] uint8, 1 in the hole up to `_MARCHED` pixels from its edge.

    Returns:
      [h, w, 3] float32; to be used a few pixels from the edge.
    """
    _require_finite(known, "the image outside the hole")
    # Continued by a pixel on every side: OpenCV's fill is not finite in the last pixel of a strip one pixel wide.
    source, where = (cv2.copyMakeBorder(array, 1, 1, 1, 1, cv2.BORDER_REPLICATE) for array in (known, near_edge))
    marched = [
        cv2.inpaint(channel * np.float32(_MARCHING_UNIT), where, _MARCHING_RADIUS, cv2.INPAINT_TELEA)
        for channel in cv2.split(source)
    ]
    return np.stack(marched, axis=-1)[1:-1, 1:-1] / np.float32(_MARCHING_UNIT)


def _right_side(difference: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The sum of differences that the correction must have at each pixel, for one channel.

    Two neighbours in the middle keep the completion's gradient: the correction does not differ between them.
    Any other two have that of fast marching, from which the completion's differs by that of `difference`.

    Args:
      difference: [h, w] float32, fast marching minus completion, 0 outside the hole.
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

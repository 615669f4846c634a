"""Holes painted on a page: what a brush did, drawn in the picture's own pixels, whatever the screen showed.

A page sends a list of operations in the order in which they were done, as JSON. Each is an object with a `kind`:

- `stroke`: `points` [[x, y], ...], `size` and `erase`; what is within half of `size` of the line, to a
  pixel, is hole, or is hole no more.
- `rectangle`: `left`, `top`, `width`, `height`.
- `mask`: `png`, a data URI; the hole is what is white in it. It can only be the first.

Lengths are pixels of the picture, from its upper left corner; (0.5, 0.5) is the middle of its first pixel.
"""

import base64
import binascii
import io
import json
import math
from typing import Any

import cv2
import numpy as np
from PIL import Image

from glcic_jax.errors import DataError
from glcic_jax.pictures import read_mask

_PNG = "data:image/png;base64,"
# More operations than these, in a row, nobody paints.
_MOST_OPERATIONS = 10_000
_FARTHEST = 1e5
# OpenCV draws in sixteenths of a pixel, and no thicker lines.
_SUBPIXEL_BITS = 4
_THICKEST = 32_767
# How many pixels strokes and rectangles may touch, in all: so many times the picture's, and what is always little.
_MOST_COVERED, _ALWAYS_COVERED = 200, 100_000_000


def painted_hole(operations: str, size: tuple[int, int]) -> np.ndarray:
    """Draws a hole.

    Args:
      operations: JSON, as above.
      size: (width, height) of the picture, in pixels.

    Returns:
      [H, W] bool, True = hole.

    Raises:
      DataError: It is no such list, or has more in it than a person paints.
    """
    width, height = size
    painted = np.zeros((height, width), np.uint8)
    budget: float = _MOST_COVERED * width * height + _ALWAYS_COVERED
    for index, operation in enumerate(_operations(operations)):
        kind = operation.get("kind")
        if kind == "stroke":
            budget -= _draw_stroke(painted, operation, budget)
        elif kind == "rectangle":
            left, top, across, down = (_number(operation, name) for name in ("left", "top", "width", "height"))
            budget -= _within(width * height, budget)
            rows = slice(max(0, round(top)), max(0, round(top + down)))
            painted[rows, max(0, round(left)) : max(0, round(left + across))] = 1
        elif kind == "mask" and index == 0:
            painted = _mask(operation, size).astype(np.uint8)
        else:
            raise _unfit("an operation is a stroke, a rectangle, or first of all a mask")
    return painted.astype(bool)


def mask_png(hole: np.ndarray) -> bytes:
    """The file of a hole [H, W] bool as a mask: a PNG of one bit, white = hole."""
    content = io.BytesIO()
    Image.fromarray(hole).save(content, format="PNG", bits=1)
    return content.getvalue()


def mask_operation(hole: np.ndarray) -> dict[str, Any]:
    """The operation that has a hole [H, W] bool for its result."""
    return {"kind": "mask", "png": _PNG + base64.b64encode(mask_png(hole)).decode()}


def _operations(text: str) -> list[dict[str, Any]]:
    try:
        operations = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unfit("it is no JSON") from error
    if not isinstance(operations, list) or not all(isinstance(operation, dict) for operation in operations):
        raise _unfit("it is no list of operations")
    if len(operations) > _MOST_OPERATIONS:
        raise _unfit(f"it has more than {_MOST_OPERATIONS:,} operations")
    return operations


def _draw_stroke(painted: np.ndarray, stroke: dict[str, Any], budget: float) -> float:
    """Draws a stroke; returns how many pixels it touched, about."""
    thickness = min(_THICKEST, max(1, round(_number(stroke, "size"))))
    try:
        points = np.array(stroke.get("points"), np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise _unfit("the points of a stroke are pairs of numbers") from error
    if not len(points) or not np.abs(points).max() <= _FARTHEST:  # Not a number is neither.
        raise _unfit(f"a stroke has points, and none farther away than {_FARTHEST:,.0f} px")
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    # A line far outside costs nothing, but nothing is painted with it either.
    covered = _within(float((lengths + thickness).sum() + thickness) * thickness, budget)
    # OpenCV's coordinates are those of the pixels' middles.
    line = np.rint((points - 0.5) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    line = np.concatenate([line, line[-1:]])  # So that a dab, which has one point, is a line too.
    colour = 0 if stroke.get("erase") else 1
    cv2.polylines(painted, [line], False, colour, thickness, cv2.LINE_8, _SUBPIXEL_BITS)
    return covered


def _within(covered: float, budget: float) -> float:
    if covered > budget:
        raise _unfit("its strokes cover the picture more often than anybody paints")
    return covered


def _mask(operation: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    png = operation.get("png")
    if not isinstance(png, str) or not png.startswith(_PNG):
        raise _unfit("a mask is a PNG in a data URI")
    try:
        content = base64.b64decode(png.removeprefix(_PNG), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _unfit("a mask is a PNG in a data URI") from error
    return read_mask(content, size, name="the painted mask", max_pixels=size[0] * size[1]).hole


def _number(operation: dict[str, Any], name: str) -> float:
    value = operation.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _FARTHEST:
        raise _unfit(f"{name} is a number of pixels")
    if not math.isfinite(value):
        raise _unfit(f"{name} is a number of pixels")
    return float(value)


def _unfit(reason: str) -> DataError:
    return DataError(f"what was painted cannot be read ({reason}): load the page anew")

"""Deterministic resizing and cropping of evaluation images and their masks."""

import cv2
import numpy as np

_LARGEST_ASPECT = 4


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes the shorter side to `side` and crops the centre square.

    As in training, area averaging reduces and bicubic interpolation enlarges; a mask takes its nearest pixels. An
    odd number of cropped pixels leaves the larger part at the right or the bottom.

    Args:
      image: [H, W, 3] uint8, or a mask [H, W] bool.
      side: In pixels.

    Returns:
      [side, side, 3] uint8, or [side, side] bool.
    """
    height, width = image.shape[:2]
    if max(height, width) > _LARGEST_ASPECT * min(height, width):
        # The centre only: enlarging a strip of 30,000 x 12 px would take hundreds of megapixels.
        kept = _LARGEST_ASPECT * min(height, width)
        top, left = max(0, (height - kept) // 2), max(0, (width - kept) // 2)
        image = image[top : top + kept, left : left + kept]
        height, width = image.shape[:2]
    scale = side / min(height, width)
    rows, columns = max(side, round(height * scale)), max(side, round(width * scale))
    if image.dtype == bool:
        interpolation = cv2.INTER_NEAREST_EXACT
    else:
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    if (rows, columns) != (height, width):
        resized = cv2.resize(image.astype(np.uint8), (columns, rows), interpolation=interpolation)
        image = resized.astype(image.dtype)
    top, left = (rows - side) // 2, (columns - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])

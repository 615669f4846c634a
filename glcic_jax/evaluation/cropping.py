"""Bringing evaluation images, and masks with them, to one size, without chance."""

import cv2
import numpy as np

_LONGEST = 4  # Times the shorter side.


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes the shorter side to `side`, and cuts the square in the middle.

    Reduced by area averaging, enlarged by bicubic interpolation, as training's crops are; a mask by its nearest
    pixels. Where an odd number of pixels is cut off, the greater part is at the right or the bottom.

    Args:
      image: [H, W, 3] uint8, or a mask [H, W] bool.
      side: In pixels.

    Returns:
      [side, side, 3] uint8, or [side, side] bool.
    """
    height, width = image.shape[:2]
    if max(height, width) > _LONGEST * min(height, width):
        # Only what is near the middle: a strip of 30,000 x 12 px would become one of hundreds of megapixels.
        kept = _LONGEST * min(height, width)
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

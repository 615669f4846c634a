"""Classical fills on the CPU, with OpenCV: what a learned completion has to beat."""

import cv2
import numpy as np


def telea(image: np.ndarray, mask: np.ndarray, radius: float = 3.0) -> np.ndarray:
    """Fills holes by fast marching.

    Args:
      image: [N, H, W, 3] uint8.
      mask: [N, H, W, 1], above 0.5 = hole.
      radius: How far around each pixel the fill looks, in pixels.

    Returns:
      [N, H, W, 3] uint8; pixels outside the hole are the image's own.

    Reference: Telea 2004, "An image inpainting technique based on the fast marching method".
    """
    hole = (mask > 0.5).astype(np.uint8)
    filled = [cv2.inpaint(one, where, radius, cv2.INPAINT_TELEA) for one, where in zip(image, hole, strict=True)]
    return np.where(hole.astype(bool), np.stack(filled), image)

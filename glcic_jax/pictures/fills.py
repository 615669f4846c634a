"""Classical fills on the CPU, the baselines of an evaluation.

Each takes an image [H, W, 3] uint8 and its hole [H, W] bool, and returns [H, W, 3] uint8. Pixels outside the hole
are unchanged; pixels inside it do not influence the result.
"""

from collections.abc import Callable

import cv2
import numpy as np

FILL_RADIUS = 3.0  # Neighbourhood of each pixel in OpenCV's fills, in pixels.
_GREY = 127.5

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


def mean_fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fills the hole with the mean colour of the known pixels; with grey if there are none."""
    known = image[~hole]
    colour = known.mean(axis=0) if len(known) else np.full(3, _GREY)
    return np.where(hole[..., None], np.rint(colour).astype(np.uint8), image)


def telea(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fills the hole by fast marching, with OpenCV.

    Reference: Telea 2004, "An image inpainting technique based on the fast marching method".
    """
    return _inpaint(image, hole, cv2.INPAINT_TELEA)


def navier_stokes(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Continues lines of equal brightness into the hole, with OpenCV.

    Reference: Bertalmio, Bertozzi and Sapiro 2001, "Navier-Stokes, fluid dynamics, and image and video
    inpainting".
    """
    return _inpaint(image, hole, cv2.INPAINT_NS)


def _inpaint(image: np.ndarray, hole: np.ndarray, algorithm: int) -> np.ndarray:
    if hole.all():
        return mean_fill(image, hole)  # OpenCV has nothing to continue.
    # OpenCV reads some pixels of the hole.
    known = np.where(hole[..., None], np.uint8(0), image)
    filled = cv2.inpaint(known, hole.astype(np.uint8), FILL_RADIUS, algorithm)
    return np.where(hole[..., None], filled, image)


FILLS: dict[str, Fill] = {"mean fill": mean_fill, "Telea": telea, "Navier-Stokes": navier_stokes}

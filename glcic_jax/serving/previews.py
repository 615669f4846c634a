"""Pictures as a screen shows them, for files that a browser cannot decode."""

from typing import NamedTuple

import cv2
import numpy as np

from glcic_jax.pictures import Picture, to_colour

_LONGEST_SIDE = 2048  # Pixels.
_QUALITY = 92


class Preview(NamedTuple):
    """A picture to be shown.

    Attributes:
      jpeg: It as a JPEG over white, reduced if it is larger than a screen.
      size: Its own (width, height) in pixels.
      notes: Notes on reading it, one line each.
    """

    jpeg: bytes
    size: tuple[int, int]
    notes: tuple[str, ...]


def preview_of(picture: Picture) -> Preview:
    """Reduces a picture to at most 2,048 px, and encodes it."""
    pixels = picture.pixels
    height, width = pixels.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    shown = np.rint(255 * to_colour(pixels)).astype(np.uint8)[..., ::-1]
    jpeg = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    return Preview(jpeg, picture.size, tuple(picture.notes))

"""Several images as one picture."""

import math
from collections.abc import Sequence

import numpy as np


def tile(columns: Sequence[np.ndarray], gap: int = 2) -> np.ndarray:
    """Arranges images in a grid: one row per example, one column per kind.

    Args:
      columns: [N, H, W, C] uint8 for each kind; C is 3, or 1 for grey.
      gap: White pixels between images.

    Returns:
      [N * (H + gap) - gap, K * (W + gap) - gap, 3] uint8.
    """
    stacked = np.stack(columns, axis=1)
    padded = np.pad(stacked, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    count, kinds, height, width, channels = padded.shape
    grid = padded.transpose(0, 2, 1, 3, 4).reshape(count * height, kinds * width, channels)
    return np.repeat(grid[: count * height - gap, : kinds * width - gap], 3 // channels, axis=-1)


def tile_all(images: np.ndarray) -> np.ndarray:
    """Arranges images row by row in the smallest square grid that holds them.

    Args:
      images: [N, H, W, C] uint8, at least one; C is 3, or 1 for grey.

    Returns:
      [height, width, 3] uint8; places without an image are white.
    """
    side = math.isqrt(len(images) - 1) + 1
    rows = -(-len(images) // side)
    missing = rows * side - len(images)
    padded = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255)
    return tile([padded[column::side] for column in range(side)])

"""Converts pixels of any depth and number of channels to the RGB colours that the network takes, and back.

`pixels` are [H, W, C] uint8, uint16 or float in [0, 1]; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. `colour` is
[..., 3] float32 RGB in [0, 1].
"""

from collections.abc import Iterator

import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow converts to grey.
_WHITES = (1.0, 255.0, 65535.0, 2.0**32 - 1)
_STRIP_PIXELS = 4_000_000


def colour_channels(pixels: np.ndarray) -> int:
    """Returns the number of channels without alpha: 1 or 3."""
    return 3 if pixels.shape[-1] >= 3 else 1


def to_colour(pixels: np.ndarray) -> np.ndarray:
    """Converts pixels to colours; transparency is laid over white, as in training.

    Args:
      pixels: [H, W, C].

    Returns:
      [H, W, 3] float32 in [0, 1].
    """
    scaled = pixels.astype(np.float32)
    scaled /= np.float32(_peak(pixels))
    colours = colour_channels(pixels)
    colour = scaled[..., :colours]
    if scaled.shape[-1] > colours:
        alpha = scaled[..., colours:]
        colour = colour * alpha + (1.0 - alpha)
    return np.repeat(colour, 3, axis=-1) if colours == 1 else np.ascontiguousarray(colour)


def from_colour(colour: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Converts colours to the dtype and channels of the pixels that they replace; grey is their luminance.

    Args:
      colour: [..., 3] float32, over white; clipped to [0, 1].
      pixels: [..., C], the pixels to be replaced. Under their alpha, the result looks like `colour` over white, as
        far as a colour can.

    Returns:
      [..., 1] or [..., 3], without alpha.
    """
    colours = colour_channels(pixels)
    if pixels.shape[-1] > colours:
        alpha = pixels[..., colours:].astype(np.float32) / np.float32(_peak(pixels))
        # A fully transparent pixel takes the colour that it would have if it were opaque.
        colour = np.where(alpha > 0, (colour - (1.0 - alpha)) / np.maximum(alpha, 1e-6), colour)
    if colours == 1:
        colour = colour @ _LUMA[:, None]
    scaled = np.clip(colour, 0.0, 1.0) * np.float32(_peak(pixels))
    return (np.rint(scaled) if np.issubdtype(pixels.dtype, np.integer) else scaled).astype(pixels.dtype)


def _peak(pixels: np.ndarray) -> float:
    return float(np.iinfo(pixels.dtype).max) if np.issubdtype(pixels.dtype, np.integer) else 1.0


def strips(height: int, width: int) -> Iterator[slice]:
    """Yields slices of rows that together cover an image, a few megapixels each."""
    rows = max(1, _STRIP_PIXELS // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def over_white(pixels: np.ndarray) -> np.ndarray:
    """Lays [H, W, 2 or 4] uint8 over white; returns [H, W, 1 or 3]."""
    result = np.empty((*pixels.shape[:2], pixels.shape[-1] - 1), np.uint8)
    for rows in strips(*pixels.shape[:2]):
        colour, alpha = pixels[rows, :, :-1].astype(np.uint32), pixels[rows, :, -1:].astype(np.uint32)
        result[rows] = (colour * alpha + 255 * (255 - alpha) + 127) // 255
    return result


def white_of(values: np.ndarray) -> float:
    """Guesses the value of white: the upper end of the smallest range that fits: [0, 1], 8, 16 or 32 bits.

    A range fits integers if it contains all of them. Floats may exceed it, as highlights and resampling overshoots
    do: it fits if at most a tenth of the positive values lies above twice its end.

    Args:
      values: [H, W] or [H, W, C] of 16 bits, 32 bits or floats, from a file that does not state their range.
    """
    if np.issubdtype(values.dtype, np.integer):
        return 65535.0 if values.max(initial=0) <= 65535 else _WHITES[-1]
    positive, above = 0, np.zeros(len(_WHITES), np.int64)
    for rows in strips(*values.shape[:2]):
        strip = _finite(values[rows])
        positive += int(np.count_nonzero(strip > 0))
        above += [np.count_nonzero(strip > 2 * white) for white in _WHITES]
    return next(
        (white for white, count in zip(_WHITES, above, strict=True) if 10 * count <= positive), _WHITES[-1]
    )


def scaled(values: np.ndarray, dtype: type[np.unsignedinteger], white: float) -> np.ndarray:
    """Scales [H, W] or [H, W, C] in [0, white] to the range of `dtype`, and clips."""
    result = np.empty(values.shape, dtype)
    for rows in strips(*values.shape[:2]):
        result[rows] = np.round(np.clip(_finite(values[rows]) / white, 0.0, 1.0) * np.iinfo(dtype).max)
    return result


def _finite(values: np.ndarray) -> np.ndarray:
    """Converts to float64; NaN and infinity become 0."""
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)

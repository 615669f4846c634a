"""Pictures of any depth and number of channels, as colours for the network and back.

`pixels` are [H, W, C] uint8, uint16 or float in [0, 1]; C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. `colour` is
[..., 3] float32 RGB in [0, 1].
"""

import numpy as np

# ITU-R BT.601, as Pillow weighs red, green and blue.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def colour_channels(pixels: np.ndarray) -> int:
    """How many of the channels are colours: 1 or 3."""
    return 3 if pixels.shape[-1] >= 3 else 1


def to_colour(pixels: np.ndarray) -> np.ndarray:
    """Scales pixels of any type to colours; what is transparent is laid over white, as in training.

    Args:
      pixels: [H, W, C].

    Returns:
      [H, W, 3] float32 in [0, 1].
    """
    scaled = pixels.astype(np.float32) / np.float32(_peak(pixels))
    colours = colour_channels(pixels)
    colour = scaled[..., :colours]
    if scaled.shape[-1] > colours:
        alpha = scaled[..., colours:]
        colour = colour * alpha + (1.0 - alpha)
    return np.repeat(colour, 3, axis=-1) if colours == 1 else np.ascontiguousarray(colour)


def from_colour(colour: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Scales colours to the type and the colour channels of pixels; grey is their luminance.

    Args:
      colour: [..., 3] float32, over white; clipped to [0, 1].
      pixels: [..., C], the pixels that the colours will replace: give the type, the channels and the alpha, under
        which the result has that colour over white, as far as a colour can.

    Returns:
      [..., 1] or [..., 3], without alpha.
    """
    colours = colour_channels(pixels)
    if pixels.shape[-1] > colours:
        alpha = pixels[..., colours:].astype(np.float32) / np.float32(_peak(pixels))
        # What is wholly transparent has no colour; then it takes the one it would have if it were not.
        colour = np.where(alpha > 0, (colour - (1.0 - alpha)) / np.maximum(alpha, 1e-6), colour)
    if colours == 1:
        colour = colour @ _LUMA[:, None]
    scaled = np.clip(colour, 0.0, 1.0) * np.float32(_peak(pixels))
    return (np.rint(scaled) if np.issubdtype(pixels.dtype, np.integer) else scaled).astype(pixels.dtype)


def _peak(pixels: np.ndarray) -> float:
    return float(np.iinfo(pixels.dtype).max) if np.issubdtype(pixels.dtype, np.integer) else 1.0

"""L1, L2, PSNR, SSIM and sharpness of completed images, over the whole image and over the hole.

Images are in [0, 1], at least 11 x 11 px; the arithmetic is float32, or float64 for float64 images. SSIM has the
settings of Wang et al. 2004: 11-tap Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance,
mean over the three channels. The mean over the image excludes the 5 px border, like scikit-image.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import experimental

from glcic_jax.model.images import bucket, inside

_RADIUS = 5
_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2
SMALLEST_SIDE = 2 * _RADIUS + 1  # Smallest side of an image for SSIM, in pixels.
_BORDER = 2  # Of the hole, excluded from its sharpness, in pixels.
_FLAT = 1e-3  # Smallest mean gradient of a photograph that has a sharpness: a quarter of an 8-bit step.
LARGEST_BATCH = 16  # Bounds the memory of a full-size evaluation on a small GPU.


class ImageMetrics(struct.PyTreeNode):
    """One number per image, each [N] float32; PSNR in dB, infinite for equal images.

    Fields that begin with `hole` cover the hole only, and are NaN for an empty hole. `hole_sharpness` is also NaN
    for a hole without a pixel 2 px inside it, and where the photograph is flat.
    """

    l1: jax.Array
    l2: jax.Array
    psnr: jax.Array
    ssim: jax.Array
    hole_l1: jax.Array
    hole_l2: jax.Array
    hole_psnr: jax.Array
    hole_ssim: jax.Array
    hole_sharpness: jax.Array


def _masked_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """The mean of [N, H, W, C] over the pixels whose weight [N, H, W, 1] is 1, [N]."""
    count = weights.sum(axis=(1, 2, 3)) * values.shape[-1]
    return (values * weights).sum(axis=(1, 2, 3)) / count


def _psnr(mean_squared_error: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB for a peak of 1, any shape."""
    return 0.0 - 10.0 * jnp.log10(mean_squared_error)  # Not -0.0 dB.


def ssim_map(image: jax.Array, other: jax.Array, valid_size: jax.Array | None = None) -> jax.Array:
    """Structural similarity at every pixel: two [N, H, W, C] floats in [0, 1] to [N, H, W, C] in [-1, 1].

    Args:
      image, other: The images.
      valid_size: [N, 2] int, the (height, width), at least 11, of the valid part at the top left of each image;
        None for all. The map of the valid part does not depend on the rest.

    Raises:
      ValueError: A side is below 11 px.

    Reference: Wang et al. 2004, "Image quality assessment", Equation 13.
    """
    if min(image.shape[1:3]) < SMALLEST_SIDE:
        raise ValueError(f"SSIM needs sides of at least {SMALLEST_SIDE} px, not {image.shape[1:3]}")
    window = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    window = (window / window.sum()).astype(image.dtype)

    def blur(values: jax.Array) -> jax.Array:
        for axis in (1, 2):
            size = values.shape[axis] - 2 * _RADIUS
            shifted = [
                weight * jax.lax.slice_in_dim(values, tap, tap + size, axis=axis)
                for tap, weight in enumerate(window)
            ]
            values = sum(shifted[1:], shifted[0])
        return values

    image, other = _mirrored(image, valid_size), _mirrored(other, valid_size)
    mean, other_mean = blur(image), blur(other)
    # Second moments about each image's mean, not about 0: in flat parts of an image, float32 would lose the
    # variance in the difference of two large squares.
    centred = image - image.mean(axis=(1, 2), keepdims=True)
    other_centred = other - other.mean(axis=(1, 2), keepdims=True)
    shift, other_shift = blur(centred), blur(other_centred)
    variance = blur(centred**2) - shift**2
    other_variance = blur(other_centred**2) - other_shift**2
    covariance = blur(centred * other_centred) - shift * other_shift
    luminance = (2 * mean * other_mean + _C1) / (mean**2 + other_mean**2 + _C1)
    return luminance * (2 * covariance + _C2) / (variance + other_variance + _C2)


def _mirrored(image: jax.Array, valid_size: jax.Array | None) -> jax.Array:
    """Pads images [N, H, W, C] by the window's radius on every side with their mirror image."""
    if valid_size is None:
        return jnp.pad(image, ((0, 0), (_RADIUS, _RADIUS), (_RADIUS, _RADIUS), (0, 0)), mode="symmetric")
    for axis in (1, 2):
        size = image.shape[axis]
        place, end = jnp.arange(-_RADIUS, size + _RADIUS), valid_size[:, axis - 1, None]
        place = jnp.where(place < 0, -1 - place, place)
        place = jnp.clip(jnp.where(place < end, place, 2 * end - 1 - place), 0, size - 1)
        image = jnp.take_along_axis(image, jnp.expand_dims(place, tuple({1, 2, 3} - {axis})), axis=axis)
    return image


def image_metrics(
    completed: jax.Array, image: jax.Array, mask: jax.Array, valid_size: jax.Array | None = None
) -> ImageMetrics:
    """Compares completed images with the originals.

    Args:
      completed: [N, H, W, 3] float in [0, 1].
      image: [N, H, W, 3] float in [0, 1].
      mask: [N, H, W, 1] float, 1 = hole.
      valid_size: As in `ssim_map`; the rest of the image is ignored.

    Returns:
      `ImageMetrics`, each field [N].
    """
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    completed, image, mask = completed.astype(dtype), image.astype(dtype), mask.astype(dtype)
    absolute = jnp.abs(completed - image)
    squared = jnp.square(completed - image)
    similarity = ssim_map(completed, image, valid_size)
    everywhere, interior = _weights(mask, valid_size, 0), _weights(mask, valid_size, _RADIUS)
    mask = mask * everywhere
    l2, hole_l2 = _masked_mean(squared, everywhere), _masked_mean(squared, mask)
    return ImageMetrics(
        l1=_masked_mean(absolute, everywhere),
        l2=l2,
        psnr=_psnr(l2),
        ssim=_masked_mean(similarity, interior),
        hole_l1=_masked_mean(absolute, mask),
        hole_l2=hole_l2,
        hole_psnr=_psnr(hole_l2),
        hole_ssim=_masked_mean(similarity, mask),
        hole_sharpness=_sharpness(completed, image, mask),
    )


def _sharpness(completed: jax.Array, image: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean gradient of completed images divided by that of the originals, inside the hole, [N].

    Forward differences, their length at each pixel and channel averaged over the pixels whose 5 x 5 neighbourhood
    lies in the hole; the hole ends where the image ends.
    """
    side = 2 * _BORDER + 1
    padded = jnp.pad(mask, ((0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0)))
    inner = jax.lax.reduce_window(padded, jnp.inf, jax.lax.min, (1, side, side, 1), (1, 1, 1, 1), "VALID")

    def gradient(values: jax.Array) -> jax.Array:
        down = jnp.diff(values, axis=1, append=values[:, -1:])
        right = jnp.diff(values, axis=2, append=values[:, :, -1:])
        return _masked_mean(jnp.sqrt(down**2 + right**2), inner)

    original = gradient(image)
    return jnp.where(original > _FLAT, gradient(completed) / original, jnp.nan)


def _weights(mask: jax.Array, valid_size: jax.Array | None, border: int) -> jax.Array:
    """[N, H, W, 1]: 1 in the valid part except for its border of `border` pixels, 0 elsewhere."""
    count, height, width = mask.shape[:3]
    if valid_size is None:
        valid_size = jnp.broadcast_to(jnp.array([height, width]), (count, 2))
    interior = inside(valid_size - 2 * border, height - 2 * border, width - 2 * border)
    return jnp.pad(interior, ((0, 0), (border, border), (border, border), (0, 0))).astype(mask.dtype)


def measure(completed: np.ndarray, image: np.ndarray, hole: np.ndarray) -> dict[str, np.ndarray]:
    """Compares completed pictures with the originals, on JAX's first device.

    Pictures are 8-bit, so a completion has the same metrics before and after it is written to a file.

    Args:
      completed: [N, H, W, 3] uint8; sides of at least 11 px.
      image: [N, H, W, 3] uint8.
      hole: [N, H, W] bool.

    Returns:
      The fields of `ImageMetrics`, each [N] float64.
    """
    batches = [slice(start, start + LARGEST_BATCH) for start in range(0, len(image), LARGEST_BATCH)]
    parts = [_measure_batch(completed[batch], image[batch], hole[batch]) for batch in batches]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _measure_batch(completed: np.ndarray, image: np.ndarray, hole: np.ndarray) -> dict[str, np.ndarray]:
    sides = image.shape[1:3]
    padded = bucket(sides[0]), bucket(sides[1])
    # Divided outside jit: a compiler may round the two divisions differently, and equal pictures would differ.
    arrays: list[np.ndarray] = [completed / 255.0, image / 255.0, hole[..., None]]
    valid_size = None
    if padded != sides:  # So that pictures of many sizes share few compiled programs.
        padding = [(0, 0), *((0, to - side) for to, side in zip(padded, sides, strict=True)), (0, 0)]
        valid_size = np.tile(np.array(sides, np.int32), (len(image), 1))
        arrays = [np.pad(array, padding) for array in arrays]
    # In float32 SSIM's variances lose more than 1e-5 in images with bright and dark flat parts.
    # `enable_x64` leaves jax.experimental in newer versions of JAX.
    float64: Any = jax if hasattr(jax, "enable_x64") else experimental
    with float64.enable_x64(True):
        found = _measured(*arrays, valid_size)
    return {name: np.asarray(value, np.float64) for name, value in vars(jax.device_get(found)).items()}


_measured = jax.jit(image_metrics)

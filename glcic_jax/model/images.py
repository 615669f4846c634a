"""The array contract of the package, and the operations on images that every room shares.

An `image` is float32 RGB in [0, 1], shape [N, H, W, 3]. A `mask` is float32, shape [N, H, W, 1], 1 inside the hole
and 0 outside it (Mc in the paper). A `local_box` is int32, shape [N, 2]: the (top, left) corner of a local patch
in pixels. A `mean_pixel` is float32, shape [3], in [0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from glcic_jax.errors import ConfigError, lookup
from glcic_jax.model.smooth_fill import smooth_fill

_SMALLEST_BUCKET = 16


def to_float(image: jax.Array) -> jax.Array:
    """Maps uint8 in [0, 255] to float32 in [0, 1], any shape."""
    return image.astype(jnp.float32) / 255.0


def to_uint8(image: jax.Array) -> jax.Array:
    """Maps float in [0, 1] to uint8 in [0, 255], any shape; rounds to nearest and clips."""
    return jnp.round(jnp.clip(image.astype(jnp.float32), 0.0, 1.0) * 255.0).astype(jnp.uint8)


def bucket(side: int) -> int:
    """Rounds a side up to a multiple of a quarter of the power of two below it, so that few sizes are compiled."""
    step = max(_SMALLEST_BUCKET, 1 << max(0, side.bit_length() - 3))
    return -(-side // step) * step


def inside(valid_size: jax.Array, height: int, width: int) -> jax.Array:
    """[N, height, width, 1] bool: which pixels belong to the valid part at the top left of each image.

    Args:
      valid_size: [N, 2] int, the (height, width) of each valid part.
      height, width: Size of the images.
    """
    rows, columns = jnp.moveaxis(valid_size, -1, 0)
    in_rows = jnp.arange(height)[None, :, None] < rows[:, None, None]
    in_columns = jnp.arange(width)[None, None, :] < columns[:, None, None]
    return (in_rows & in_columns)[..., None]


def network_input(
    image: jax.Array,
    mask: jax.Array,
    mean_pixel: jax.Array,
    form: str = "mean_subtracted",
    valid_size: jax.Array | None = None,
) -> jax.Array:
    """Returns the completion network's input: the image with its hole filled, and the mask.

    Args:
      image: [N, H, W, 3] float in [0, 1].
      mask: [N, H, W, 1] float, 1 = hole.
      mean_pixel: [3] float in [0, 1], the mean colour of the training set.
      form: A name in `INPUT_FORMS`.
      valid_size: [N, 2] int, the (height, width) of the valid part at the top left of each image; None for all.

    Returns:
      [N, H, W, 4] float32: three colour channels, then the mask.

    Raises:
      ConfigError: The form is unknown.

    Reference: Iizuka et al. 2017, Section 3.2; the released inference code.
    """
    fill = lookup(INPUT_FORMS, form, "input form")
    filled = fill(image, mask > 0.5, mean_pixel, valid_size)
    return jnp.concatenate([filled, mask.astype(filled.dtype)], axis=-1)


def composite(image: jax.Array, output: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the completed image: the network's output inside the hole, the image outside it.

    Selects instead of blending, so that pixels outside the hole are bit-identical to the image's.

    Args:
      image: [N, H, W, 3] float in [0, 1].
      output: [N, H, W, 3] float in [0, 1], the completion network's raw output.
      mask: [N, H, W, 1] float, 1 = hole.

    Returns:
      [N, H, W, 3], the dtype of `image`.

    Reference: Iizuka et al. 2017, Section 3.4 (the context discriminator's input).
    """
    return jnp.where(mask > 0.5, output.astype(image.dtype), image)


def crop_patch(image: jax.Array, local_box: jax.Array, size: int) -> jax.Array:
    """Crops one square patch from each image.

    Args:
      image: [N, H, W, C], any dtype.
      local_box: [N, 2] int32, (top, left) of each patch. The caller ensures `0 <= top <= H - size` and
        `0 <= left <= W - size`: `lax.dynamic_slice` clamps indices out of range.
      size: Side of the patch in pixels.

    Returns:
      [N, size, size, C].

    Raises:
      ValueError: The patch is larger than the image.
    """
    height, width, channels = image.shape[1:]
    if size > height or size > width:
        raise ValueError(f"a local patch of {size} px does not fit an image of {height} x {width} px")

    def crop(one: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(one, (*corner, jnp.zeros_like(corner[0])), (size, size, channels))

    return jax.vmap(crop)(image, local_box)


def check_input_form(output_activation: str, input_form: str) -> None:
    """Raises ConfigError if an output activation does not fit an input form."""
    fitting = OUTPUT_ACTIVATIONS[output_activation].input_forms
    if fitting and input_form not in fitting:
        raise ConfigError(
            f"completion.output_activation {output_activation} adds to an input whose mean was subtracted: give "
            f"completion.input_form {' or '.join(fitting)}, not {input_form}"
        )


def _smooth_filled(
    image: jax.Array, hole: jax.Array, mean_pixel: jax.Array, valid_size: jax.Array | None
) -> jax.Array:
    known = ~hole if valid_size is None else ~hole & inside(valid_size, *hole.shape[1:3])
    return smooth_fill(image, hole, known, mean_pixel) - mean_pixel


# `(image, hole, mean_pixel, valid_size) -> filled image`.
INPUT_FORMS: dict[str, Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]] = {
    # Mean subtracted, hole 0: the authors' release.
    "mean_subtracted": lambda image, hole, mean_pixel, _: jnp.where(hole, 0.0, image - mean_pixel),
    # Hole filled with the mean, nothing subtracted: the paper's text and some ports.
    "mean_filled": lambda image, hole, mean_pixel, _: jnp.where(hole, mean_pixel, image),
    # In [-1, 1], hole 0: networks trained on images in [-1, 1].
    "signed": lambda image, hole, mean_pixel, _: jnp.where(hole, 0.0, 2.0 * image - 1.0),
    # Hole filled with a smooth continuation of its surroundings, then the mean subtracted: ours.
    "smooth_filled": _smooth_filled,
}


class OutputActivation(NamedTuple):
    """A map from the last layer to an image in [0, 1].

    Attributes:
      apply: `(last layer, colours of the network's input) -> image`.
      begins_at_zero: Whether the last layer's kernel is initialised to zero.
      input_forms: The names in `INPUT_FORMS` that it fits; () for all.
    """

    apply: Callable[[jax.Array, jax.Array], jax.Array]
    begins_at_zero: bool = False
    input_forms: tuple[str, ...] = ()


OUTPUT_ACTIVATIONS: dict[str, OutputActivation] = {
    # The authors' release.
    "sigmoid": OutputActivation(lambda last, _: jax.nn.sigmoid(last)),
    # Clipped to [-1, 1] and mapped to [0, 1]: networks trained on images in [-1, 1].
    "clip": OutputActivation(lambda last, _: (jnp.clip(last, -1.0, 1.0) + 1.0) / 2.0),
    # Ours: added to the input's colours, so that the untrained network returns the fill of its hole. 0.5 stands
    # for the mean pixel that was subtracted; the last layer's bias learns the difference.
    "residual": OutputActivation(
        lambda last, colours: jnp.clip(colours + 0.5 + last, 0.0, 1.0),
        begins_at_zero=True,
        input_forms=("smooth_filled", "mean_subtracted"),
    ),
}

"""Completing images with a trained completion network."""

from typing import Any

import jax

from glcic_jax import images
from glcic_jax.networks import CompletionNetwork
from glcic_jax.state import Variables


def complete(
    network: CompletionNetwork,
    variables: Variables,
    image: jax.Array,
    mask: jax.Array,
    mean_pixel: jax.Array,
    input_form: str,
) -> tuple[jax.Array, jax.Array]:
    """Fills the holes of images whose sides are multiples of 4, with the running statistics.

    Args:
      network: The completion network.
      variables: Its `params` and `batch_stats`.
      image: [N, H, W, 3] float in [0, 1]; what lies inside the hole is not looked at.
      mask: [N, H, W, 1] float, 1 = hole.
      mean_pixel: [3] float in [0, 1], the mean colour of the training set.
      input_form: As in `images.network_input`; the one that the network was trained with.

    Returns:
      `(output, completed)`, each [N, H, W, 3] float32 in [0, 1]: the raw output, and the image with its hole
      filled by it. Pixels of `completed` outside the hole are bit-identical to the image's.
    """
    network_input = images.network_input(image, mask, mean_pixel, input_form)
    output: Any = network.apply(variables, network_input, train=False)
    return output, images.composite(image, output, mask)

"""How the completion network's last layer becomes an image.

Each takes what the last layer gives and the three colour channels that the network reads, both
[N, H, W, 3] float32, and returns [N, H, W, 3] float32 in [0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class OutputActivation(NamedTuple):
    """A way from the last layer to an image.

    Attributes:
      apply: `(last layer, colours read) -> image`.
      begins_at_zero: Whether the last layer's kernel is zero before training.
    """

    apply: Callable[[jax.Array, jax.Array], jax.Array]
    begins_at_zero: bool = False


def _sigmoid(last: jax.Array, read: jax.Array) -> jax.Array:
    del read
    return jax.nn.sigmoid(last)


def _clip_signed(last: jax.Array, read: jax.Array) -> jax.Array:
    del read
    return (jnp.clip(last, -1.0, 1.0) + 1.0) / 2.0


def _residual(last: jax.Array, read: jax.Array) -> jax.Array:
    return jnp.clip(read + 0.5 + last, 0.0, 1.0)


OUTPUT_ACTIVATIONS: dict[str, OutputActivation] = {
    # The authors' release.
    "sigmoid": OutputActivation(_sigmoid),
    # Clipped to [-1, 1] and mapped to [0, 1], as networks trained on images in [-1, 1] need.
    "clip": OutputActivation(_clip_signed),
    # Ours: added to what is read, so that the network begins as what its hole was filled with and learns what that
    # lacks. 0.5 stands for the mean pixel, from which the last layer's bias learns the way.
    "residual": OutputActivation(_residual, begins_at_zero=True),
}

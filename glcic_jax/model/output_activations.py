"""How the completion network's last layer becomes an image.

Each takes what the last layer gives and the three colour channels that the network reads, both
[N, H, W, 3] float32, and returns [N, H, W, 3] float32 in [0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from glcic_jax.errors import ConfigError


class OutputActivation(NamedTuple):
    """A way from the last layer to an image.

    Attributes:
      apply: `(last layer, colours read) -> image`.
      begins_at_zero: Whether the last layer's kernel is zero before training.
      input_forms: The names in `images.INPUT_FORMS` that it fits; (): all.
    """

    apply: Callable[[jax.Array, jax.Array], jax.Array]
    begins_at_zero: bool = False
    input_forms: tuple[str, ...] = ()


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
    # lacks. 0.5 stands for the mean pixel that was subtracted; the last layer's bias learns the difference.
    "residual": OutputActivation(_residual, begins_at_zero=True, input_forms=("smooth_filled", "mean_subtracted")),
}


def check_input_form(name: str, input_form: str) -> None:
    """Asks whether an output activation fits an input form.

    Raises:
      ConfigError: It does not.
    """
    fitting = OUTPUT_ACTIVATIONS[name].input_forms
    if fitting and input_form not in fitting:
        raise ConfigError(
            f"completion.output_activation {name} adds to an input whose mean was subtracted: give "
            f"completion.input_form {' or '.join(fitting)}, not {input_form}"
        )

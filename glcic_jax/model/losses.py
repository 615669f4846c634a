"""Losses per example, [N] float32; the training step averages them.

Reference: Iizuka et al. 2017, Section 3.4, Equations 2 to 4.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from glcic_jax.errors import ConfigError, lookup

ReconstructionLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _mean_over_hole(error: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of `error` [N, H, W, C] over the hole's pixels and all channels, [N]."""
    count = mask.sum(axis=(1, 2, 3)) * error.shape[-1]
    return (mask * error).sum(axis=(1, 2, 3)) / jnp.maximum(count, 1.0)


def mse(output: jax.Array, image: jax.Array, mask: jax.Array) -> jax.Array:
    """The weighted MSE: Mc * (C(x, Mc) - x), squared and averaged over the hole's pixels and channels.

    Equation 2 is the squared norm, a sum over the hole; this is that sum divided by the number of values in the
    hole. A sum would weight each image by its hole's area, and alpha (Equation 4) relative to a term that grows
    with the crop; a mean over the whole image, which some ports take, still weights by the hole's area. The
    divisor also scales gradients relative to the square root of AdaDelta's eps (1e-3): far above it the optimizer
    ignores their scale, far below it each update is about the gradient itself.

    Args:
      output: [N, H, W, 3] float in [0, 1], the raw output.
      image: [N, H, W, 3] float in [0, 1], the original.
      mask: [N, H, W, 1] float, 1 = hole. An empty mask gives 0.

    Returns:
      [N] float32 >= 0.

    Reference: Iizuka et al. 2017, Equation 2.
    """
    return _mean_over_hole(jnp.square(output - image), mask)


def l1(output: jax.Array, image: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean absolute error inside the hole; arguments and result as in `mse`. Not in the paper."""
    return _mean_over_hole(jnp.abs(output - image), mask)


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """The discriminators' binary cross entropy: -log D(x, Md) - log(1 - D(C(x, Mc), Mc)).

    Args:
      real_logits: [N] float, logits of real images.
      fake_logits: [N] float, logits of completed images.

    Returns:
      [N] float32 >= 0; 2 log 2 = 1.386 for logits of 0.

    Reference: Iizuka et al. 2017, Equation 3; Algorithm 1, line 8.
    """
    return jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits)


def minimax(fake_logits: jax.Array) -> jax.Array:
    """The paper's adversarial term for C: log(1 - D(C(x, Mc), Mc)).

    Its gradient vanishes when D is confident (logits far below 0); the gradient balance compensates while it is
    active.

    Args:
      fake_logits: [N] float, logits of completed images.

    Returns:
      [N] float32 <= 0.

    Reference: Iizuka et al. 2017, Equation 4.
    """
    return -jax.nn.softplus(fake_logits)


def non_saturating(fake_logits: jax.Array) -> jax.Array:
    """The usual GAN form: -log D(C(x, Mc), Mc), [N] float32 >= 0. Not in the paper.

    Reference: Goodfellow et al. 2014, Section 3.
    """
    return jax.nn.softplus(-fake_logits)


def create_reconstruction_loss(weights: Mapping[str, float]) -> ReconstructionLoss:
    """Returns the weighted sum of reconstruction losses: `(output, image, mask) -> [N]`.

    Args:
      weights: A weight for each name in `RECONSTRUCTION_LOSSES`; 0 disables a loss.

    Raises:
      ConfigError: A name is unknown, no weight is positive, or one is negative.
    """
    found = [
        (weights[name], lookup(RECONSTRUCTION_LOSSES, name, "reconstruction loss")) for name in sorted(weights)
    ]
    terms = [(weight, loss) for weight, loss in found if weight != 0]
    if not terms or min(weight for weight, _ in terms) < 0:
        raise ConfigError("loss.reconstruction needs a weight above 0 and none below it")

    def weighted_sum(output: jax.Array, image: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.stack([weight * loss(output, image, mask) for weight, loss in terms]).sum(axis=0)

    return weighted_sum


RECONSTRUCTION_LOSSES: dict[str, ReconstructionLoss] = {"mse": mse, "l1": l1}

ADVERSARIAL_LOSSES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
}

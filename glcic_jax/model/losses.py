"""Losses, one number per example: [N] float32. The step reduces them.

Reference: Iizuka et al. 2017, Section 3.4, Equations 2 to 4.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from glcic_jax.errors import ConfigError, lookup

ReconstructionLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _mean_over_hole(error: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean of `error` [N, H, W, C] over the hole's pixels and all channels: [N]."""
    count = mask.sum(axis=(1, 2, 3)) * error.shape[-1]
    return (mask * error).sum(axis=(1, 2, 3)) / jnp.maximum(count, 1.0)


def mse(output: jax.Array, image: jax.Array, mask: jax.Array) -> jax.Array:
    """The weighted MSE: Mc * (C(x, Mc) - x), squared, averaged over the numbers inside the hole.

    Equation 2 is the squared norm, a sum over the hole. We divide it by the count of the hole's numbers
    (pixels times channels). A sum would weigh an image by the area of its hole and Equation 4's fixed alpha
    against a term that grows with the crop's size; a mean over the whole image, which some ports take, still
    weighs by the hole's area. The factor also decides how large gradients are beside the square root of
    AdaDelta's eps (1e-3): far above it the optimiser is blind to their scale, far below it each update is
    about the gradient itself.

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
    """The binary cross entropy that the discriminators minimise: -log D(x, Md) - log(1 - D(C(x, Mc), Mc)).

    Args:
      real_logits: [N] float, for real images.
      fake_logits: [N] float, for completed images.

    Returns:
      [N] float32 >= 0; 2 log 2 = 1.386 where D is blind.

    Reference: Iizuka et al. 2017, Equation 3; Algorithm 1, line 8.
    """
    return jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits)


def minimax(fake_logits: jax.Array) -> jax.Array:
    """The adversarial term as the paper writes it: log(1 - D(C(x, Mc), Mc)), to be minimised.

    Its gradient fades where D is sure (logit far below 0); the balance of the gradients' norms makes up for
    that as long as it lasts.

    Args:
      fake_logits: [N] float, for completed images.

    Returns:
      [N] float32 <= 0.

    Reference: Iizuka et al. 2017, Equation 4.
    """
    return -jax.nn.softplus(fake_logits)


def non_saturating(fake_logits: jax.Array) -> jax.Array:
    """The form that most GAN code takes: -log D(C(x, Mc), Mc), [N] float32 >= 0. Not in the paper.

    Reference: Goodfellow et al. 2014, Section 3.
    """
    return jax.nn.softplus(-fake_logits)


def create_reconstruction_loss(weights: Mapping[str, float]) -> ReconstructionLoss:
    """Returns the weighted sum of reconstruction losses: `(output, image, mask) -> [N]`.

    Args:
      weights: A weight for each name in `RECONSTRUCTION_LOSSES`; 0 leaves a loss out.

    Raises:
      ConfigError: A name is unknown, or no weight is above 0.
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

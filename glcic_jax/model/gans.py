"""The generative adversarial networks: what their modules have in common, and how images are drawn from them."""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from glcic_jax.model import images
from glcic_jax.model.dcgan import DcganDiscriminator, DcganGenerator
from glcic_jax.model.networks import Variables
from glcic_jax.model.vanilla_gan import VanillaDiscriminator, VanillaGenerator

_LARGEST_BATCH = 64  # Of images that are drawn together.


class Generator(Protocol):
    """G as a flax module: latents [N, latent_size] to images [N, S, S, channels] float32 in [0, 1].

    Attributes:
      image_size: S, in pixels.
      channels: 1 for grey, 3 for colour.
      latent_size: Numbers that an image is made of.
      width: Multiplies the features of every layer except the last.
      dtype: Type of the arithmetic; parameters and running statistics stay float32.
      axis_name: The pmap axis over which training averages batch statistics; None for each device's own.
    """

    image_size: int
    channels: int
    latent_size: int
    width: float
    dtype: Any
    axis_name: str | None

    def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
        """Runs the network; `train` normalises by the batch instead of the running statistics."""

    def apply(self, variables: Variables, *arguments: Any, **options: Any) -> Any:
        """As `flax.linen.Module.apply`."""

    @staticmethod
    def draw_latent(key: jax.Array, size: int) -> jax.Array:
        """Draws one example's latents, [size] float32, from the prior."""


class Discriminator(Protocol):
    """D as a flax module: images [N, S, S, C] float in [0, 1] to logits [N] float32, positive = real.

    Attributes:
      width, dtype, axis_name: As in `Generator`.
    """

    width: float
    dtype: Any
    axis_name: str | None

    def __call__(self, image: jax.Array, train: bool = False, keys: jax.Array | None = None) -> jax.Array:
        """Runs the network; in training each example has a key [N], for dropout."""


class Gan(NamedTuple):
    """The modules of G and D."""

    generator: Any
    discriminator: Any


def draw_latents(generator: Any, key: jax.Array, count: int) -> jax.Array:
    """Draws latents [count, latent_size] float32; those of an example do not depend on how many are drawn."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    return jax.vmap(generator.draw_latent, (0, None))(keys, generator.latent_size)


def generate(generator: Any, variables: Variables, latents: jax.Array) -> np.ndarray:
    """Draws the images of latents [N, latent_size] with the running statistics: [N, S, S, C] uint8."""
    count = len(latents)
    # Whole batches, so that one program serves all.
    padded = jnp.pad(latents, ((0, -count % _LARGEST_BATCH), (0, 0)))
    batches = padded.reshape(-1, _LARGEST_BATCH, latents.shape[-1])
    return np.concatenate([np.asarray(_generate(generator, variables, batch)) for batch in batches])[:count]


def generate_walks(generator: Any, variables: Variables, latents: jax.Array, points: int) -> np.ndarray:
    """Draws images along the lines from each of the latents to the next, by linear interpolation.

    Args:
      generator, variables: G.
      latents: [N, latent_size] float, at least two.
      points: Images of each line, both ends included; at least 2.

    Returns:
      [N - 1, points, S, S, C] uint8.

    Reference: Goodfellow et al. 2014, Figure 3; Radford et al. 2016, Figure 4.
    """
    weights = jnp.linspace(0.0, 1.0, points)[:, None]
    lines = (1.0 - weights) * latents[:-1, None] + weights * latents[1:, None]
    samples = generate(generator, variables, lines.reshape(-1, latents.shape[-1]))
    return samples.reshape(len(lines), points, *samples.shape[1:])


@functools.partial(jax.jit, static_argnums=0)
def _generate(generator: Any, variables: Variables, latents: jax.Array) -> jax.Array:
    return images.to_uint8(generator.apply(variables, latents, train=False))


GANS: dict[str, Gan] = {
    "vanilla_gan": Gan(VanillaGenerator, VanillaDiscriminator),
    "dcgan": Gan(DcganGenerator, DcganDiscriminator),
}

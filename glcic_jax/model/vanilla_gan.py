"""The networks of the first GAN: fully connected, for grey digits of 28 px.

Sizes are those of the authors' release (mnist.yaml), and so is the range of D's initial weights. There G's weights
begin in [-0.05, 0.05], with which all latents first give nearly one image, and D won in our trainings; here they
have He's variance. The bias of G's last layer begins at the mean digit there, here at the mean brightness of all.

Reference: Goodfellow et al. 2014, Section 5.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from glcic_jax.model.networks import scaled

_HIDDEN = 1200  # Units of each of G's two hidden layers.
_MEAN_LOGIT = -1.9  # Of MNIST's mean brightness, 0.13.
_UNITS, _PIECES = 240, 5  # Of each of D's two maxout layers.


def _initialize(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """Of D: uniform in [-0.005, 0.005]."""
    return jax.random.uniform(key, shape, dtype, -0.005, 0.005)


class VanillaGenerator(nn.Module):
    """G: latents to images, by two hidden layers of 1200 ReLU and a sigmoid; fields as in `gans.Generator`."""

    image_size: int = 28
    channels: int = 1
    latent_size: int = 100
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
        hidden = latents
        for index in (1, 2):
            hidden = nn.relu(self._dense(scaled(_HIDDEN, self.width), f"linear{index}")(hidden))
        pixels = self._dense(self.image_size**2 * self.channels, "linear3", _MEAN_LOGIT)
        flat = pixels(hidden).astype(jnp.float32)
        return nn.sigmoid(flat).reshape(-1, self.image_size, self.image_size, self.channels)

    def _dense(self, features: int, name: str, bias: float = 0.0) -> nn.Dense:
        kernel_init, bias_init = nn.initializers.he_normal(), nn.initializers.constant(bias)
        return nn.Dense(features, dtype=self.dtype, kernel_init=kernel_init, bias_init=bias_init, name=name)

    @staticmethod
    def draw_latent(key: jax.Array, size: int) -> jax.Array:
        """Returns [size] float32 from N(0, 1), as the authors' release."""
        return jax.random.normal(key, (size,))


class VanillaDiscriminator(nn.Module):
    """D: images to logits, by two maxout layers with dropout; fields and call as in `gans.Discriminator`.

    Dropout keeps 80 % of the pixels and 50 % of the hidden units, and scales what is kept.
    """

    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False, keys: jax.Array | None = None) -> jax.Array:
        hidden = image.reshape(len(image), -1)
        units = scaled(_UNITS, self.width)
        for index, kept in ((1, 0.8), (2, 0.5)):
            dense = nn.Dense(units * _PIECES, dtype=self.dtype, kernel_init=_initialize, name=f"maxout{index}")
            dropped = _dropout(hidden, kept, keys, index) if train else hidden
            hidden = dense(dropped).reshape(-1, units, _PIECES).max(axis=-1)
        dropped = _dropout(hidden, 0.5, keys, 3) if train else hidden
        return nn.Dense(1, dtype=jnp.float32, kernel_init=_initialize, name="linear")(dropped)[:, 0]


def _dropout(hidden: jax.Array, kept: float, keys: jax.Array | None, layer: int) -> jax.Array:
    """Dropout with a key for each example, so that it does not depend on the number of devices."""
    assert keys is not None

    def mask(key: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, layer), kept, hidden.shape[1:])

    return jnp.where(jax.vmap(mask)(keys), hidden / kept, 0)

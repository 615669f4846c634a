"""The networks of the DCGAN: all convolutions, BatchNorm except at G's output and D's input.

G projects latents to 4 x 4 px, and transposed convolutions double that up to the image's size: four for 64 px,
with 1024, 512, 256 and 128 features before them. D mirrors it. Departure: G's kernels are 4 x 4, not 5 x 5; every
output pixel then has the same number of inputs.

Reference: Radford et al. 2016, Section 3 and Figure 1; the authors' release for the features of D.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from glcic_jax.errors import ConfigError
from glcic_jax.model.networks import BATCH_NORM_EPSILON, Convolution, Layer, scaled

_FEATURES = 128  # Of G's last hidden layer and of D's first.
_SMALLEST = 4  # Side in pixels of G's first and D's last map.
_INITIALIZER = nn.initializers.normal(0.02)


def _scale_initializer(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


def _batch_norm(module: Any, name: str, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=BATCH_NORM_EPSILON,
        dtype=module.dtype,
        scale_init=_scale_initializer,
        axis_name=module.axis_name if train else None,
        name=name,
    )


def _doublings(image_size: int) -> int:
    """Returns how often the smallest map doubles to become an image; raises ConfigError if it does not."""
    count = (image_size // _SMALLEST).bit_length() - 1
    if count < 1 or _SMALLEST << count != image_size:
        raise ConfigError(f"data.image_size is {image_size}: a DCGAN needs 8, 16, 32, 64, or another power of 2")
    return count


class DcganGenerator(nn.Module):
    """G: latents to images, with ReLU and tanh; fields as in `gans.Generator`."""

    image_size: int = 64
    channels: int = 3
    latent_size: int = 100
    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
        count = _doublings(self.image_size)
        features = [scaled(_FEATURES << index, self.width) for index in reversed(range(count))]
        project = nn.Dense(
            _SMALLEST**2 * features[0], use_bias=False, dtype=self.dtype, kernel_init=_INITIALIZER, name="project"
        )
        hidden = project(latents).reshape(-1, _SMALLEST, _SMALLEST, features[0])
        for index, channels in enumerate([*features[1:], self.channels], start=1):
            hidden = nn.relu(_batch_norm(self, f"bn{index}", train)(hidden))
            layer = Layer(f"deconv{index}", channels, kernel=4)
            hidden = Convolution(layer, channels, self.dtype, _INITIALIZER, name=layer.name)(hidden)
        return (nn.tanh(hidden.astype(jnp.float32)) + 1.0) / 2.0

    @staticmethod
    def draw_latent(key: jax.Array, size: int) -> jax.Array:
        """Returns [size] float32, uniform in [-1, 1), as in the paper's Figure 1."""
        return jax.random.uniform(key, (size,), minval=-1.0)


class DcganDiscriminator(nn.Module):
    """D: images to logits, by 5 x 5 convolutions with stride 2 and LeakyReLU of slope 0.2.

    Fields and call as in `gans.Discriminator`.
    """

    width: float = 1.0
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False, keys: jax.Array | None = None) -> jax.Array:
        del keys  # There is no dropout.
        hidden = (2.0 * image - 1.0).astype(self.dtype)
        for index in range(_doublings(image.shape[1])):
            features = scaled(_FEATURES << index, self.width)
            layer = Layer(f"conv{index + 1}", features, kernel=5, stride=2)
            hidden = Convolution(layer, features, self.dtype, _INITIALIZER, name=layer.name)(hidden)
            if index:
                hidden = _batch_norm(self, f"bn{index + 1}", train)(hidden)
            hidden = nn.leaky_relu(hidden, 0.2)
        flat = hidden.reshape(len(hidden), -1).astype(jnp.float32)
        return nn.Dense(1, dtype=jnp.float32, kernel_init=_INITIALIZER, name="linear")(flat)[:, 0]

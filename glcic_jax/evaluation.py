"""Measuring completions on fixed images with fixed holes."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glcic_jax import blending, images
from glcic_jax.completion import complete
from glcic_jax.metrics import ImageMetrics, image_metrics
from glcic_jax.state import Recipe, Variables

# Bounds the memory of a full-size evaluation on a small GPU.
_LARGEST_BATCH = 16


Array = np.ndarray | jax.Array


class Completions(NamedTuple):
    """What came out: `output` and `completed` [N, H, W, 3] float32, and the metrics [N], on the host."""

    output: Array
    completed: Array
    metrics: ImageMetrics


class FixedExamples:
    """Images and holes that stay the same from one evaluation to the next.

    Args:
      image: [N, S, S, 3] uint8.
      recipe: Gives the mask sampler, the network and its input form.
      mean_pixel: [3] float in [0, 1].
      key: Of the holes.
    """

    def __init__(self, image: np.ndarray, recipe: Recipe, mean_pixel: np.ndarray, key: jax.Array):
        height, width = image.shape[1:3]

        @jax.jit
        def draw(key: jax.Array) -> jax.Array:
            keys = jax.random.split(key, len(image))
            return jax.vmap(lambda k: recipe.mask_sampler(k, (height, width), recipe.local_size)[0])(keys)

        self.image = image
        self.mask = np.asarray(draw(key))
        self.mean_pixel = np.asarray(mean_pixel, np.float32)
        self._evaluate = jax.jit(functools.partial(_evaluate, recipe))

    def evaluate(self, variables: Variables) -> Completions:
        """Completes all images and measures them.

        Args:
          variables: `params` and `batch_stats` of the completion network.
        """
        parts = []
        for start in range(0, len(self.image), _LARGEST_BATCH):
            chosen = slice(start, start + _LARGEST_BATCH)
            result = self._evaluate(variables, self.image[chosen], self.mask[chosen], self.mean_pixel)
            parts.append(jax.device_get(result))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def classical_fills(self) -> dict[str, Completions]:
        """The same holes filled with the mean pixel, and by fast marching (Telea)."""
        hole = self.mask > 0.5
        mean_fill = np.where(hole, images.to_uint8(jnp.asarray(self.mean_pixel)), self.image)
        fills = {"mean fill": mean_fill, "Telea": blending.telea(self.image, self.mask)}
        return {name: self._measure(fill) for name, fill in fills.items()}

    def _measure(self, filled: np.ndarray) -> Completions:
        completed = np.asarray(images.to_float(jnp.asarray(filled)))
        original = images.to_float(jnp.asarray(self.image))
        metrics = jax.device_get(jax.jit(image_metrics)(completed, original, self.mask))
        return Completions(completed, completed, metrics)


def _evaluate(
    recipe: Recipe, variables: Variables, image: jax.Array, mask: jax.Array, mean_pixel: jax.Array
) -> Completions:
    original = images.to_float(image)
    output, completed = complete(
        recipe.completion_network, variables, original, mask, mean_pixel, recipe.input_form
    )
    return Completions(output, completed, image_metrics(completed, original, mask))


def mean_metrics(metrics: ImageMetrics) -> dict[str, float]:
    """The mean of each metric over the images, by its name."""
    values: dict[str, Any] = vars(metrics)
    return {name: float(np.mean(value)) for name, value in values.items()}

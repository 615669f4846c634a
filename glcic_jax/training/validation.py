"""Measuring completions: one way for training's validation, for `glcic evaluate` and for `glcic compare`."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import experimental

from glcic_jax.completion.holes import bucket
from glcic_jax.evaluation.statistics import finite_mean
from glcic_jax.model import images
from glcic_jax.model.metrics import image_metrics
from glcic_jax.pictures.fills import FILLS
from glcic_jax.training.state import Recipe, Variables
from glcic_jax.weights.from_run import complete

# Bounds the memory of a full-size evaluation on a small GPU.
_LARGEST_BATCH = 16


def measure(completed: np.ndarray, image: np.ndarray, hole: np.ndarray) -> dict[str, np.ndarray]:
    """Compares completed pictures with the originals, on JAX's first device.

    Pictures of 8 bits, so that a completion measures the same before and after it is written to a file.

    Args:
      completed: [N, H, W, 3] uint8; sides of at least 11 px.
      image: [N, H, W, 3] uint8.
      hole: [N, H, W] bool.

    Returns:
      The fields of `metrics.ImageMetrics`, each [N] float64.
    """
    parts = [
        _measure_together(completed[start:stop], image[start:stop], hole[start:stop])
        for start, stop in ((start, start + _LARGEST_BATCH) for start in range(0, len(image), _LARGEST_BATCH))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _measure_together(completed: np.ndarray, image: np.ndarray, hole: np.ndarray) -> dict[str, np.ndarray]:
    sides = image.shape[1:3]
    padded = bucket(sides[0]), bucket(sides[1])
    # Divided here: a compiler may round the two differently where it does, and then equal pictures differ.
    arrays: list[np.ndarray] = [completed / 255.0, image / 255.0, hole[..., None]]
    extent = None
    if padded != sides:  # Pictures of many sizes share few programs.
        padding = [(0, 0), *((0, to - side) for to, side in zip(padded, sides, strict=True)), (0, 0)]
        extent = np.tile(np.array(sides, np.int32), (len(image), 1))
        arrays = [np.pad(array, padding) for array in arrays]
    # In float32, SSIM's variances lose more than 1e-5 where flat parts are bright and others dark.
    with _float64():
        found = _measured(*arrays, extent)
    return {name: np.asarray(value, np.float64) for name, value in vars(jax.device_get(found)).items()}


_measured = jax.jit(image_metrics)


def _float64() -> Any:
    """A context in which JAX computes in float64 what is given in it."""
    # In JAX's newer versions it is no experiment any more.
    where: Any = jax if hasattr(jax, "enable_x64") else experimental
    return where.enable_x64(True)


def mean_metrics(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each metric over the images; what is not finite, as the PSNR of equal images, is left out."""
    return {name: finite_mean(values) for name, values in metrics.items()}


class Completions(NamedTuple):
    """What came out.

    Attributes:
      output: [N, H, W, 3] float32, the network's raw output.
      completed: [N, H, W, 3] uint8.
      metrics: As from `measure`.
    """

    output: np.ndarray
    completed: np.ndarray
    metrics: dict[str, np.ndarray]


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
        self._complete = jax.jit(functools.partial(_complete, recipe))

    def evaluate(self, variables: Variables) -> Completions:
        """Completes all images and measures them.

        Args:
          variables: `params` and `batch_stats` of the completion network.
        """
        outputs, completed = [], []
        for start in range(0, len(self.image), _LARGEST_BATCH):
            chosen = slice(start, start + _LARGEST_BATCH)
            found = self._complete(variables, self.image[chosen], self.mask[chosen], self.mean_pixel)
            output, one = jax.device_get(found)
            outputs.append(output)
            completed.append(one)
        return self._measured(np.concatenate(outputs), np.concatenate(completed))

    def classical_fills(self) -> dict[str, Completions]:
        """The same holes filled without a network."""
        hole = self.mask[..., 0] > 0.5
        filled = {
            name: np.stack([fill(*one) for one in zip(self.image, hole, strict=True)])
            for name, fill in FILLS.items()
        }
        return {name: self._measured(fill / np.float32(255), fill) for name, fill in filled.items()}

    def _measured(self, output: np.ndarray, completed: np.ndarray) -> Completions:
        return Completions(output, completed, measure(completed, self.image, self.mask[..., 0] > 0.5))


def _complete(
    recipe: Recipe, variables: Variables, image: jax.Array, mask: jax.Array, mean_pixel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    network, original = recipe.completion_network, images.to_float(image)
    output, completed = complete(network, variables, original, mask, mean_pixel, recipe.input_form)
    return output, images.to_uint8(completed)

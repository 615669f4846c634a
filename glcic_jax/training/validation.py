"""Measuring completions: one way for training's validation, for `glcic evaluate` and for `glcic compare`."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from glcic_jax.model import images
from glcic_jax.model.metrics import LARGEST_BATCH, measure
from glcic_jax.model.networks import Variables, complete
from glcic_jax.pictures.fills import FILLS
from glcic_jax.pictures.rgb_files import save_image
from glcic_jax.training.metric_log import MetricLog
from glcic_jax.training.state import TrainingSpec


def mean_metrics(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The mean of each metric over the images; what is not finite, as the PSNR of equal images, is left out."""
    finite = {name: values[np.isfinite(values)] for name, values in metrics.items()}
    return {name: float(values.mean()) if values.size else math.nan for name, values in finite.items()}


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
      spec: Gives the mask sampler, the network and its input form.
      mean_pixel: [3] float in [0, 1].
      key: Of the holes.
    """

    def __init__(self, image: np.ndarray, spec: TrainingSpec, mean_pixel: np.ndarray, key: jax.Array):
        height, width = image.shape[1:3]

        @jax.jit
        def draw(key: jax.Array) -> jax.Array:
            keys = jax.random.split(key, len(image))
            return jax.vmap(lambda k: spec.mask_sampler(k, (height, width), spec.local_size)[0])(keys)

        self.image = image
        self.mask = np.asarray(draw(key))
        self.mean_pixel = np.asarray(mean_pixel, np.float32)
        self._complete = jax.jit(functools.partial(_complete, spec))

    def evaluate(self, variables: Variables) -> Completions:
        """Completes all images and measures them.

        Args:
          variables: `params` and `batch_stats` of the completion network.
        """
        outputs, completed = [], []
        for start in range(0, len(self.image), LARGEST_BATCH):
            chosen = slice(start, start + LARGEST_BATCH)
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
    spec: TrainingSpec, variables: Variables, image: jax.Array, mask: jax.Array, mean_pixel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    network, original = spec.completion_network, images.to_float(image)
    output, completed = complete(network, variables, original, mask, mean_pixel, spec.input_form)
    return output, images.to_uint8(completed)


def tile(columns: list[np.ndarray], gap: int = 2) -> np.ndarray:
    """Lays pictures out in a grid: one row an example, one column a kind.

    Args:
      columns: For each kind [N, H, W, 3] uint8.
      gap: White pixels between pictures.

    Returns:
      [N * (H + gap) - gap, K * (W + gap) - gap, 3] uint8.
    """
    stacked = np.stack(columns, axis=1)
    padded = np.pad(stacked, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    count, kinds, height, width, channels = padded.shape
    grid = padded.transpose(0, 2, 1, 3, 4).reshape(count * height, kinds * width, channels)
    return grid[: count * height - gap, : kinds * width - gap]


def save_grid(workdir: Path, step: int, columns: list[np.ndarray], log: MetricLog) -> None:
    """Writes a grid (input, raw output, completed, truth) to grids/ and to TensorBoard."""
    grid = tile(columns)
    save_image(grid, workdir / "grids" / f"step_{step:08d}.png")
    log.picture(step, "input, output, completed, truth", grid)

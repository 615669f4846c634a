"""Validation during training: fixed held-out crops with fixed holes, their metrics, and grids of them."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glcic_jax.model import images
from glcic_jax.model.metrics import LARGEST_BATCH, measure
from glcic_jax.model.networks import Variables, complete
from glcic_jax.pictures import save_image
from glcic_jax.pictures.fills import FILLS
from glcic_jax.training.metric_log import MetricLog
from glcic_jax.training.state import TrainingSpec


def mean_metrics(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the mean of each metric over the images, without infinite values (the PSNR of equal images)."""
    finite = {name: values[np.isfinite(values)] for name, values in metrics.items()}
    return {name: float(values.mean()) if values.size else math.nan for name, values in finite.items()}


class Completions(NamedTuple):
    """Completed images and their metrics.

    Attributes:
      output: [N, H, W, 3] float32 in [0, 1], the network's raw output.
      completed: [N, H, W, 3] uint8.
      metrics: [N] each, see `measure`.
    """

    output: np.ndarray
    completed: np.ndarray
    metrics: dict[str, np.ndarray]


class FixedExamples:
    """Images and holes that are the same at every validation.

    Args:
      image: [N, S, S, 3] uint8.
      spec: Gives the mask sampler, the network and its input form.
      mean_pixel: [3] float in [0, 1].
      key: Key of the holes.
    """

    def __init__(self, image: np.ndarray, spec: TrainingSpec, mean_pixel: np.ndarray, key: jax.Array):
        def draw_mask(key: jax.Array) -> jax.Array:
            return spec.mask_sampler(key, image.shape[1:3], spec.local_size)[0]

        self.image = image
        self.mask = np.asarray(jax.jit(jax.vmap(draw_mask))(jax.random.split(key, len(image))))
        self.mean_pixel = np.asarray(mean_pixel, np.float32)
        self._complete = jax.jit(functools.partial(_complete, spec))

    def evaluate(self, variables: Variables) -> Completions:
        """Completes and measures all images.

        Args:
          variables: `params` and `batch_stats` of the completion network.
        """
        batches = []
        for start in range(0, len(self.image), LARGEST_BATCH):
            part = slice(start, start + LARGEST_BATCH)
            found = self._complete(variables, self.image[part], self.mask[part], self.mean_pixel)
            batches.append(jax.device_get(found))
        output, completed = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        return self._measure(output, completed)

    def classical_fills(self) -> dict[str, Completions]:
        """Fills the same holes without a network."""
        hole = self.mask[..., 0] > 0.5
        filled = {
            name: np.stack([fill(*one) for one in zip(self.image, hole, strict=True)])
            for name, fill in FILLS.items()
        }
        return {name: self._measure(image / np.float32(255), image) for name, image in filled.items()}

    def save_grid(
        self, workdir: Path, step: int, output: np.ndarray, completed: np.ndarray, log: MetricLog
    ) -> None:
        """Writes a grid (input, raw output, completed, original) to `grids/` and to TensorBoard.

        Args:
          workdir: The run's directory.
          step: Number of updates done.
          output, completed: Of the first images, see `Completions`.
          log: The run's log.
        """
        image, mask = self.image[: len(output)], self.mask[: len(output)]
        mean_pixel, raw = (np.asarray(images.to_uint8(jnp.asarray(x))) for x in (self.mean_pixel, output))
        grid = _tile([np.where(mask > 0.5, mean_pixel, image), raw, completed, image])
        save_image(grid, workdir / "grids" / f"step_{step:08d}.png")
        log.picture(step, "input, output, completed, truth", grid)

    def _measure(self, output: np.ndarray, completed: np.ndarray) -> Completions:
        return Completions(output, completed, measure(completed, self.image, self.mask[..., 0] > 0.5))


def _complete(
    spec: TrainingSpec, variables: Variables, image: jax.Array, mask: jax.Array, mean_pixel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    network, original = spec.completion_network, images.to_float(image)
    output, completed = complete(network, variables, original, mask, mean_pixel, spec.input_form)
    return output, images.to_uint8(completed)


def _tile(columns: list[np.ndarray], gap: int = 2) -> np.ndarray:
    """Arranges images in a grid: one row per example, one column per kind.

    Args:
      columns: [N, H, W, 3] uint8 for each kind.
      gap: White pixels between images.

    Returns:
      [N * (H + gap) - gap, K * (W + gap) - gap, 3] uint8.
    """
    stacked = np.stack(columns, axis=1)
    padded = np.pad(stacked, ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
    count, kinds, height, width, channels = padded.shape
    grid = padded.transpose(0, 2, 1, 3, 4).reshape(count * height, kinds * width, channels)
    return grid[: count * height - gap, : kinds * width - gap]

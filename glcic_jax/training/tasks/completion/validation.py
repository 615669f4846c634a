"""Validation of C: fixed held-out crops with fixed holes, their metrics, and pictures of them."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glcic_jax.model import images
from glcic_jax.model.metrics import LARGEST_BATCH, measure
from glcic_jax.model.networks import Variables, complete
from glcic_jax.pictures import tile
from glcic_jax.pictures.fills import FILLS
from glcic_jax.training.task import Findings
from glcic_jax.training.tasks.completion.state import TrainingSpec, TrainState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGEST_COMPARISON = 6  # Images.


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
      shown: Number of images in a grid.
    """

    def __init__(self, image: np.ndarray, spec: TrainingSpec, mean_pixel: np.ndarray, key: jax.Array, shown: int):
        def draw_mask(key: jax.Array) -> jax.Array:
            return spec.mask_sampler(key, image.shape[1:3], spec.local_size)[0]

        self.image = image
        self.mask = np.asarray(jax.jit(jax.vmap(draw_mask))(jax.random.split(key, len(image))))
        self.mean_pixel = np.asarray(mean_pixel, np.float32)
        self._shown = shown
        self._complete = jax.jit(functools.partial(_complete, spec))

    def evaluate(self, state: TrainState) -> Findings:
        """See `task.Examples`; the grid has columns for input, raw output, completed and original."""
        found = self.complete(state.inference_variables)
        shown = slice(self._shown)
        image, mask = self.image[shown], self.mask[shown]
        mean_pixel, raw = (
            np.asarray(images.to_uint8(jnp.asarray(x))) for x in (self.mean_pixel, found.output[shown])
        )
        grid = tile([np.where(mask > 0.5, mean_pixel, image), raw, found.completed[shown], image])
        return Findings(mean_metrics(found.metrics), grid)

    def complete(self, variables: Variables) -> Completions:
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

    def summarise(self, workdir: Path, state: TrainState) -> list[str]:
        """See `task.Examples`; compares C with fills without a network, in a table and in comparison.png."""
        from glcic_jax.training.summary import save_figure  # Imports matplotlib.

        results = {**self.classical_fills(), "GLCIC": self.complete(state.inference_variables)}
        save_figure(_draw_comparison(self, results), workdir / "comparison.png")
        return [
            f"## Held-out images\n\n{_metrics_table(results)}\n\n"
            f"{len(self.image)} fixed crops of held-out images with fixed holes; completion network of width "
            f"{state.spec.completion_network.width}. Means over the crops; PSNR in dB; no post-processing.",
            f"![input, {', '.join(results)}, original; PSNR of the hole](comparison.png)",
        ]

    def _measure(self, output: np.ndarray, completed: np.ndarray) -> Completions:
        return Completions(output, completed, measure(completed, self.image, self.mask[..., 0] > 0.5))


def _complete(
    spec: TrainingSpec, variables: Variables, image: jax.Array, mask: jax.Array, mean_pixel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    network, original = spec.completion_network, images.to_float(image)
    output, completed = complete(network, variables, original, mask, mean_pixel, spec.input_form)
    return output, images.to_uint8(completed)


def _metrics_table(results: dict[str, Completions]) -> str:
    names = ("hole_psnr", "hole_l1", "hole_ssim", "hole_sharpness", "psnr", "l1", "ssim")
    heads = ("hole PSNR", "hole L1", "hole SSIM", "hole sharpness", "PSNR", "L1", "SSIM")
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for label, completions in results.items():
        means = mean_metrics(completions.metrics)
        cells = [f"{means[name]:.2f}" if name.endswith("psnr") else f"{means[name]:.4f}" for name in names]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _draw_comparison(examples: FixedExamples, results: dict[str, Completions]) -> "Figure":
    """The first held-out images: input, every fill with the PSNR of its hole, original."""
    from matplotlib.figure import Figure

    count = min(_LARGEST_COMPARISON, len(examples.image))
    original = examples.image[:count]
    hole = examples.mask[:count] > 0.5
    columns = {"input": np.where(hole, np.uint8(255), original)}
    columns |= {label: result.completed[:count] for label, result in results.items()}
    columns["original"] = original
    figure = Figure(figsize=(1.6 * len(columns), 1.85 * count), layout="constrained")
    panes = np.reshape(figure.subplots(count, len(columns)), (count, len(columns)))
    for column, (label, pictures) in enumerate(columns.items()):
        for row in range(count):
            axes = panes[row, column]
            axes.imshow(pictures[row], interpolation="nearest")
            axes.set_axis_off()
            if label in results:
                axes.set_title(f"{label} {results[label].metrics['hole_psnr'][row]:.1f} dB", fontsize=8)
            elif row == 0:
                axes.set_title(label, fontsize=8)
    return figure

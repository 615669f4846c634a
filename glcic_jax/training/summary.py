"""The page that a finished run leaves behind: summary.md, curves.png and comparison.png."""

import os
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glcic_jax.pictures.rgb_files import save_image
from glcic_jax.training.checkpoints import package_versions
from glcic_jax.training.metric_log import read_metrics
from glcic_jax.training.schedule import Schedule
from glcic_jax.training.state import TrainState
from glcic_jax.training.validation import Completions, FixedExamples, mean_metrics

_COMPARED = 6

_CURVES = (
    ("reconstruction loss in the hole", ("reconstruction_loss",)),
    ("discriminator loss", ("discriminator_loss",)),
    ("accuracy of D", ("real_accuracy", "fake_accuracy")),
    ("weight of the adversarial gradient", ("adversarial_weight",)),
    ("validation PSNR in the hole, dB", ("validation_hole_psnr",)),
    ("validation L1 in the hole", ("validation_hole_l1",)),
)


def write_summary(
    workdir: Path, config: Any, schedule: Schedule, validation: FixedExamples, state: TrainState
) -> Path:
    """Writes summary.md with its pictures, from metrics.jsonl and the final weights.

    Args:
      workdir: The run's directory.
      config: The run's configuration.
      schedule: Its phases.
      validation: The fixed held-out images.
      state: The final state, on one device.

    Returns:
      The path of summary.md.
    """
    rows = read_metrics(workdir)
    completions = validation.evaluate(state.inference_variables)
    results = {**validation.classical_fills(), "GLCIC": completions}
    _draw_curves(rows, schedule, workdir / "curves.png")
    _draw_comparison(validation, results, workdir / "comparison.png")
    step = int(state.step)
    grid = workdir / "grids" / f"step_{step:08d}.png"
    parts = [
        f"# {workdir.name}",
        f"{step} of {schedule.total_steps} steps; batch {config.batch_size}; {config.data.image_size} px; "
        f"data {config.data.source}; width {config.completion.width}; {config.compute_dtype}.",
        f"## Held-out images\n\n{_metrics_table(results)}\n\n"
        f"{len(validation.image)} fixed crops of held-out images, holes by the sampler {config.mask.sampler}. "
        "Means over the crops; PSNR in dB; no post-processing.",
        f"![input, {', '.join(results)}, truth; PSNR of the hole](comparison.png)",
        f"## Phases\n\n{_phase_table(rows, schedule)}",
        "![curves](curves.png)",
    ]
    if grid.exists():
        parts.append(
            f"## Last grid\n\nInput, raw output, completed, truth.\n\n![grid]({grid.relative_to(workdir)})"
        )
    parts.append(f"## Where it ran\n\n{_environment()}")
    path = workdir / "summary.md"
    aside = workdir / ".summary.md"
    aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    aside.replace(path)
    return path


def _metrics_table(results: dict[str, Completions]) -> str:
    names = ("hole_psnr", "hole_l1", "hole_ssim", "psnr", "l1", "ssim")
    heads = ("hole PSNR", "hole L1", "hole SSIM", "PSNR", "L1", "SSIM")
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for label, completions in results.items():
        means = mean_metrics(completions.metrics)
        cells = [f"{means[name]:.2f}" if name.endswith("psnr") else f"{means[name]:.4f}" for name in names]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _phase_table(rows: list[dict[str, Any]], schedule: Schedule) -> str:
    lines = [
        "| phase | steps | reconstruction loss in the hole, first to last | D loss, first to last | images/s "
        "| waiting for data |",
        "|---|---|---|---|---|---|",
    ]
    for phase in schedule.phases:
        of_phase = [row for row in rows if row["phase"] == phase.name and phase.start < row["step"] <= phase.stop]
        cells = [
            _first_to_last(of_phase, "reconstruction_loss"),
            _first_to_last(of_phase, "discriminator_loss"),
            _mean_cell(of_phase, "images_per_second", "{:.1f}"),
            _mean_cell(of_phase, "data_wait_fraction", "{:.1%}"),
        ]
        lines.append(f"| {phase.name} | {phase.start} to {phase.stop} | " + " | ".join(cells) + " |")
    elapsed = rows[-1]["elapsed_seconds"] if rows else 0.0
    return "\n".join(lines) + f"\n\n{elapsed:.0f} s in all, compilation, validation and checkpoints included."


def _first_to_last(rows: list[dict[str, Any]], name: str) -> str:
    values = [row[name] for row in rows if name in row]
    return f"{values[0]:.4f} to {values[-1]:.4f}" if values else "-"


def _mean_cell(rows: list[dict[str, Any]], name: str, form: str) -> str:
    values = [row[name] for row in rows if name in row]
    return form.format(np.mean(values)) if values else "-"


def _environment() -> str:
    devices = jax.local_devices()
    lines = [f"- {len(devices)} x {devices[0].device_kind} ({devices[0].platform}), {os.cpu_count()} CPU cores"]
    lines.append(f"- Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    lines += [f"- {name} {version}" for name, version in package_versions().items()]
    return "\n".join(lines)


def _draw_curves(rows: list[dict[str, Any]], schedule: Schedule, path: Path) -> None:
    figure = Figure(figsize=(13, 7), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, _CURVES, strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 20 else "")
        for phase in schedule.phases[1:]:
            axes.axvline(phase.start, color="grey", linewidth=0.8, linestyle=":")
        axes.set_title(title)
        axes.set_xlabel("step")
        if len(axes.lines) > len(schedule.phases[1:]) and len(names) > 1:
            axes.legend()
    _save_figure(figure, path)


def _draw_comparison(validation: FixedExamples, results: dict[str, Completions], path: Path) -> None:
    """The first held-out images: input, every fill with the PSNR of its hole, truth."""
    count = min(_COMPARED, len(validation.image))
    truth = validation.image[:count]
    hole = validation.mask[:count] > 0.5
    columns = {"input": np.where(hole, np.uint8(255), truth)}
    columns |= {label: result.completed[:count] for label, result in results.items()}
    columns["truth"] = truth
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
    _save_figure(figure, path)


def _save_figure(figure: Figure, path: Path) -> None:
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_image(np.asarray(canvas.buffer_rgba())[..., :3].copy(), path)

"""The summary of a finished run: summary.md with curves.png and the pictures of its task."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from glcic_jax.files import write_atomically
from glcic_jax.pictures import save_image
from glcic_jax.training.checkpoints import package_versions
from glcic_jax.training.metric_log import read_metrics
from glcic_jax.training.schedule import Schedule
from glcic_jax.training.task import Examples, State, Task

MOST_POINTS = 500  # Of a curve.
_LARGEST = 1e30  # Larger numbers would leave every scale.
_LOGARITHMIC_FROM = 30.0  # Ratio of the largest to the smallest number.


def write_summary(
    workdir: Path, config: Any, schedule: Schedule, task: Task, examples: Examples, state: State
) -> Path:
    """Writes summary.md with its pictures, from metrics.jsonl and the final weights.

    Args:
      workdir: The run's directory.
      config: The run's configuration.
      schedule: Its phases.
      task: What it trains.
      examples: The fixed held-out examples.
      state: The final state, on one device.

    Returns:
      The path of summary.md.
    """
    rows = read_metrics(workdir)
    starts = [phase.start for phase in schedule.phases[1:]]
    save_figure(draw_curves({workdir.name: rows}, task.display.curves, starts), workdir / "curves.png")
    step = int(state.step)
    grid = workdir / "grids" / f"step_{step:08d}.png"
    parts = [
        f"# {workdir.name}",
        f"{step} of {schedule.total_steps} steps; batch {config.batch_size}; {config.data.image_size} px; "
        f"data {config.data.source}; {config.compute_dtype}.",
        *examples.summarise(workdir, state),
        f"## Phases\n\n{_phase_table(rows, schedule, task.display.phase_table)}",
        "![curves](curves.png)",
    ]
    if grid.exists():
        shown = f"{task.display.grid[:1].upper()}{task.display.grid[1:]}."
        parts.append(f"## Last grid\n\n{shown}\n\n![grid]({grid.relative_to(workdir)})")
    parts.append(f"## Environment\n\n{_environment()}")
    path = workdir / "summary.md"
    write_atomically(path, "\n\n".join(parts) + "\n")
    return path


def _phase_table(rows: list[dict[str, Any]], schedule: Schedule, columns: Sequence[tuple[str, str]]) -> str:
    heads = "".join(f" {heading}, first to last |" for heading, _ in columns)
    lines = [
        f"| phase | steps |{heads} images/s | waiting for data |",
        "|---|---|" + "---|" * len(columns) + "---|---|",
    ]
    for phase in schedule.phases:
        of_phase = [row for row in rows if row["phase"] == phase.name and phase.start < row["step"] <= phase.stop]
        cells = [
            *(_first_to_last(of_phase, metric) for _, metric in columns),
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


def draw_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    plots: Sequence[tuple[str, Sequence[str]]],
    phase_starts: Sequence[int] = (),
) -> Figure:
    """Draws the training curves of one or several runs, a plot for each metric that any of them logged.

    Args:
      runs: By name, the rows of metrics.jsonl in the order of steps.
      plots: As `Display.curves`.
      phase_starts: Steps to mark by vertical lines.

    Returns:
      A matplotlib figure; without axes if there is nothing to draw.
    """
    curves = {
        title: [(run, key, curve_points(rows, key)) for run, rows in enumerate(runs.values()) for key in keys]
        for title, keys in plots
    }
    drawn = {title: lines for title, lines in curves.items() if any(len(points) for _, _, points in lines)}
    columns = min(3, len(drawn))
    lines_of_plots = -(-len(drawn) // 3)
    figure = Figure(figsize=(13, 3.5 * max(1, lines_of_plots)), layout="constrained")
    for index, (title, lines) in enumerate(drawn.items()):
        axes = figure.add_subplot(lines_of_plots, columns, index + 1)
        _draw_plot(axes, list(runs), lines)
        for start in phase_starts:
            axes.axvline(start, color="grey", linewidth=0.8, linestyle=":")
        axes.set_title(title)
        axes.set_xlabel("step")
    return figure


def _draw_plot(axes: Axes, runs: Sequence[str], lines: Sequence[tuple[int, str, np.ndarray]]) -> None:
    """Draws the lines (run, key, points [N, 2]): a colour for each run, a dash pattern for its second key."""
    keys = list(dict.fromkeys(key for _, key, _ in lines))
    for run, key, points in lines:
        if len(points):
            label = ", ".join([runs[run]] * (len(runs) > 1) + [key] * (len(keys) > 1))
            style, marker = ("-", "--")[keys.index(key)], "." if len(points) < 20 else ""
            axes.plot(*points.T, color=f"C{run % 10}", linestyle=style, marker=marker, label=label)
    values = np.concatenate([points[:, 1] for _, _, points in lines])
    values = values[np.isfinite(values)]
    if values.min() > 0 and values.max() / values.min() > _LOGARITHMIC_FROM:
        axes.set_yscale("log")
    if len(runs) > 1 or len(keys) > 1:
        axes.legend(fontsize=8)


def curve_points(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """The points (step, value) of a curve, [N, 2] float64; neighbours are averaged beyond `MOST_POINTS`.

    A value is NaN where the curve breaks; no points if no value is finite.
    """
    pairs = [(row["step"], row[key]) for row in rows if type(row.get(key)) in (int, float)]
    points = np.array(pairs, np.float64).reshape(-1, 2)
    points[~(np.abs(points[:, 1]) <= _LARGEST), 1] = np.nan
    finite = np.isfinite(points[:, 1])
    if not finite.any():
        return np.empty((0, 2))
    each = -(-len(points) // MOST_POINTS)
    if each == 1:
        return points
    starts = np.arange(0, len(points), each)
    with np.errstate(invalid="ignore"):  # Where none of the neighbours is finite.
        sums = np.add.reduceat(np.where(finite[:, None], points, 0.0), starts)
        return sums / np.add.reduceat(finite, starts, dtype=np.float64)[:, None]


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure to a picture file."""
    figure.set_dpi(110)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    save_image(np.asarray(canvas.buffer_rgba())[..., :3].copy(), path)

"""What a run writes down while it trains: one progress line, three logs of the same numbers, and grids."""

import contextlib
import csv
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from glcic_jax.model.metrics import ImageMetrics
from glcic_jax.pictures.rgb_files import save_image
from glcic_jax.training.schedule import Phase, Schedule
from glcic_jax.training.steps import CompletionMetrics, JointMetrics
from glcic_jax.training.tensorboard import TensorBoard

_log = logging.getLogger(__name__)

# Time of one step of each phase against one of phase 1, for estimates; measured on a CPU at 64 px.
_RELATIVE_COST = {"completion": 1.0, "discriminator": 0.5, "joint": 2.0}

_VALIDATION = tuple(f"validation_{field.name}" for field in dataclasses.fields(ImageMetrics))
_TRAINING = tuple(
    dict.fromkeys(f.name for kind in (CompletionMetrics, JointMetrics) for f in dataclasses.fields(kind))
)
COLUMNS = (
    "step",
    "phase",
    *_TRAINING,
    *_VALIDATION,
    "images_per_second",
    "data_wait_fraction",
    "skipped_files",
    "elapsed_seconds",
)

# The numbers that stand in the progress line, and what they are called there.
_SHOWN = {
    "reconstruction_loss": "rec_loss",
    "discriminator_loss": "d_loss",
    "adversarial_loss": "adv",
    "real_accuracy": "real_acc",
    "fake_accuracy": "fake_acc",
    "adversarial_weight": "weight",
}


class MetricLog:
    """Rows of numbers in metrics.jsonl, metrics.csv and TensorBoard, all with the same content.

    Args:
      workdir: Where they lie; TensorBoard's files in its folder `tensorboard`.
      start_step: The step that training begins at; rows of a stopped run beyond it are dropped.
    """

    def __init__(self, workdir: Path, start_step: int):
        self._jsonl_path = workdir / "metrics.jsonl"
        rows = [row for row in read_metrics(workdir) if row["step"] <= start_step]
        self.elapsed_before = float(rows[-1].get("elapsed_seconds", 0.0)) if rows else 0.0
        aside = workdir / ".metrics.jsonl"
        aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        aside.replace(self._jsonl_path)
        self._jsonl = self._jsonl_path.open("a", encoding="utf-8")
        self._csv = (workdir / "metrics.csv").open("w", encoding="utf-8", newline="")
        self._table = csv.DictWriter(self._csv, COLUMNS, restval="")
        self._table.writeheader()
        self._table.writerows(rows)
        self._tensorboard = TensorBoard(workdir / "tensorboard", start_step)

    def write(self, step: int, phase: str, values: dict[str, float]) -> None:
        """Appends one row.

        Args:
          step: Updates done.
          phase: Name of the phase that they ended in.
          values: Numbers by name; names in `COLUMNS`.
        """
        row = {"step": step, "phase": phase, **values}
        self._jsonl.write(json.dumps(row) + "\n")
        self._table.writerow(row)
        for name, value in values.items():
            folder = "validation" if name in _VALIDATION else "training" if name in _TRAINING else "run"
            self._tensorboard.scalar(f"{folder}/{name.removeprefix('validation_')}", value, step)
        self.flush()

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows [H, W, 3] uint8 in TensorBoard."""
        self._tensorboard.image(name, image, step)

    def flush(self) -> None:
        """Brings everything written so far to disk."""
        self._jsonl.flush()
        self._csv.flush()
        self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes all three, each even where another cannot be."""
        with contextlib.ExitStack() as stack:
            for one in (self._jsonl, self._csv, self._tensorboard):
                stack.callback(one.close)


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl, in order of steps; lines that are no rows, as one cut short, are left out."""
    path = workdir / "metrics.jsonl"
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
        try:
            row = json.loads(line or "null")
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        elif line:
            _log.warning("%s: a line that cannot be read is left out: %.80s", path, line)
    return rows


class RunningMean:
    """The mean of each metric over steps; goes on in another process from what `state` gave.

    Args:
      count: Number of steps so far.
      sums: The sum of each metric over them.
    """

    def __init__(self, count: int = 0, sums: Mapping[str, float] | None = None):
        self._count = count
        self._sums = dict(sums or {})

    def add(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Counts the metrics of further steps in."""
        for row in rows:
            self._count += 1
            for name, value in row.items():
                self._sums[name] = self._sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """The means; begins anew."""
        means = {name: total / self._count for name, total in self._sums.items()}
        self._count, self._sums = 0, {}
        return means

    def state(self) -> dict[str, Any]:
        """JSON-able keyword arguments of an equal one."""
        return {"count": self._count, "sums": dict(self._sums)}


class Stopwatch:
    """Seconds spent training (waiting for data among them), leaving out compilation, pictures and saving."""

    def __init__(self) -> None:
        self.training = 0.0
        self.waiting = 0.0
        self.steps = 0
        self._begun = time.perf_counter()

    def resume(self) -> None:
        """Training goes on."""
        self._begun = time.perf_counter()

    def pause(self) -> None:
        """Something else begins."""
        self.training += time.perf_counter() - self._begun

    def rates(self, batch_size: int) -> dict[str, float]:
        """Images/s, and the fraction spent waiting for data, since the last call; to be called while paused."""
        training = max(self.training, 1e-9)
        values = {
            "images_per_second": self.steps * batch_size / training,
            "data_wait_fraction": self.waiting / training,
        }
        self.training = self.waiting = 0.0
        self.steps = 0
        return values


class _Unbroken:
    """A stream whose reader may go away: Ctrl-C ends `tee` too, and the training still has to save.

    Args:
      stream: What is written to as long as it can be.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None)

    def write(self, text: str) -> None:
        """Writes, if anybody still reads."""
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flushes, if anybody still reads."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The file's number, which tqdm asks the width of the terminal."""
        return self._stream.fileno()


class ProgressLine:
    """One line per phase: a bar on a terminal, plain lines elsewhere.

    Args:
      schedule: The phases.
      batch_size: Images per step.
      stream: Where to write; stderr where None.
    """

    def __init__(self, schedule: Schedule, batch_size: int, stream: TextIO | None = None):
        self._schedule = schedule
        self._batch_size = batch_size
        self._stream: Any = _Unbroken(stream or sys.stderr)
        self._bar: tqdm | None = None

    def say(self, text: str) -> None:
        """Writes a line of its own."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def start_phase(self, phase: Phase, step: int) -> None:
        """Begins the line of a phase, at the given step of the whole run."""
        self.close()
        count = len(self._schedule.phases)
        title = f"phase {phase.index + 1}/{count} {phase.name}"
        if self._stream.isatty():
            self._bar = tqdm(
                total=phase.length,
                initial=step - phase.start,
                desc=title,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc} {n_fmt}/{total_fmt} |{bar:12}| {postfix}",
            )
        else:
            self.say(f"{title}: steps {step} to {phase.stop}")

    def advance(self) -> None:
        """Counts one step."""
        if self._bar is not None:
            self._bar.update(1)

    def report(self, step: int, phase: Phase, values: dict[str, float]) -> None:
        """Shows losses, images/s, and the time that the phase and the whole run still need."""
        shown = [f"{label} {values[name]:.4g}" for name, label in _SHOWN.items() if name in values]
        rate = values["images_per_second"] / self._batch_size
        phase_seconds, all_seconds = self._remaining(step, phase, rate)
        shown += [f"{values['images_per_second']:.1f} images/s", f"phase {_duration(phase_seconds)} left"]
        shown.append(f"all {_duration(all_seconds)} left")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(shown))
        else:
            self.say(f"  {step - phase.start}/{phase.length}: {', '.join(shown)}")

    def close(self) -> None:
        """Ends the line of the phase, if one is open."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _remaining(self, step: int, phase: Phase, steps_per_second: float) -> tuple[float, float]:
        in_phase = (phase.stop - step) / steps_per_second
        later = sum(
            other.length * _RELATIVE_COST[other.name] / _RELATIVE_COST[phase.name]
            for other in self._schedule.phases[phase.index + 1 :]
        )
        return in_phase, in_phase + later / steps_per_second


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


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

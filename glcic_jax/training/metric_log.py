"""The numbers that a run logs: metrics.jsonl, metrics.csv and TensorBoard, all with the same content."""

import contextlib
import csv
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from glcic_jax.files import write_atomically
from glcic_jax.training.task import Task

_log = logging.getLogger(__name__)


def columns(task: Task) -> tuple[str, ...]:
    """Returns the columns of metrics.csv for a task."""
    validation = (f"validation_{name}" for name in task.validation_metrics)
    rates = ("images_per_second", "data_wait_fraction", "skipped_files", "elapsed_seconds")
    return ("step", "phase", *task.metrics, *validation, *rates)


class MetricLog:
    """Appends rows of numbers to metrics.jsonl, metrics.csv and TensorBoard.

    Args:
      workdir: The run's directory; TensorBoard's files lie in its folder `tensorboard`.
      start_step: The step at which training starts; later rows of a stopped run are dropped.
      task: Names the metrics.

    Attributes:
      elapsed_before: Seconds that earlier processes of this run have trained.
    """

    def __init__(self, workdir: Path, start_step: int, task: Task):
        rows = [row for row in read_metrics(workdir) if row["step"] <= start_step]
        self.elapsed_before = float(rows[-1].get("elapsed_seconds", 0.0)) if rows else 0.0
        write_atomically(workdir / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self._jsonl = (workdir / "metrics.jsonl").open("a", encoding="utf-8")
        self._csv = (workdir / "metrics.csv").open("w", encoding="utf-8", newline="")
        self._table = csv.DictWriter(self._csv, columns(task), restval="")
        self._table.writeheader()
        self._table.writerows(rows)
        self._tensorboard = _TensorBoard(workdir / "tensorboard", start_step)
        self._metrics = frozenset(task.metrics)
        self._files = (self._jsonl, self._csv, self._tensorboard)

    def write(self, step: int, phase: str, values: dict[str, float]) -> None:
        """Appends one row and flushes it.

        Args:
          step: Number of updates done.
          phase: Name of the phase of the last update.
          values: Numbers by name; the names are in `columns`.
        """
        row = {"step": step, "phase": phase, **values}
        self._jsonl.write(json.dumps(row) + "\n")
        self._table.writerow(row)
        for name, value in values.items():
            is_validation = name.startswith("validation_")
            folder = "validation" if is_validation else "training" if name in self._metrics else "run"
            self._tensorboard.scalar(f"{folder}/{name.removeprefix('validation_')}", value, step)
        for file in self._files:
            file.flush()

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds a picture, [H, W, 3] uint8, to TensorBoard."""
        self._tensorboard.image(name, image, step)

    def close(self) -> None:
        """Closes all files, each even if another one cannot be closed."""
        with contextlib.ExitStack() as stack:
            for file in self._files:
                stack.callback(file.close)


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl in order of steps; skips other lines, such as a truncated row."""
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
            _log.warning("%s: an unreadable line is skipped: %.80s", path, line)
    return rows


class RunningMean:
    """The mean of each metric over steps; another process continues it from `state()`.

    Args:
      count: Number of steps so far.
      sums: Sum of each metric over them.
    """

    def __init__(self, count: int = 0, sums: Mapping[str, float] | None = None):
        self._count = count
        self._sums = dict(sums or {})

    def add(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Adds the metrics of further steps."""
        for row in rows:
            self._count += 1
            for name, value in row.items():
                self._sums[name] = self._sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """Returns the means and starts again."""
        means = {name: total / self._count for name, total in self._sums.items()}
        self._count, self._sums = 0, {}
        return means

    def state(self) -> dict[str, Any]:
        """Returns the constructor's arguments, as JSON values."""
        return {"count": self._count, "sums": dict(self._sums)}


class _TensorBoard:
    """One file of events, beside those of earlier processes, whose later steps it hides."""

    def __init__(self, folder: Path, start_step: int):
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self.flush, self.close = self._writer.flush, self._writer.close
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(session_log=start), start_step + 1)
        self.flush()

    def scalar(self, name: str, value: float, step: int) -> None:
        self._write(event_pb2.Event(summary=summary.scalar(name, value)), step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        self._write(event_pb2.Event(summary=summary.image(name, image, dataformats="HWC")), step)

    def _write(self, event: event_pb2.Event, step: int) -> None:
        event.step = step
        event.wall_time = time.time()
        self._writer.write_event(event)

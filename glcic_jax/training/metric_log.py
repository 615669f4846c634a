"""What a run writes down while it trains: one progress line, three logs of the same numbers, and grids."""

import contextlib
import csv
import dataclasses
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

from glcic_jax.model.metrics import ImageMetrics
from glcic_jax.training.steps import CompletionMetrics, JointMetrics

_log = logging.getLogger(__name__)

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


class TensorBoard:
    """One file of events.

    Args:
      folder: Where it lies, beside those of the processes before.
      start_step: The step that training begins at; what those have shown of later ones is hidden.
    """

    def __init__(self, folder: Path, start_step: int):
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(session_log=start), start_step + 1)
        self.flush()

    def scalar(self, name: str, value: float, step: int) -> None:
        """Adds a point to a curve."""
        self._write(event_pb2.Event(summary=summary.scalar(name, value)), step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Adds a picture, [H, W, 3] uint8."""
        self._write(event_pb2.Event(summary=summary.image(name, image, dataformats="HWC")), step)

    def flush(self) -> None:
        """Brings everything written so far to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()

    def _write(self, event: event_pb2.Event, step: int) -> None:
        event.step = step
        event.wall_time = time.time()
        self._writer.write_event(event)

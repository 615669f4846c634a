"""The progress line of a training: steps, losses, images/s, time left."""

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from tqdm import tqdm

from glcic_jax.training.schedule import Phase, Schedule


class Stopwatch:
    """Measures the time spent training, waiting for data included, but not compiling, validating or saving.

    Starts paused. `steps` and `waiting` (seconds) are counted by the caller.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.waiting = 0.0
        self._seconds = 0.0
        self._resumed: float | None = None

    def resume(self) -> None:
        """Starts measuring."""
        self._resumed = time.perf_counter()

    def pause(self) -> None:
        """Stops measuring."""
        if self._resumed is not None:
            self._seconds += time.perf_counter() - self._resumed
            self._resumed = None

    def rates(self, batch_size: int) -> dict[str, float]:
        """Returns images/s and the fraction of time spent waiting for data since the last call; call it paused."""
        seconds = max(self._seconds, 1e-9)
        values = {
            "images_per_second": self.steps * batch_size / seconds,
            "data_wait_fraction": self.waiting / seconds,
        }
        self._seconds = self.waiting = 0.0
        self.steps = 0
        return values


class _UnbreakableStream:
    """A text stream whose reader may end: Ctrl-C ends `tee` too, and the training still has to save."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None)
        self.isatty = stream.isatty
        self.fileno = stream.fileno  # tqdm asks for the width of the terminal.

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


class ProgressLine:
    """Shows one bar per phase on a terminal, and plain lines elsewhere.

    Args:
      schedule: The phases.
      batch_size: Images per step.
      costs: Time of one step of each phase relative to the first.
      labels: The metrics shown, and their labels.
      stream: Where to write; None: stderr.
    """

    def __init__(
        self,
        schedule: Schedule,
        batch_size: int,
        costs: Mapping[str, float],
        labels: Mapping[str, str],
        stream: TextIO | None = None,
    ):
        self._schedule = schedule
        self._batch_size = batch_size
        self._costs = costs
        self._labels = labels
        self._stream: Any = _UnbreakableStream(stream or sys.stderr)
        self._bar: tqdm | None = None

    def log(self, text: str) -> None:
        """Writes a line of its own."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def start_phase(self, phase: Phase, step: int) -> None:
        """Starts the line of a phase at a step of the whole run."""
        self.close()
        title = f"phase {phase.index + 1}/{len(self._schedule.phases)} {phase.name}"
        if self._stream.isatty():
            self._bar = tqdm(
                total=phase.stop - phase.start,
                initial=step - phase.start,
                desc=title,
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc} {n_fmt}/{total_fmt} |{bar:12}| {postfix}",
            )
        else:
            self.log(f"{title}: steps {step} to {phase.stop}")

    def advance(self) -> None:
        """Counts one step."""
        if self._bar is not None:
            self._bar.update(1)

    def report(self, step: int, phase: Phase, values: dict[str, float]) -> None:
        """Shows losses, images/s, and the time left for the phase and for the whole run."""
        seconds_per_step = self._batch_size / values["images_per_second"]
        phase_seconds = (phase.stop - step) * seconds_per_step
        later_steps = sum(
            (later.stop - later.start) * self._costs[later.name] / self._costs[phase.name]
            for later in self._schedule.phases[phase.index + 1 :]
        )
        shown = [f"{label} {values[name]:.4g}" for name, label in self._labels.items() if name in values]
        shown += [
            f"{values['images_per_second']:.1f} images/s",
            f"phase {_format_duration(phase_seconds)} left",
            f"all {_format_duration(phase_seconds + later_steps * seconds_per_step)} left",
        ]
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(shown))
        else:
            self.log(f"  {step - phase.start}/{phase.stop - phase.start}: {', '.join(shown)}")

    def close(self) -> None:
        """Ends the phase's line, if one is open."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _format_duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"

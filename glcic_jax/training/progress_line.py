"""The progress line of a training: steps, losses, images/s, time left."""

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from tqdm import tqdm

from glcic_jax.training.schedule import Phase, Schedule

_BAR_WIDTH = 12
_BAR_FORMAT = f"{{desc}} {{n_fmt}}/{{total_fmt}} |{{bar:{_BAR_WIDTH}}}| "


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
        self._phase = schedule.phases[0]
        self._compile_seconds = 0.0  # Of the program of a phase whose cost is 1.

    def log(self, text: str) -> None:
        """Writes a line of its own."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def start_phase(self, phase: Phase, step: int) -> None:
        """Starts the line of a phase at a step of the whole run."""
        self.close()
        self._phase = phase
        title = f"phase {phase.index + 1}/{len(self._schedule.phases)} {phase.name}"
        if self._stream.isatty():
            self._bar = tqdm(
                total=phase.stop - phase.start,
                initial=step - phase.start,
                desc=title,
                file=self._stream,
                dynamic_ncols=True,
                bar_format=_BAR_FORMAT,
            )
        else:
            self.log(f"{title}: steps {step} to {phase.stop}")

    def advance(self) -> None:
        """Counts one step."""
        if self._bar is not None:
            self._bar.update(1)

    def compiled(self, name: str, seconds: float) -> None:
        """Logs how long the phase's program compiled; the estimate takes later ones from it, by their costs."""
        self._compile_seconds = seconds / self._costs[self._phase.name]
        self.log(f"  compiled the {name} in {seconds:.1f} s")

    def report(self, step: int, phase: Phase, values: dict[str, float]) -> None:
        """Shows losses, images/s, and the time left for the phase and for the whole run, compiling included.

        On a terminal, what does not fit into a line is left out.
        """
        seconds_per_step = self._batch_size / values["images_per_second"]
        phase_seconds = (phase.stop - step) * seconds_per_step
        later_seconds = sum(
            self._costs[later.name]
            * ((later.stop - later.start) * seconds_per_step / self._costs[phase.name] + self._compile_seconds)
            for later in self._schedule.phases[phase.index + 1 :]
        )
        left = _format_duration(phase_seconds), _format_duration(phase_seconds + later_seconds)
        speed = f"{values['images_per_second']:.1f} images/s"
        losses = [f"{label} {values[name]:.4g}" for name, label in self._labels.items() if name in values]
        if self._bar is None:
            shown = ", ".join([*losses, speed, f"phase {left[0]} left", f"all {left[1]} left"])
            self.log(f"  {step - phase.start}/{phase.stop - phase.start}: {shown}")
            return
        # Between reports, only the number of steps changes.
        width = (self._bar.format_dict["ncols"] or 80) - 1
        text = f"{self._bar.desc} {self._bar.total}/{self._bar.total} "
        for item in (f"{left[0]} of {left[1]} left", *losses[:1], speed, *losses[1:]):
            if len(text) + len(item) + 2 <= width:
                text += f", {item}"
        shown = text.partition(", ")[2]
        has_bar = len(text) + _BAR_WIDTH + 2 <= width
        self._bar.bar_format = (_BAR_FORMAT if has_bar else _BAR_FORMAT.partition("|")[0]) + shown
        self._bar.refresh()

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

"""The progress line of a training: steps, images/s, time left."""

import contextlib
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from glcic_jax.training.schedule import Phase, Schedule

# Time of one step of each phase against one of phase 1, for estimates; measured on a CPU at 64 px.
_RELATIVE_COST = {"completion": 1.0, "discriminator": 0.5, "joint": 2.0}

# The numbers that stand in the progress line, and what they are called there.
_SHOWN = {
    "reconstruction_loss": "rec_loss",
    "discriminator_loss": "d_loss",
    "adversarial_loss": "adv",
    "real_accuracy": "real_acc",
    "fake_accuracy": "fake_acc",
    "adversarial_weight": "weight",
}


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

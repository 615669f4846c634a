"""The errors that a person can mend: one clear line and an exit code, 2 unless it says another; no traceback."""

import signal
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Bad input: says what is wrong, where, and how to mend it.

    The entry points print it on stderr and exit with its code; `--debug` shows the traceback.
    """

    exit_code = 2


class DataError(UserError):
    """The data set, or a file in it, cannot be used."""


class TooLargeError(DataError):
    """A file has more pixels than are read.

    Args:
      fact: What it has.
      remedy: What its owner can do who may change what is read.

    Attributes:
      fact, remedy: The same.
    """

    def __init__(self, fact: str, remedy: str):
        super().__init__(f"{fact}: {remedy}")
        self.fact = fact
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Processes send each other errors."""
        return type(self), (self.fact, self.remedy)


class ConfigError(UserError):
    """The configuration asks for something that does not exist or does not fit together."""


class WeightsError(UserError):
    """There are no weights, or those there are cannot be used."""

    exit_code = 3


class MemoryExhaustedError(UserError):
    """The machine or the device has too little memory for what was asked."""

    exit_code = 4


class DivergedError(UserError):
    """The training has left the finite numbers; all processes notice it after the same step."""


DIVERGED_REMEDY = (
    "The same command goes on from the newest checkpoint, or begins anew where there is none; give it a lower "
    "learning rate (--config.optimizer) or --config.compute_dtype=float32"
)


class Stopped(Exception):  # noqa: N818 - it is no error.
    """A signal ended the training, which was saved.

    Attributes:
      signal: Which one; the exit code is 128 and its number.
      step: Updates done.
    """

    def __init__(self, signal: signal.Signals, step: int):
        super().__init__(f"stopped by {signal.name} at step {step}")
        self.signal = signal
        self.step = step


def one_line(error: Exception) -> str:
    """What an error of another package says, on one line and not too long; its type if it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def last_error_line(stderr: str) -> str:
    """What ended a process, on one line: the error under its last traceback, or its last line if it has none."""
    if not stderr.strip():
        return "it said nothing"
    _, traceback, below = stderr.rpartition("Traceback (most recent call last):\n")
    # JAX adds lines of its own under the error.
    lines = [line for line in below.splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith(" ")] if traceback else lines[-1:]
    return printable((errors or lines[-1:] or [stderr.strip()])[0].strip())[:300]


def printable(text: str) -> str:
    """The text on one line that every terminal and file can hold: a file's name may have any bytes in it."""
    if text.isprintable():
        return text
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def lookup(registry: Mapping[str, T], name: str, what: str) -> T:
    """Returns `registry[name]`.

    Args:
      registry: A choice point: the plain dict at the foot of the module that owns it.
      name: The chosen name, as the configuration gives it.
      what: What is chosen, in words; it stands in the error.

    Raises:
      ConfigError: The name is unknown; the message lists the valid ones.
    """
    if name not in registry:
        raise ConfigError(f"unknown {what} {name!r}: choose one of {', '.join(sorted(registry))}")
    return registry[name]

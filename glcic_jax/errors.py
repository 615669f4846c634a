"""Errors that the user can fix: one line and an exit code, without a traceback."""

import contextlib
import difflib
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """An error that the user can fix; its message says what is wrong, where, and how to fix it.

    The entry points print it to stderr and exit with `exit_code`; `--debug` shows the traceback.
    """

    exit_code = 2


class DataError(UserError):
    """A data set or a file cannot be used."""


class TooLargeError(DataError):
    """A file has more pixels than the limit.

    Attributes:
      fact: Its size and the limit.
      remedy: How to raise the limit in `glcic complete`, in its words.
    """

    def __init__(self, fact: str, remedy: str):
        super().__init__(f"{fact}: {remedy}")
        self.fact = fact
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Makes it picklable, for errors of worker processes."""
        return type(self), (self.fact, self.remedy)


class ConfigError(UserError):
    """The configuration names something unknown, or contradicts itself."""


class WeightsError(UserError):
    """Weights are missing or cannot be used."""

    exit_code = 3


class MemoryExhaustedError(UserError):
    """The host or the device has too little memory."""

    exit_code = 4


class DivergedError(UserError):
    """The training reached NaN or infinity; all processes raise it after the same step."""


DIVERGED_REMEDY = (
    "The same command resumes from the newest checkpoint, or starts over if there is none; give it a lower "
    "learning rate (--config.optimizer) or --config.compute_dtype=float32"
)


class Stopped(Exception):  # noqa: N818 - not an error.
    """A signal ended the training, after a checkpoint was saved.

    Attributes:
      signal: The signal; the exit code is 128 plus its number.
      step: Number of updates done.
    """

    def __init__(self, signal: signal.Signals, step: int):
        super().__init__(f"stopped by {signal.name} at step {step}")
        self.signal = signal
        self.step = step


def one_line(error: Exception) -> str:
    """Returns an error's message on one line of at most 300 characters, or the name of its type."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def as_user_error(
    message: str, remedy: str = "", passing: tuple[type[Exception], ...] = (), kind: type[UserError] = DataError
) -> Iterator[None]:
    """Turns every error of the block into one line for the user: `MESSAGE (REASON)REMEDY`.

    For calls into packages that raise errors of many types.

    Args:
      message: What failed, and where.
      remedy: How to fix it, beginning with its punctuation.
      passing: Types of errors that are raised unchanged; MemoryError is one of them.
      kind: The error for the user.

    Raises:
      UserError: Of the given kind: the block raised an error.
    """
    try:
        yield
    except MemoryError:
        raise
    except passing:
        raise
    except Exception as error:
        raise kind(f"{message} ({one_line(error)}){remedy}") from error


def last_error_line(stderr: str) -> str:
    """Returns the error that ended a process: the one below its last traceback, else the last line of `stderr`."""
    if not stderr.strip():
        return "it said nothing"
    _, traceback, below = stderr.rpartition("Traceback (most recent call last):\n")
    # JAX adds lines below the error.
    lines = [line for line in below.splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith(" ")] if traceback else lines[-1:]
    return printable((errors or lines[-1:] or [stderr.strip()])[0].strip())[:300]


def printable(text: str) -> str:
    """Escapes what a terminal cannot print: a file name may contain any bytes."""
    if text.isprintable():
        return text
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def rename_options(message: str, renamed: Callable[[str, str], str]) -> str:
    """Returns a message in the words of another door than the command line.

    Args:
      message: Names the command's options, as --max-side=512 or --fit-mask.
      renamed: Returns what to write for an option's name, such as "max_side", and its value, which may be empty.
    """
    return re.sub(
        r"--([a-z]+(?:-[a-z]+)*)(?:=(\w+))?", lambda m: renamed(m[1].replace("-", "_"), m[2] or ""), message
    )


def meant(name: str, known: Iterable[str]) -> str:
    """Asks whether similar names were meant by an unknown one, or lists the known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.75)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"


def lookup(registry: Mapping[str, T], name: str, what: str) -> T:
    """Returns `registry[name]`.

    Args:
      registry: The values by their valid names.
      name: The name in the configuration.
      what: The kind of value, for the error, such as "split of a folder".

    Raises:
      ConfigError: The name is unknown; the message lists the valid ones.
    """
    if name not in registry:
        raise ConfigError(f"unknown {what} {name!r}: choose one of {', '.join(sorted(registry))}")
    return registry[name]

"""Shared by the command lines: errors become one line on stderr and an exit code; types of options; Ctrl-C."""

import contextlib
import io
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from glcic_jax.errors import UserError, one_line, printable


class FiniteFloat(click.FloatRange):
    """A `click.FloatRange` that refuses infinity and NaN."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class UserPath(click.Path):
    """A `click.Path` of `pathlib.Path`s in which ~ is the home directory: shells leave it in --option=~/file."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(os.path.expanduser(value), param, ctx)


@contextlib.contextmanager
def keep_interrupts() -> Iterator[Callable[[], None]]:
    """Yields a function that raises KeyboardInterrupt if Ctrl-C was pressed before and that exception was lost.

    Python drops an exception that a signal raises within a destructor or a callback from C. A process that ignores
    Ctrl-C, such as one that a script runs in the background, goes on ignoring it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield lambda: None
        return
    pressed = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def run(command: click.Command) -> NoReturn:
    """Runs a command with the arguments of the process, and exits.

    The exit code is that of a `UserError`, 2 for wrong usage, 130 for Ctrl-C and 1 for unexpected errors.
    `--debug` among the arguments shows the traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # As on stderr: its encoding may lack a character.
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    # Orbax and TFDS log through absl; nothing below errors concerns the user.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        sys.exit(command.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nstopped", err=True)
        sys.exit(130)
    except BrokenPipeError:  # The reader of stdout has exited.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except UserError as error:
        _end(str(error), error.exit_code)
    except Exception as error:
        _end(f"{type(error).__name__}: {one_line(error)} (unexpected: --debug shows the traceback)", 1)


def _end(message: str, code: int) -> NoReturn:
    if "--debug" in sys.argv:
        traceback.print_exc()
    click.echo(f"error: {printable(message)}", err=True)
    sys.exit(code)

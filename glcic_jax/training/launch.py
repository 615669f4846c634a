"""Trains as the flags of main.py or `glcic train` say: one-line errors, exit codes, signals before the first step.

Imports JAX only for the training: `--help` and errors in flags answer at once.
"""

import contextlib
import logging
import os
import re
import runpy
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from glcic_jax.errors import Stopped, UserError, last_error_line, meant, printable

flags.disclaim_key_flags()  # They are those of the program that calls `define_flags`, which its --help shows.


class Program(NamedTuple):
    """How the messages of a program that trains name its parts.

    Attributes:
      command: The program, such as "python main.py".
      example: A value of --config.
      configs: What has the configurations.
      keys: What lists the keys of all configurations.
    """

    command: str
    example: str
    configs: str
    keys: str


def define_flags(arguments: list[str] | None = None) -> None:
    """Defines the flags in `flags.FLAGS`, once in a process.

    Args:
      arguments: The command line from which the overrides of the configuration are taken; None: `sys.argv`.
    """
    config_flags.DEFINE_config_file(
        "config", None, "The configuration: a file in configs/.", lock_config=True, sys_argv=arguments
    )
    flags.DEFINE_string("workdir", None, "Directory of the run; by default runs/<name of the configuration>.")
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
    flags.DEFINE_string(
        "coordinator",
        None,
        "Several hosts: HOST:PORT of process 0; none: train alone. By default, srun or mpirun sets the address.",
    )
    flags.DEFINE_integer("process_count", None, "Several hosts: the number of processes, one per host.")
    flags.DEFINE_integer("process_id", None, "Several hosts: the number of this process, from 0.")


def parse_flags(arguments: list[str], program: Program) -> list[str]:
    """Parses the command line into `flags.FLAGS`; returns the arguments that are not flags.

    Raises:
      SystemExit: The help was asked for; or a flag or the configuration is wrong, and the reason is on stderr.
    """
    arguments = ["--help" if text == "-h" else text for text in arguments]
    # Shells leave ~ in --config=~/file.
    arguments = [re.sub("^(--config=)(.*)", lambda m: m[1] + os.path.expanduser(m[2]), text) for text in arguments]
    for argument in arguments[1:]:
        path = argument.removeprefix("--config=").split(":")[0]
        if argument.startswith("--config=") and not Path(path).is_file():
            raise SystemExit(print_error(f"--config={path}: no such file; {program.configs} the configurations"))
    try:
        return flags.FLAGS(arguments)
    except SystemExit as end:
        helped = any(re.match("--?help", text) for text in arguments)  # absl exits with 1.
        raise SystemExit(0 if helped else end.code) from None
    except Exception as error:  # A configuration is a program: it can fail in any way.
        if "--debug" in arguments:
            raise
        reason = str(error)
        if "Traceback (most recent call last)" in reason:  # Of the configuration's file.
            reason = last_error_line(reason).removeprefix("ValueError: ")
        reason = _unknown_key(arguments, program) or f"{' '.join(reason.split())} (see {program.command} --help)"
        raise SystemExit(print_error(reason)) from error


def _unknown_key(arguments: list[str], program: Program) -> str | None:
    """Returns a line on the first argument whose key the configuration lacks; None if there is none."""
    named = [text.partition("=")[2] for text in arguments if re.match("--?config=", text)]
    path, _, variant = (named or [""])[-1].partition(":")
    try:
        config = runpy.run_path(path)["get_config"](*filter(None, [variant]))
    except Exception:  # The error is the configuration's own.
        return None
    known = set(_keys(config))
    for argument in arguments[1:]:
        name = argument.lstrip("-").removeprefix("config.").partition("=")[0]
        if re.match(r"--?config\.", argument) and name.partition("[")[0] not in known:
            similar = meant(name, known)
            similar = f": {similar}" if similar.endswith("?") else ";"
            return f"the configuration has no key {printable(name)}{similar} {program.keys} explains all keys"
    return None


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Yields the keys of a configuration, as "phases.joint"."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def train_as_flagged(arguments: list[str], program: Program, find_weights: Callable[[str], Any]) -> int:
    """Trains as `flags.FLAGS` says.

    Args:
      arguments: The arguments that are not flags, after the name of the program: none.
      program: The program.
      find_weights: See `loop.train`.

    Returns:
      The exit code; see `run_training`.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    values = flags.FLAGS
    if len(arguments) > 1:
        return print_error(f"unexpected argument {arguments[1]!r}")
    if values.config is None:
        return print_error(f"--config is missing: {program.command} --config={program.example}")
    path, _, variant = config_flags.get_config_filename(values["config"]).partition(":")
    name = "_".join(filter(None, (Path(path).stem, variant)))
    return run_training(
        values.config,
        Path(values.workdir or Path("runs") / name),
        find_weights=find_weights,
        coordinator=values.coordinator,
        process_count=values.process_count,
        process_id=values.process_id,
        debug=values.debug,
    )


def run_training(
    config: Any,
    workdir: Path,
    *,
    find_weights: Callable[[str], Any] | None = None,
    coordinator: str | None = None,
    process_count: int | None = None,
    process_id: int | None = None,
    debug: bool = False,
) -> int:
    """Trains, and reports errors on stderr.

    Args:
      config: The configuration.
      workdir: The run's directory.
      find_weights: See `loop.train`.
      coordinator, process_count, process_id: See `distributed.initialize`.
      debug: Whether to show tracebacks.

    Returns:
      The exit code: 0, or 128 plus the signal that stopped the training. After an error the process exits here.
    """
    _handle_signals(_exit_before_first_step)
    from glcic_jax.runtime import keep_freed_memory, runs_on_cpu

    if runs_on_cpu():
        keep_freed_memory()  # Before there are threads.
    from glcic_jax.pictures import silence_libtiff
    from glcic_jax.training import distributed
    from glcic_jax.training.loop import train
    from glcic_jax.training.workdir import usable_workdir

    # Orbax logs tracebacks of errors that the user sees as one line. After the imports, as Grain sets the level.
    logging.getLogger("absl").setLevel(logging.INFO if debug else logging.CRITICAL)
    silence_libtiff()  # Damaged files are listed in skipped.txt.
    code = 1
    try:
        workdir = usable_workdir(workdir)
        distributed.initialize(coordinator, process_count, process_id)
        train(config, workdir, find_weights)
        _handle_signals(signal.SIG_IGN)  # Everything is done.
        return 0
    except Stopped as stopped:
        _handle_signals(signal.SIG_IGN)
        _print(f"{stopped} and saved in {workdir}; to resume:\n{shlex.join(sys.orig_argv)}")
        return 128 + stopped.signal
    except UserError as error:
        if debug:
            traceback.print_exc()
        code = print_error(str(error))
    except Exception:
        traceback.print_exc()
    # Not sys.exit: it would wait for other processes, or for threads that the error has left behind.
    sys.stdout.flush()
    os._exit(code)


def print_error(message: str) -> int:
    """Prints an error on stderr; returns the exit code for wrong usage."""
    _print(f"error: {message}")
    return 2


def _print(message: str) -> None:
    # Ctrl-C may have ended the reader, such as `tee`; the exit code must still be right.
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)  # noqa: T201 - this is the command's output.


def _exit_before_first_step(number: int, frame: FrameType | None) -> None:
    """Ends the process, which has nothing to save; an exception could be lost, or break an import."""
    _print("\nstopped before the first step; the same command starts or resumes the run")
    os._exit(128 + number)


def _handle_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)

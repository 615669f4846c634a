"""Trains GLCIC: `python main.py --config=configs/joint.py`.

--config names a configuration; every key of it can be overridden: --config.batch_size=32. configs/common.py
explains them all. --workdir is where checkpoints, logs and pictures go; the same command goes on where an
earlier one stopped. configs/quickstart.py needs no data and takes minutes on a CPU.
"""

import contextlib
import logging
import os
import shlex
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The configuration: a file in configs/.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept; by default runs/<configuration's name>.")
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several hosts: HOST:PORT of process 0. By default what srun or mpirun says; none: alone."
)
_COUNT = flags.DEFINE_integer("process_count", None, "Several hosts: the number of processes, one a host.")
_INDEX = flags.DEFINE_integer("process_id", None, "Several hosts: this process's number, from 0.")


def _parse(arguments: list[str]) -> list[str]:
    for argument in arguments[1:]:
        path = argument.removeprefix("--config=").split(":")[0]
        if argument.startswith("--config=") and not Path(path).is_file():
            message = f"--config={path}: no such file; the configurations that come along are in configs/"
            raise SystemExit(_complain(message))
    try:
        return flags.FLAGS(arguments)
    except Exception as error:  # A configuration is a program: it can fail in any way.
        reason = " ".join(str(error.args[0] if error.args else error).split())
        if isinstance(error, KeyError):
            reason = f"the configuration has no key {reason}; configs/common.py lists them all"
        if "--debug" in arguments:
            raise
        raise SystemExit(_complain(f"{reason} (python main.py --help explains the flags)")) from error


def _complain(message: str) -> int:
    _tell(f"error: {message}")
    return 2


def _tell(message: str) -> None:
    # Ctrl-C may have ended whoever reads this, `tee` for one, and the exit code is still to be right.
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def _leave(number: int, frame: FrameType | None) -> None:
    """Ends a process that has nothing to save yet; an error raised here could be lost, or break an import."""
    _tell("\nstopped before a step was made; the same command begins, or goes on, again")
    os._exit(128 + number)


def _answer_signals_with(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def main(arguments: list[str]) -> int:
    """Runs the training; returns the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    if len(arguments) > 1:
        return _complain(f"unexpected argument {arguments[1]!r}")
    if _CONFIG.value is None:
        return _complain("--config is missing: python main.py --config=configs/quickstart.py")
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = "_".join(filter(None, (Path(path).stem, variant)))
    return _train(Path(_WORKDIR.value or Path("runs") / name))


def _train(workdir: Path) -> int:
    _answer_signals_with(_leave)
    # Imported here: --help and the complaints above need no JAX.
    from glcic_jax.runtime import keep_freed_memory

    keep_freed_memory()
    from glcic_jax.errors import Stopped, UserError
    from glcic_jax.training import distributed
    from glcic_jax.training.loop import train

    # Orbax logs whole tracebacks of what reaches the user as one line; Grain has set the level meanwhile.
    logging.getLogger("absl").setLevel(logging.INFO if _DEBUG.value else logging.CRITICAL)
    code = 1
    try:
        distributed.join(_COORDINATOR.value, _COUNT.value, _INDEX.value)
        train(_CONFIG.value, workdir)
        _answer_signals_with(signal.SIG_IGN)  # What comes now comes too late: all is done.
        return 0
    except Stopped as stopped:
        _answer_signals_with(signal.SIG_IGN)
        _tell(f"{stopped} and saved in {workdir}; to go on:\n{shlex.join(sys.orig_argv)}")
        return 128 + stopped.signal
    except UserError as error:
        if _DEBUG.value:
            traceback.print_exc()
        code = _complain(str(error))
    except Exception:
        traceback.print_exc()
    # At once: other processes, or threads that an error has left behind, would have their say at a usual exit.
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

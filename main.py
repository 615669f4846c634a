"""Trains GLCIC: `python main.py --config=configs/joint.py`.

--config names a configuration; every key of it can be overridden: --config.batch_size=32. configs/common.py
explains them all. --workdir is where checkpoints, logs and pictures go; the same command goes on where an
earlier one stopped. configs/quickstart.py needs no data and takes minutes on a CPU.
"""

import contextlib
import logging
import shlex
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from absl import app, flags
from absl import logging as absl_logging
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


class _Terminated(BaseException):
    """SIGTERM came before there was anything to save."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def main(arguments: list[str]) -> int:
    """Runs the training; returns the exit code."""
    absl_logging.set_verbosity(absl_logging.INFO if _DEBUG.value else absl_logging.ERROR)
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    if len(arguments) > 1:
        return _complain(f"unexpected argument {arguments[1]!r}")
    if _CONFIG.value is None:
        return _complain("--config is missing: python main.py --config=configs/quickstart.py")
    path = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0])
    return _train(Path(_WORKDIR.value or Path("runs") / path.stem))


def _train(workdir: Path) -> int:
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Imported here: --help and the complaints above need no JAX.
        from glcic_jax import processes
        from glcic_jax.errors import Stopped, UserError
        from glcic_jax.training import train
    except (KeyboardInterrupt, _Terminated) as error:
        return _stopped_early(error, workdir)
    code = 1
    try:
        processes.join(_COORDINATOR.value, _COUNT.value, _INDEX.value)
        train(_CONFIG.value, workdir)
        return 0
    except Stopped as stopped:
        _tell(f"{stopped} and saved in {workdir}; to go on:\n{shlex.join(sys.orig_argv)}")
        return 128 + stopped.signal
    except (KeyboardInterrupt, _Terminated) as error:
        code = _stopped_early(error, workdir)
    except UserError as error:
        if _DEBUG.value:
            traceback.print_exc()
        code = _complain(str(error))
    except Exception:
        traceback.print_exc()
    processes.leave(code)
    return code


def _stopped_early(error: BaseException, workdir: Path) -> int:
    _tell(f"\nstopped before the first step; the same command goes on from the newest checkpoint in {workdir}")
    return 130 if isinstance(error, KeyboardInterrupt) else 143


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

"""Trains GLCIC, or a GAN: `python main.py --config=configs/joint.py`.

--config names a configuration. Every key can be overridden: --config.batch_size=32; configs/common.py explains
them all. Checkpoints, logs and grids go to --workdir; the same command resumes a run that was stopped.
configs/quickstart.py needs no data and takes minutes on a CPU.
"""

import logging
import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from glcic_jax.training import launch

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The configuration: a file in configs/.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; by default runs/<name of the configuration>."
)
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "Several hosts: HOST:PORT of process 0; none: train alone. By default, srun or mpirun sets the address.",
)
_PROCESS_COUNT = flags.DEFINE_integer(
    "process_count", None, "Several hosts: the number of processes, one per host."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Several hosts: the number of this process, from 0.")


def main(arguments: list[str]) -> int:
    """Runs the training; returns the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    if len(arguments) > 1:
        return launch.print_error(f"unexpected argument {arguments[1]!r}")
    if _CONFIG.value is None:
        return launch.print_error("--config is missing: python main.py --config=configs/quickstart.py")
    path, _, variant = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = "_".join(filter(None, (Path(path).stem, variant)))
    return launch.run_training(
        _CONFIG.value,
        Path(_WORKDIR.value or Path("runs") / name),
        load_weights=_load_weights,
        coordinator=_COORDINATOR.value,
        process_count=_PROCESS_COUNT.value,
        process_id=_PROCESS_ID.value,
        debug=_DEBUG.value,
    )


def _load_weights(reference: str) -> Any:
    from glcic_jax.weights import find_weights  # Imports JAX.

    return find_weights(reference).weights


if __name__ == "__main__":
    # For `configs`, where PYTHONSAFEPATH leaves this folder out; behind an installed package.
    sys.path.append(str(Path(__file__).resolve().parent))
    app.run(main, flags_parser=launch.parse_flags)

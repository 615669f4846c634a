"""Trains GLCIC, or a GAN: `python main.py --config=configs/joint.py`.

--config names a configuration. Every key can be overridden: --config.batch_size=32; configs/common.py explains
them all. Checkpoints, logs and grids go to --workdir; the same command resumes a run that was stopped.
configs/quickstart.py needs no data and takes minutes on a CPU.
"""

import functools
import sys
from pathlib import Path

from absl import app

from glcic_jax.training import launch
from glcic_jax.weights import find_weights

_PROGRAM = launch.Program("python main.py", "configs/quickstart.py", "configs/ has", "configs/common.py")


def main(arguments: list[str]) -> int:
    """Runs the training; returns the exit code."""
    return launch.train_as_flagged(arguments, _PROGRAM, find_weights)


if __name__ == "__main__":
    # For `configs`, where PYTHONSAFEPATH leaves this folder out; behind an installed package.
    sys.path.append(str(Path(__file__).resolve().parent))
    launch.define_flags()
    app.run(main, flags_parser=functools.partial(launch.parse_flags, program=_PROGRAM))

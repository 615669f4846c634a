"""One training over several processes, one a host: joining, and agreeing on small things.

All of it is the identity, and costs nothing, where a process trains alone.
"""

import json
import os
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from glcic_jax.errors import ConfigError, one_line

# A process that ended without a word is noticed by the others after so many seconds, and ends them.
HEARTBEAT_SECONDS = 30

# Set by `srun` and `mpirun` for each process that they start, not for a shell inside an allocation.
_CLUSTER_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def join(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Makes this process one of several, if it is told to or its surroundings say so; before any use of JAX.

    Args:
      coordinator: HOST:PORT of process 0, the same for all; "none": train alone, whatever the surroundings;
        None: what the cluster's environment says, if `srun` or `mpirun` started this process.
      count: Number of processes.
      index: This process's number, from 0.

    Raises:
      ConfigError: What is told is not enough, or the others were not found.
    """
    told = coordinator not in (None, "none")
    if not told and not (count is None and index is None):
        raise ConfigError("--process_count and --process_id go with --coordinator=HOST:PORT")
    if told and (count is None or index is None or not 0 <= index < count):
        raise ConfigError(
            f"--coordinator={coordinator} goes with --process_count=N and --process_id from 0 to N - 1, not with "
            f"{count} and {index}"
        )
    if coordinator == "none" or not (told or _cluster_says_so()):
        return
    # Without it processes on CPUs cannot talk; on other devices it changes nothing.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(coordinator, count, index, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        where = coordinator or "the address that the environment gives"
        raise ConfigError(
            f"the other processes were not found at {where}: is process 0 running there, and do all name the "
            f"same --process_count? ({one_line(error)})"
        ) from error


def _cluster_says_so() -> bool:
    sizes = [os.environ.get(name, "1") for name in _CLUSTER_SIZES]
    return any(size.isdecimal() and int(size) > 1 for size in sizes)


def is_first() -> bool:
    """Whether this is the process that writes logs and pictures."""
    return jax.process_index() == 0


def from_first(value: Any) -> Any:
    """What the first process gives, in all of them; JSON-able. All must call it at the same point."""
    if jax.process_count() == 1:
        return value
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(encoded))))
    padded = np.zeros(size, np.uint8)
    if is_first():
        padded[:] = encoded
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


def from_all(value: int) -> list[int]:
    """What each process gives, in their order, in all of them; below 2^31. All must call it at the same point."""
    if jax.process_count() == 1:
        return [value]
    return [int(one) for one in multihost_utils.process_allgather(np.int32(value))]


def leave(code: int) -> None:
    """Ends this process at once if it is one of several, who would else wait for each other at the exit."""
    if jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

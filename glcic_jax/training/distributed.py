"""One training over several devices, of one process or several: the one place where steps are pmapped."""

import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from glcic_jax.errors import ConfigError, one_line

AXIS = "devices"


def pmap_step(step: Callable[..., Any]) -> jax.stages.Wrapped:
    """Maps a step over all devices, those of other processes too; each works on its share of the batch.

    State and metrics are the same on all: `in_axes` and `out_axes` of None keep each leaf one array, replicated
    over the devices, with no leading axis. The memory of the state is handed over to the new state.

    Args:
      step: `(state, batch, key) -> (state, metrics)`, which averages over the axis `AXIS`.

    Returns:
      The same, with a leading axis of local devices on every array of the batch.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=(0,))


def replicate(tree: Any) -> Any:
    """Copies a pytree of arrays to all local devices."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def unreplicate(tree: Any) -> Any:
    """The first local device's copy of a replicated pytree; copies nothing."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data, tree)


def shard_batch(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cuts this process's part of a batch into one share for each local device, and numbers the examples.

    Args:
      batch: Arrays [N, ...]. Of several processes' parts the first examples of each come first, then the
        second ones, and so on: the order that `input_pipeline.train_batches` deals a batch out in.

    Returns:
      Arrays [devices, N / devices, ...], and `place`, int32: each example's place in the whole batch.
    """
    count = len(next(iter(batch.values())))
    place = np.arange(count, dtype=np.int32) * jax.process_count() + jax.process_index()
    numbered = {**batch, "place": place}
    return {
        name: value.reshape(jax.local_device_count(), -1, *value.shape[1:]) for name, value in numbered.items()
    }


# A process that ended without a word is noticed by the others after so many seconds, and ends them.
HEARTBEAT_SECONDS = 30

_JOINING_SECONDS = 300

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
    if coordinator == "none" or not (told or _cluster_says_so()):
        return
    options: dict[str, Any] = {"local_device_ids": _devices_of_a_lone_task()}
    if coordinator is not None:
        if count is None or index is None or not 0 <= index < count:
            raise ConfigError(
                f"--coordinator={coordinator} goes with --process_count=N and --process_id from 0 to N - 1, not "
                f"with {count} and {index}"
            )
        _wait_for(coordinator, index, count)
        # Or JAX would still take the number of GPUs from the launcher's environment.
        options = {"cluster_detection_method": "deactivate"}
    # Without it processes on CPUs cannot talk; on other devices it changes nothing.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=_JOINING_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            **options,
        )
    except (RuntimeError, ValueError) as error:
        raise _not_found(coordinator or "the address that the environment gives", error) from error
    _say(f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} devices of its own")


def _cluster_says_so() -> bool:
    sizes = [os.environ.get(name, "1") for name in _CLUSTER_SIZES]
    return any(size.isdecimal() and int(size) > 1 for size in sizes)


def _devices_of_a_lone_task() -> list[int] | None:
    """All GPUs of a host whose only task this is: JAX would give each task of SLURM and Open MPI just one."""
    slurm = re.fullmatch(r"1(\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    alone = slurm or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    count = os.environ.get("SLURM_GPUS_ON_NODE") or str(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))
    return list(range(int(count))) if alone and count.isdecimal() and int(count) else None


def _wait_for(coordinator: str, index: int, count: int) -> None:
    """Waits until process 0 listens. JAX itself would end this process without a word of what it waited for.

    Raises:
      ConfigError: It does not, or the address is none.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--coordinator={coordinator}: give HOST:PORT of process 0, as 10.0.0.1:9876")
    _say(f"process {index} of {count}: waiting for the others at {coordinator}")
    deadline = time.monotonic() + _JOINING_SECONDS
    while index > 0:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise _not_found(coordinator, error) from error
        time.sleep(0.2)


def _not_found(where: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"the other processes were not found at {where}: is process 0 running there, and do all name the same "
        f"--process_count? ({one_line(error)})"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - before there is a run that could report.


def is_first() -> bool:
    """Whether this is the process that writes logs and pictures."""
    return jax.process_index() == 0


def broadcast_from_first(value: Any) -> Any:
    """What the first process gives, in all of them; JSON-able. All must call it at the same point."""
    if jax.process_count() == 1:
        return value
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(encoded))))
    padded = np.zeros(size, np.uint8)
    if is_first():
        padded[:] = encoded
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


def all_gather(value: int) -> list[int]:
    """What each process gives, in their order, in all of them; below 2^31. All must call it at the same point."""
    if jax.process_count() == 1:
        return [value]
    return [int(one) for one in multihost_utils.process_allgather(np.int32(value))]

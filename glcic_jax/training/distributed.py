"""Training over several devices and processes; the only place that calls `jax.pmap`."""

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
from glcic_jax.runtime import start_backend

AXIS = "devices"

# After this time without a heartbeat from a process, JAX ends the others.
HEARTBEAT_SECONDS = 30

_INITIALIZATION_SECONDS = 300

# Set by `srun` and `mpirun` for each process that they start, but not for a shell inside an allocation.
_CLUSTER_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def pmap_step(step: Callable[..., Any]) -> jax.stages.Wrapped:
    """Maps a step over all devices of all processes; each device works on its share of the batch.

    State and metrics are replicated without a leading axis (`in_axes` and `out_axes` of None). The state's memory
    is donated to the new state.

    Args:
      step: `(state, batch, key) -> (state, metrics)`, which averages over the axis `AXIS`.

    Returns:
      The mapped step; arrays of its batch have a leading axis of local devices.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=(0,))


def replicate(tree: Any) -> Any:
    """Copies a pytree of arrays to all local devices."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def unreplicate(tree: Any) -> Any:
    """Returns the first local device's copy of a replicated pytree, without copying."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data, tree)


def shard_batch(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits this process's part of a batch over the local devices, and numbers the examples.

    Args:
      batch: Arrays [N, ...]. In the whole batch, the first examples of all processes come first, then their second
        ones, and so on, as `input_pipeline.train_batches` deals them out.

    Returns:
      Arrays [devices, N / devices, ...], and `place`, int32: each example's place in the whole batch.
    """
    count = len(next(iter(batch.values())))
    place = np.arange(count, dtype=np.int32) * jax.process_count() + jax.process_index()
    return {
        name: value.reshape(jax.local_device_count(), -1, *value.shape[1:])
        for name, value in {**batch, "place": place}.items()
    }


def is_lead_process() -> bool:
    """Returns whether this is process 0, which writes logs and pictures."""
    return jax.process_index() == 0


def broadcast_from_first(value: Any) -> Any:
    """Returns process 0's JSON value in all processes, which must call it at the same point."""
    if jax.process_count() == 1:
        return value
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(encoded))))
    padded = np.zeros(size, np.uint8)
    if is_lead_process():
        padded[:] = encoded
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


def all_gather(value: int) -> list[int]:
    """Returns the values (below 2^31) of all processes, in their order; all must call it at the same point."""
    if jax.process_count() == 1:
        return [value]
    return [int(one) for one in multihost_utils.process_allgather(np.int32(value))]


def initialize(
    coordinator: str | None = None, process_count: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes of a distributed training, if there are any, and starts JAX's devices.

    Args:
      coordinator: HOST:PORT of process 0; "none": train alone; None: from the environment, if `srun` or `mpirun`
        started this process.
      process_count: Number of processes.
      process_id: This process's number, from 0.

    Raises:
      ConfigError: The arguments do not fit together, the other processes were not found, or JAX has no device.
    """
    _join(coordinator, process_count, process_id)
    start_backend()


def _join(coordinator: str | None, process_count: int | None, process_id: int | None) -> None:
    has_address = coordinator not in (None, "none")
    if not has_address and not (process_count is None and process_id is None):
        raise ConfigError("--process_count and --process_id need --coordinator=HOST:PORT")
    if coordinator == "none" or not (has_address or _is_cluster_process()):
        return
    options: dict[str, Any] = {"local_device_ids": _devices_of_only_task()}
    if coordinator is not None:
        if process_count is None or process_id is None or not 0 <= process_id < process_count:
            raise ConfigError(
                f"--coordinator={coordinator} needs --process_count=N and --process_id from 0 to N - 1, not "
                f"{process_count} and {process_id}"
            )
        _wait_for_coordinator(coordinator, process_id, process_count)
        # Otherwise JAX still takes the number of GPUs from the launcher's environment.
        options = {"cluster_detection_method": "deactivate"}
    # Processes on CPUs need it to communicate; on other devices it changes nothing.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            process_count,
            process_id,
            initialization_timeout=_INITIALIZATION_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            **options,
        )
    except (RuntimeError, ValueError) as error:
        raise _not_found(coordinator or "the address in the environment", error) from error
    _log(f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} local devices")


def _is_cluster_process() -> bool:
    sizes = [os.environ.get(name, "1") for name in _CLUSTER_SIZES]
    return any(size.isdecimal() and int(size) > 1 for size in sizes)


def _devices_of_only_task() -> list[int] | None:
    """All GPUs, if this is the host's only task; JAX would give each task of SLURM and Open MPI just one."""
    slurm = re.fullmatch(r"1(\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    alone = slurm or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    count = os.environ.get("SLURM_GPUS_ON_NODE") or str(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))
    return list(range(int(count))) if alone and count.isdecimal() and int(count) else None


def _wait_for_coordinator(coordinator: str, process_id: int, process_count: int) -> None:
    """Waits until process 0 listens; JAX would end this process without naming the address.

    Raises:
      ConfigError: The address is invalid, or no process listens there.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--coordinator={coordinator}: give HOST:PORT of process 0, such as 10.0.0.1:9876")
    _log(f"process {process_id} of {process_count}: waiting for the others at {coordinator}")
    deadline = time.monotonic() + _INITIALIZATION_SECONDS
    while process_id > 0:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise _not_found(coordinator, error) from error
        time.sleep(0.2)


def _not_found(where: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"the other processes were not found at {where}: is process 0 running there, and do all give the same "
        f"--process_count? ({one_line(error)})"
    )


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - there is no progress line yet.

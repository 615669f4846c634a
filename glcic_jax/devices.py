"""One training over several devices: the one place where steps are pmapped."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"


def parallel(step: Callable[..., Any]) -> jax.stages.Wrapped:
    """Maps a step over all devices: state and metrics are the same on each, the batch is cut into shares.

    `in_axes` and `out_axes` of None keep the state as it is outside: one array, replicated over the devices,
    with no leading axis. Its memory is handed over to the new state.

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


def share(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cuts a batch into one part for each local device: [N, ...] to [devices, N / devices, ...]."""
    return {name: value.reshape(jax.local_device_count(), -1, *value.shape[1:]) for name, value in batch.items()}

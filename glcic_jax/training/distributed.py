"""One training over several devices, of one process or several: the one place where steps are pmapped."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"


def parallel(step: Callable[..., Any]) -> jax.stages.Wrapped:
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


def share(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
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

"""Saving and restoring a run with Orbax: the newest few checkpoints and the best, written in the background.

A checkpoint has four items: `completion` (C: parameters, statistics, optimizer, moving average),
`discriminator` (the same of D), `data` (the place in the stream of images) and `meta` (step, mean pixel,
configuration, versions, metrics). Each restores without the others.
"""

import importlib.metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from glcic_jax.errors import DataError, one_line
from glcic_jax.state import TrainState

_PACKAGES = ("glcic-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_BEST_METRIC = "hole_l1"


class Restored(NamedTuple):
    """A run as it was: the state, the place in the data, and the `meta` item."""

    state: TrainState
    data_state: dict[str, Any]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: The run's directory; they lie in its folder `checkpoints`.
      keep: How many of the newest stay; the one with the lowest `hole_l1` stays as well.
    """

    def __init__(self, workdir: Path, keep: int = 3):
        policies = checkpoint_managers
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep),
                    policies.BestN(
                        get_metric_fn=lambda metrics: -metrics[_BEST_METRIC],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            enable_async_checkpointing=True,
        )
        self._directory = (workdir / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(self._directory, options=options, item_names=_ITEMS)

    def latest_step(self) -> int | None:
        """The newest checkpoint's step; None where there is none."""
        return self._manager.latest_step()

    def save(
        self,
        state: TrainState,
        data_state: dict[str, Any],
        config: dict[str, Any],
        metrics: dict[str, float],
    ) -> None:
        """Starts to save; copies the state first, so that training may go on and reuse its memory.

        Args:
          state: What to save; the same on all devices.
          data_state: From the iterator's `get_state()`, after the batch that led to this state.
          config: The configuration, as plain values.
          metrics: Validation metrics; the lowest `hole_l1` marks the best checkpoint.
        """
        step = int(state.step)
        meta = {
            "step": step,
            "mean_pixel": [float(value) for value in np.asarray(state.mean_pixel)],
            "config": config,
            "versions": package_versions(),
            "metrics": metrics,
        }
        items = {
            "completion": ocp.args.StandardSave(_completion_item(state)),
            "data": ocp.args.JsonSave(data_state),
            "meta": ocp.args.JsonSave(meta),
        }
        if state.discriminator is not None:
            items["discriminator"] = ocp.args.StandardSave(vars(state.discriminator))
        self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics, force=True)

    def restore(self, state: TrainState, step: int) -> Restored:
        """Restores the whole run.

        Args:
          state: A fresh state of the same recipe: gives structure, shapes and types.
          step: Which checkpoint.

        Raises:
          DataError: It cannot be read, or belongs to networks of other shapes.
        """
        items = {
            "completion": ocp.args.StandardRestore(_abstract(_completion_item(state))),
            "data": ocp.args.JsonRestore(),
            "meta": ocp.args.JsonRestore(),
        }
        if state.discriminator is not None:
            items["discriminator"] = ocp.args.StandardRestore(_abstract(vars(state.discriminator)))
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise many types; the file is what is wrong.
            raise DataError(
                f"checkpoint {self._directory / str(step)} cannot be restored: damaged, or of networks of "
                f"another shape than this configuration's. Name another --workdir to start anew. "
                f"({one_line(error)})"
            ) from error
        completion = dict(found["completion"])
        ema = completion.pop("ema", None)
        discriminator = state.discriminator
        if discriminator is not None:
            discriminator = discriminator.replace(**found["discriminator"])
        restored = state.replace(
            step=jnp.asarray(found["meta"]["step"], jnp.int32),
            mean_pixel=jnp.asarray(found["meta"]["mean_pixel"], jnp.float32),
            completion=state.completion.replace(**completion),
            discriminator=discriminator,
            ema=ema,
        )
        return Restored(restored, found["data"], found["meta"])

    def read_meta(self, step: int) -> dict[str, Any]:
        """Reads the `meta` item of a checkpoint alone.

        Raises:
          DataError: It cannot be read.
        """
        try:
            return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        except Exception as error:
            path = self._directory / str(step)
            raise DataError(f"checkpoint {path} cannot be restored ({one_line(error)})") from error

    def wait(self) -> None:
        """Returns when everything that `save` started is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the manager's threads."""
        self._manager.wait_until_finished()
        self._manager.close()


def restore_completion(workdir: Path, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restores the completion network alone, for inference.

    Args:
      workdir: The run's directory.
      step: Which checkpoint; None: the newest.

    Returns:
      `(variables, meta)`: `params` and `batch_stats` of the moving average where the run keeps one, of the
      trained network where not, as NumPy arrays; and the checkpoint's `meta` item.

    Raises:
      DataError: There is no checkpoint, or it cannot be read.
    """
    directory = (workdir / "checkpoints").absolute()
    if not directory.is_dir():
        raise DataError(f"{workdir} holds no checkpoints: is it the workdir of a run?")
    with ocp.CheckpointManager(directory, item_names=_ITEMS) as manager:
        step = manager.latest_step() if step is None else step
        if step is None:
            raise DataError(f"{directory} holds no finished checkpoint")
        try:
            meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            item = directory / str(step) / "completion"
            with ocp.PyTreeCheckpointer() as checkpointer:
                tree = checkpointer.metadata(item).item_metadata.tree
                arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
                found = checkpointer.restore(item, restore_args=arguments)
        except Exception as error:
            path = directory / str(step)
            raise DataError(f"checkpoint {path} cannot be restored ({one_line(error)})") from error
    chosen = found["ema"] if found.get("ema") else found
    return {"params": chosen["params"], "batch_stats": chosen["batch_stats"]}, meta


def package_versions() -> dict[str, str]:
    """The versions of the packages that decide what a run computes."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _completion_item(state: TrainState) -> dict[str, Any]:
    item = dict(vars(state.completion))
    if state.ema is not None:
        item["ema"] = state.ema
    return item


def _abstract(tree: Any) -> Any:
    """Shapes and types: a restore into them fails where the checkpoint has others."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


_ITEMS = ("completion", "discriminator", "data", "meta")

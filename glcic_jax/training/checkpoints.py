"""Saving and restoring a run with Orbax: the newest few checkpoints and the best, written in the background.

A checkpoint has four items: `completion` (C: parameters, statistics, optimizer, moving average),
`discriminator` (the same of D), `data` (the place in the stream of images) and `meta` (step, mean pixel,
configuration, versions, metrics, and a checksum of everything). Each restores without the others. Arrays are
saved from and restored to the host's memory, so that the number of devices may change in between.
"""

import concurrent.futures
import functools
import importlib.metadata
import json
import logging
import math
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from glcic_jax.errors import DIVERGED_REMEDY, DataError, DivergedError, one_line
from glcic_jax.training.state import TrainState

_PACKAGES = ("glcic-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_RANKED_BY = "hole_l1"
_ITEMS = ("completion", "discriminator", "data", "meta")

_log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A run as it was: the state, the place in the data, and the `meta` item."""

    state: TrainState
    data_state: dict[str, Any]
    meta: dict[str, Any]


class _NewestAndBest(checkpoint_managers.PreservationPolicy):
    """Keeps the newest few, and the one of the lowest `hole_l1` in all processes' lives."""

    def __init__(self, newest: int, ranks: Mapping[int, float]):
        self._newest = newest
        self._ranks = ranks

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """What Orbax asks before it deletes; `checkpoints` come in order of their steps."""
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        ranked = [step for step in steps if step in self._ranks]
        kept = {*steps[-self._newest :], *sorted(ranked, key=lambda step: self._ranks[step])[:1]}
        return [step in kept for step in steps]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: The run's directory; they lie in its folder `checkpoints`.
      keep: How many of the newest stay; the one with the lowest `hole_l1` stays as well.
    """

    def __init__(self, workdir: Path, keep: int = 3):
        self._directory = (workdir / "checkpoints").absolute()
        self._keep = keep
        self._ranks: dict[int, float] = {}
        self._manager: ocp.CheckpointManager | None = None

    def steps(self) -> list[int]:
        """The steps that finished checkpoints are of, oldest first; sound or not."""
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if _is_step(path.name))

    def open(self) -> ocp.CheckpointManager:
        """Gets ready to save, when what is not sound has been set aside; the first `save` does else.

        What a killed save left unfinished is removed.
        """
        if self._manager is not None:
            return self._manager
        silence_leftovers()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self._directory}: cannot hold checkpoints ({one_line(error)})") from error
        for step in self.steps():
            try:
                self._rank(step, self.read_meta(step)["metrics"])
            except DataError as error:
                _log.warning("%s; it is kept among the newest, not as the best", error)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_NewestAndBest(self._keep, self._ranks),
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options, item_names=_ITEMS)
        return self._manager

    def check_space(self, state: TrainState) -> None:
        """Asks whether a checkpoint of a state fits the disk.

        Raises:
          DataError: It does not.
        """
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._directory).free
        if free < size:
            raise DataError(
                f"a checkpoint needs {size / 1e6:,.0f} MB, and {self._directory} has {free / 1e6:,.0f} MB "
                "free: free some, by moving older checkpoints away for instance; those there are intact"
            )

    def save(
        self,
        state: TrainState,
        data_state: dict[str, Any],
        config: dict[str, Any],
        metrics: dict[str, float],
        **more: Any,
    ) -> None:
        """Starts to save; copies the state first, so that training may go on and reuse its memory.

        Args:
          state: What to save; the same on all devices.
          data_state: Where in the stream of images the run is, after the batch that led to this state.
          config: The configuration, as plain values.
          metrics: Validation metrics; the lowest `hole_l1` marks the best checkpoint. May be empty.
          more: Further JSON-able values for the `meta` item.

        Raises:
          DivergedError: The state holds a number that is not finite; nothing is saved.
          DataError: It cannot be written, or the save before it could not.
        """
        step = int(state.step)
        trees = {"completion": _completion_item(state)}
        if state.discriminator is not None:
            trees["discriminator"] = vars(state.discriminator)
        # A copy: np.asarray of an array on the CPU is a view of memory that the next step will reuse.
        trees = jax.tree.map(np.array, trees)
        broken = non_finite_leaves(trees)
        if broken:
            raise DivergedError(
                f"{broken[0]} holds numbers that are not finite at step {step}: training has diverged and was "
                f"stopped before it was saved. {DIVERGED_REMEDY}"
            )
        checksums: dict[str, Any] = {name: leaf_checksums(tree) for name, tree in trees.items()}
        meta = {
            "step": step,
            "mean_pixel": [float(value) for value in np.asarray(state.mean_pixel)],
            "config": config,
            "versions": package_versions(),
            "metrics": metrics,
            "checksums": checksums | {"data": json_checksum(data_state)},
            **more,
        }
        meta["checksum"] = json_checksum(meta)
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items |= {"data": ocp.args.JsonSave(data_state), "meta": ocp.args.JsonSave(meta)}
        manager = self.open()
        self.check_space(state)
        self._rank(step, metrics)
        self._worded(lambda: manager.save(step, args=ocp.args.Composite(**items), force=True))

    def restore(self, state: TrainState, step: int) -> Restored:
        """Restores the whole run, and compares every array with its checksum.

        Args:
          state: A fresh state of the same spec: gives structure, shapes and types.
          step: Which checkpoint.

        Raises:
          DataError: It cannot be read, is damaged, or holds arrays of another shape.
        """
        meta = self.read_meta(step)
        path = self._directory / str(step)
        try:
            data_state = read_json(path / "data")
            if json_checksum(data_state) != meta["checksums"]["data"]:
                raise DataError("the checksum of the data item is wrong")
            completion = read_arrays(path / "completion", _completion_item(state), meta)
            discriminator = state.discriminator
            if discriminator is not None:
                found = read_arrays(path / "discriminator", vars(discriminator), meta)
                discriminator = discriminator.replace(**found)
        except Exception as error:  # Orbax and TensorStore raise many types; the file is what is wrong.
            raise DataError(f"checkpoint {path} is damaged ({one_line(error)})") from error
        ema = completion.pop("ema", None)
        restored = state.replace(
            step=jnp.asarray(meta["step"], jnp.int32),
            mean_pixel=jnp.asarray(meta["mean_pixel"], jnp.float32),
            completion=state.completion.replace(**completion),
            discriminator=discriminator,
            ema=ema,
        )
        return Restored(restored, data_state, meta)

    def read_meta(self, step: int) -> dict[str, Any]:
        """Reads the `meta` item of a checkpoint alone.

        Raises:
          DataError: It cannot be read, or its checksum is wrong.
        """
        path = self._directory / str(step)
        try:
            meta = read_json(path / "meta")
            checksum = meta.pop("checksum")
            if json_checksum(meta) != checksum or meta["step"] != step:
                raise DataError("the checksum of the meta item is wrong")
        except Exception as error:  # As above.
            reason = f"no item {one_line(error)}" if isinstance(error, KeyError) else one_line(error)
            raise DataError(f"checkpoint {path} is damaged ({reason})") from error
        return meta

    def set_aside(self, step: int) -> Path:
        """Moves a checkpoint that is not sound out of the way, beside the folder; says where it is now."""
        return self._move_aside(self._directory / str(step))

    def set_strays_aside(self) -> list[Path]:
        """Does the same with what Orbax would take for a checkpoint, as a folder 05 for step 5."""
        found = list(self._directory.iterdir()) if self._directory.is_dir() else []
        return [self._move_aside(path) for path in found if _is_number(path.name) and not _is_step(path.name)]

    def _move_aside(self, path: Path) -> Path:
        folder = self._directory.with_name("checkpoints_set_aside")
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{path} is to be moved to {folder}, which cannot be made ({one_line(error)})"
            ) from error
        taken = {path.name for path in folder.iterdir()}
        names = (path.name, *(f"{path.name}_{i}" for i in range(2, 10_000)))
        return path.rename(folder / next(name for name in names if name not in taken))

    def check(self) -> None:
        """Asks whether what `save` started has failed meanwhile.

        Raises:
          DataError: It could not be written.
        """
        if self._manager is not None:
            self._worded(self._manager.check_for_errors)

    def wait(self) -> None:
        """Returns when everything that `save` started is on disk.

        Raises:
          DataError: It could not be written.
        """
        if self._manager is not None:
            self._worded(self._manager.wait_until_finished)

    def _worded(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except jax.errors.JaxRuntimeError:
            raise  # Another process was lost.
        except Exception as error:  # Orbax and TensorStore raise many types, of the save before this one too.
            raise DataError(
                f"a checkpoint cannot be written to {self._directory} ({one_line(error)}); those there are intact"
            ) from error

    def close(self) -> None:
        """Waits, then frees the manager's threads."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def _rank(self, step: int, metrics: Mapping[str, float]) -> None:
        if math.isfinite(metrics.get(_RANKED_BY, math.nan)):
            self._ranks[step] = metrics[_RANKED_BY]


def package_versions() -> dict[str, str]:
    """The versions of the packages that decide what a run computes."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _is_step(name: str) -> bool:
    return _is_number(name) and name == str(int(name))


def _completion_item(state: TrainState) -> dict[str, Any]:
    item = dict(vars(state.completion))
    if state.ema is not None:
        item["ema"] = state.ema
    return item


def leaf_checksums(tree: Any) -> dict[str, int]:
    """The CRC-32 of each array of a pytree, with its type and shape, by its path in the tree.

    Args:
      tree: Of NumPy arrays.
    """
    return _by_path(tree, _checksum)


def non_finite_leaves(tree: Any) -> list[str]:
    """The paths of the arrays that hold a number that is not finite."""
    return [
        path for path, finite in _by_path(tree, lambda leaf: bool(np.isfinite(leaf).all())).items() if not finite
    ]


def _check_leaves(tree: Any, expected: Mapping[str, int]) -> None:
    """Compares each array of a pytree with the checksum that was kept of it.

    Raises:
      DataError: One differs, or none was kept of it.
    """
    wrong = [path for path, checksum in leaf_checksums(tree).items() if expected.get(path) != checksum]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DataError(f"the checksum of {wrong[0]}{more} is wrong")


def json_checksum(value: Any) -> int:
    """The CRC-32 of a JSON-able value, whatever the order of its keys."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON item; what Orbax raises is the caller's to word."""
    with ocp.Checkpointer(ocp.JsonCheckpointHandler(), multiprocessing_options=_alone()) as checkpointer:
        return checkpointer.restore(path)


def read_arrays(path: Path, like: Any, meta: Mapping[str, Any]) -> Any:
    """Reads an item into NumPy arrays, and compares them with their checksums.

    Args:
      path: The item's folder; its name is the item's.
      like: A pytree of arrays: gives structure, shapes and types.
      meta: The checkpoint's `meta` item.

    Raises:
      DataError: A shape, a type or a checksum differs. Orbax's own errors pass through.
    """
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    with _reader() as checkpointer:
        found = checkpointer.restore(path, args=ocp.args.PyTreeRestore(item=like, restore_args=arguments))
    for (place, array), leaf in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(like), strict=True):
        # Orbax fills a NumPy target of another shape without a word.
        if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            name = jax.tree_util.keystr(place)
            raise DataError(f"{name} is {array.dtype}{array.shape}, not {leaf.dtype}{leaf.shape}")
    _check_leaves(found, meta["checksums"][path.name])
    return found


def read_variables(path: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Reads what C completes with, of whatever shape it is; the optimizer's arrays stay on the disk.

    Args:
      path: The folder of the item `completion`.
      meta: The checkpoint's `meta` item.

    Returns:
      `params`, `batch_stats` and, where there is a moving average, `ema` with both, as NumPy arrays.

    Raises:
      DataError: It cannot be read, or a checksum is wrong.
    """
    wanted = ("params", "batch_stats", "ema")
    try:
        with _reader() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
            item = {name: tree[name] for name in wanted if name in tree}
            arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
            found = checkpointer.restore(
                path, args=ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True)
            )
        _check_leaves(found, meta["checksums"]["completion"])
    except Exception as error:  # Orbax and TensorStore raise many types; the file is what is wrong.
        raise DataError(f"checkpoint {path.parent} is damaged ({one_line(error)})") from error
    return found


def _reader() -> ocp.Checkpointer:
    silence_leftovers()
    alone = _alone()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


@functools.cache
def silence_leftovers() -> None:
    """Leaves out the tracebacks, hundreds of them, that follow an array which cannot be read or written.

    Orbax gives up at the first; the callbacks of the others then find its event loop closed, and say so.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _alone() -> ocp.options.MultiprocessingOptions:
    """Each process reads by itself: else Orbax would have them wait for each other after every item."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )


def _checksum(leaf: np.ndarray) -> int:
    kind = f"{leaf.dtype.str}{leaf.shape}".encode()
    return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, zlib.crc32(kind))


def _by_path(tree: Any, work: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    named = [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree.leaves_with_path(tree)]
    # Threads: zlib and NumPy let go of the interpreter, and a full-size state is half a gigabyte.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        values = pool.map(work, [leaf for _, leaf in named])
        return dict(zip([path for path, _ in named], values, strict=True))

"""Saves and restores runs with Orbax, in the background: the newest few checkpoints and the best one.

A checkpoint has the items of its state (`State.items`: an item for each network, with parameters, statistics and
optimizer), `data` (position in the stream of images) and `meta` (step, the state's facts, configuration, versions,
metrics, checksums). Each restores without the others. Arrays are saved from and restored to host memory, so the
number of devices may change in between. Arrays carry a CRC-32: Orbax alone restores some zeroed files as wrong
numbers without an error.
"""

import concurrent.futures
import contextlib
import functools
import importlib.metadata
import json
import logging
import math
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from glcic_jax.errors import DIVERGED_REMEDY, ConfigError, DataError, DivergedError, as_user_error
from glcic_jax.runtime import start_backend
from glcic_jax.training.task import State

_PACKAGES = ("glcic-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")

_log = logging.getLogger(__name__)


class DamagedCheckpointError(DataError):
    """The content of a checkpoint is damaged or missing; one that cannot be opened raises a plain `DataError`."""


class Restored(NamedTuple):
    """A restored checkpoint: the state, the position in the data, and the `meta` item."""

    state: State
    data_state: dict[str, Any]
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: The run's directory; its folder `checkpoints` holds them.
      keep: Number of newest checkpoints to keep.
      best_metric: The checkpoint with the lowest value of this metric is kept too; "": none.
    """

    def __init__(self, workdir: Path, keep: int = 3, best_metric: str = ""):
        self._directory = (workdir / "checkpoints").absolute()
        self._keep = keep
        self._best_metric = best_metric
        self._manager: ocp.CheckpointManager | None = None

    def steps(self) -> list[int]:
        """Returns the steps of all finished checkpoints, damaged ones included, oldest first."""
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if _is_step(path.name))

    def open(self) -> ocp.CheckpointManager:
        """Prepares for saving and deletes the remains of a killed save; otherwise the first `save` does so."""
        if self._manager is None:
            silence_closed_event_loops()
            with as_user_error(f"{self._directory}: cannot hold checkpoints"):
                self._directory.mkdir(parents=True, exist_ok=True)
            # Reversed, as BestN keeps the last one; its metrics are those of `_CheckpointManager.metrics`.
            best = BestN(
                get_metric_fn=lambda metrics: metrics[self._best_metric],
                reverse=True,
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            options = ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(self._keep), best]),
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
            )
            self._manager = _CheckpointManager(self._directory, options, self._best_metric)
        return self._manager

    def check_space(self, state: State) -> None:
        """Checks that a checkpoint of a state fits on the disk.

        Raises:
          DataError: It does not.
        """
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._directory).free
        if free < size:
            raise DataError(
                f"a checkpoint needs {size / 1e6:,.0f} MB, and {self._directory} has {free / 1e6:,.0f} MB free: "
                "free some space, for example by moving older checkpoints away; existing checkpoints are intact"
            )

    def save(
        self,
        state: State,
        data_state: dict[str, Any],
        config: dict[str, Any],
        metrics: dict[str, float],
        **more: Any,
    ) -> None:
        """Starts to save; copies the state first, so training may continue and reuse its memory.

        Args:
          state: The state on one device.
          data_state: Position in the stream of images after the batch that led to this state.
          config: The configuration, as plain values.
          metrics: Validation metrics, may be empty.
          more: Further JSON values for the `meta` item.

        Raises:
          DivergedError: The state holds NaN or Inf; nothing is saved.
          DataError: This or the previous checkpoint cannot be written.
        """
        step = int(state.step)
        # A copy: np.asarray of an array on the CPU is a view of memory that the next step will reuse.
        trees = jax.tree.map(np.array, state.items())
        broken = non_finite_leaves(trees)
        if broken:
            raise DivergedError(
                f"{broken[0]} holds numbers that are not finite at step {step}: training has diverged and was "
                f"stopped before it was saved. {DIVERGED_REMEDY}"
            )
        checksums: dict[str, Any] = {name: leaf_checksums(tree) for name, tree in trees.items()}
        meta = {
            "step": step,
            **state.facts(),
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
        with self._write_errors():
            manager.save(
                step, args=ocp.args.Composite(**items), metrics=_rankable(metrics, self._best_metric), force=True
            )

    def restore(self, state: State, step: int, without: Collection[str] = ()) -> Restored:
        """Restores a checkpoint and verifies every checksum.

        Args:
          state: A fresh state of the same spec; gives structure, shapes and dtypes.
          step: The checkpoint's step.
          without: Items that are not restored, but stay as in `state`.

        Raises:
          DamagedCheckpointError: The checkpoint is damaged, or holds arrays of other shapes.
          DataError: It cannot be opened.
          ConfigError: A version of this package saved it whose state has other arrays.
        """
        meta = self.read_meta(step)
        path = self._directory / str(step)
        items = {name: tree for name, tree in state.items().items() if name not in without}
        for name, tree in items.items():
            arrays = {jax.tree_util.keystr(place) for place, _ in jax.tree.leaves_with_path(tree)}
            if arrays != meta["checksums"].get(name, {}).keys():
                raise ConfigError(
                    f"checkpoint {path} was saved by another version of glcic_jax, whose optimizer state differs: "
                    "resume it with that version, or start anew with another --workdir; its weights remain usable"
                )
        with _reading(path):
            data_state = _read_json(path / "data")
            if json_checksum(data_state) != meta["checksums"]["data"]:
                raise DataError("the checksum of the data item is wrong")
            found = {name: read_arrays(path / name, tree, meta) for name, tree in items.items()}
        return Restored(state.restored(found, meta), data_state, meta)

    def read_meta(self, step: int) -> dict[str, Any]:
        """Reads the `meta` item of a checkpoint.

        Raises:
          DamagedCheckpointError: It is missing, or its checksum is wrong.
          DataError: It cannot be opened.
        """
        return _read_meta(self._directory / str(step))

    def set_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint to `checkpoints_set_aside`; returns its new path."""
        return self._move_aside(self._directory / str(step))

    def set_strays_aside(self) -> list[Path]:
        """Moves folders aside that Orbax would mistake for checkpoints, such as 05; returns their new paths."""
        found = list(self._directory.iterdir()) if self._directory.is_dir() else []
        return [self._move_aside(path) for path in found if _is_number(path.name) and not _is_step(path.name)]

    def _move_aside(self, path: Path) -> Path:
        folder = self._directory.with_name("checkpoints_set_aside")
        with as_user_error(f"{path} cannot be moved to {folder}"):
            folder.mkdir(exist_ok=True)
        taken = {path.name for path in folder.iterdir()}
        names = (path.name, *(f"{path.name}_{i}" for i in range(2, 10_000)))
        return path.rename(folder / next(name for name in names if name not in taken))

    def check(self) -> None:
        """Raises DataError if a save in the background has failed."""
        if self._manager is not None:
            with self._write_errors():
                self._manager.check_for_errors()

    def wait(self) -> None:
        """Waits until every started save is on disk; raises DataError if one has failed."""
        if self._manager is not None:
            with self._write_errors():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees the manager's threads."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def _write_errors(self) -> contextlib.AbstractContextManager[None]:
        # A JaxRuntimeError means that another process was lost.
        return as_user_error(
            f"a checkpoint cannot be written to {self._directory}",
            "; existing checkpoints are intact",
            passing=(jax.errors.JaxRuntimeError,),
        )


class _CheckpointManager(ocp.CheckpointManager):
    """Finds the metrics of existing checkpoints, which rank them, in the `meta` item."""

    def __init__(self, directory: Path, options: ocp.CheckpointManagerOptions, best_metric: str):
        self._best_metric = best_metric
        super().__init__(directory, options=options)

    def metrics(self, step: int) -> dict[str, float] | None:
        try:
            return _rankable(_read_meta(Path(self.directory) / str(step))["metrics"], self._best_metric)
        except DataError as error:
            _log.warning("%s; it is kept among the newest, not as the best", error)
            return None


def _rankable(metrics: Mapping[str, float], best_metric: str) -> dict[str, float] | None:
    """Returns the metrics if they can rank a checkpoint."""
    return dict(metrics) if math.isfinite(metrics.get(best_metric, math.nan)) else None


def package_versions() -> dict[str, str]:
    """Returns the versions of the packages that determine a run's numbers."""
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


def leaf_checksums(tree: Any) -> dict[str, int]:
    """Returns the CRC-32 of each array of a pytree, its dtype and shape included, by its path in the tree."""

    def checksum(leaf: np.ndarray) -> int:
        kind = f"{leaf.dtype.str}{leaf.shape}".encode()
        return zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, zlib.crc32(kind))

    return _map_by_path(checksum, tree)


def non_finite_leaves(tree: Any) -> list[str]:
    """Returns the paths of the arrays that hold NaN or Inf."""
    finite = _map_by_path(lambda leaf: bool(np.isfinite(leaf).all()), tree)
    return [path for path, is_finite in finite.items() if not is_finite]


def _map_by_path(function: Callable[[np.ndarray], Any], tree: Any) -> dict[str, Any]:
    named = [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in jax.tree.leaves_with_path(tree)]
    # Threads: zlib and NumPy release the interpreter lock, and a full-size state is half a gigabyte.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        values = pool.map(function, [leaf for _, leaf in named])
        return dict(zip([path for path, _ in named], values, strict=True))


def json_checksum(value: Any) -> int:
    """Returns the CRC-32 of a JSON value, independent of the order of its keys."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


@contextlib.contextmanager
def _reading(checkpoint: Path, item: str = "") -> Iterator[None]:
    """Turns errors of reading a checkpoint, or one item of it, into errors for the user.

    Raises:
      DamagedCheckpointError: The block raised an error.
      DataError: A file cannot be opened, and its content may be sound.
      ConfigError: JAX has no device.
    """

    def fail(error: OSError) -> None:
        raise error

    start_backend()  # Orbax asks for it.
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # Reading says what is missing.
            for folder, _, files in os.walk(checkpoint / item, onerror=fail):
                for name in files:
                    Path(folder, name).open("rb").close()
    except OSError as error:
        raise DataError(
            f"checkpoint {checkpoint} cannot be opened ({error.filename}: {error.strerror}): make it readable, or "
            "name another checkpoint"
        ) from error
    with as_user_error(f"checkpoint {checkpoint} is damaged", kind=DamagedCheckpointError):
        yield


def _read_meta(path: Path) -> dict[str, Any]:
    with _reading(path, "meta"):
        meta = _read_json(path / "meta")
        if meta.pop("checksum", None) != json_checksum(meta) or meta["step"] != int(path.name):
            raise DataError("the checksum of the meta item is wrong")
    return meta


def _read_json(path: Path) -> dict[str, Any]:
    """Reads an item that was saved as `ocp.args.JsonSave`."""
    return json.loads((path / "metadata").read_text())


def read_arrays(path: Path, like: Any, meta: Mapping[str, Any]) -> Any:
    """Reads an item into NumPy arrays and verifies their checksums.

    Args:
      path: The item's folder, called as the item.
      like: A pytree of arrays; gives structure, shapes and dtypes.
      meta: The checkpoint's `meta` item.

    Raises:
      DataError: A shape, a dtype or a checksum differs. Orbax's own errors pass through.
    """
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    with contextlib.closing(_handler()) as handler:
        found = handler.restore(path, args=ocp.args.PyTreeRestore(item=like, restore_args=arguments))
    for (place, array), leaf in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(like), strict=True):
        # Orbax fills a NumPy target of another shape without an error.
        if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            name = jax.tree_util.keystr(place)
            raise DataError(f"{name} is {array.dtype}{array.shape}, not {leaf.dtype}{leaf.shape}")
    _verify_checksums(found, meta["checksums"][path.name])
    return found


def read_variables(path: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a network's variables for inference, of any shape, without the optimizer's arrays.

    Args:
      path: The folder of the network's item.
      meta: The checkpoint's `meta` item.

    Returns:
      `params`, `batch_stats` and, where the run keeps a moving average, `ema` with both, as NumPy arrays.

    Raises:
      DamagedCheckpointError: The item is damaged or missing.
      DataError: It cannot be opened.
    """
    with _reading(path.parent, path.name), contextlib.closing(_handler()) as handler:
        tree = handler.metadata(path).tree
        item = {name: tree[name] for name in ("params", "batch_stats", "ema") if name in tree}
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        found = handler.restore(
            path,
            args=ocp.args.PyTreeRestore(item=item, restore_args=arguments, partial_restore=True),
        )
        _verify_checksums(found, meta["checksums"][path.name])
    return found


def _verify_checksums(tree: Any, expected: Mapping[str, int]) -> None:
    wrong = [path for path, checksum in leaf_checksums(tree).items() if expected.get(path) != checksum]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DataError(f"the checksum of {wrong[0]}{more} is wrong")


def _handler() -> ocp.PyTreeCheckpointHandler:
    """Reads one item. A `Checkpointer` would warn of the metadata that only whole checkpoints have."""
    silence_closed_event_loops()
    # Each process reads alone; otherwise Orbax makes them wait for each other after every item.
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process_{index}"
    )
    return ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)


@functools.cache
def silence_closed_event_loops() -> None:
    """Hides the hundreds of tracebacks that follow an array which cannot be read or written.

    Orbax stops at the first such array; the callbacks of the other arrays then find its event loop closed.
    """
    original = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            original(unraisable)

    sys.unraisablehook = hook

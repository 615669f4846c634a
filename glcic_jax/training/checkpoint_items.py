"""Reading the items of a checkpoint, with checksums: what a disk gives back wrong trains and completes nothing."""

import concurrent.futures
import functools
import json
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from glcic_jax.errors import DataError, one_line


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

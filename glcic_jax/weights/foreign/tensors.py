"""Shared by the readers of PyTorch's and Torch7's files: the bytes of a file, and views of flat storages."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glcic_jax.errors import WeightsError, one_line, printable

# The largest of these networks with its optimizer state takes about half a gigabyte.
MAX_FILE_SIZE = 4 << 30
_MAX_DIMENSIONS = 8
_MAX_NUMBER = 1 << 62


def read_bytes(path: Path) -> bytes:
    """Reads a whole file of weights.

    Raises:
      WeightsError: The file is missing, empty, too large or unreadable.
    """
    name = printable(str(path))
    try:
        if not path.is_file():
            raise WeightsError(f"{name}: {'not a file' if path.exists() else 'no such file'}")
        size = path.stat().st_size
        if size > MAX_FILE_SIZE:
            raise WeightsError(
                f"{name}: {size:,} bytes exceed the limit of {MAX_FILE_SIZE:,}: save the weights alone"
            )
        if not size:
            raise WeightsError(f"{name}: the file is empty: copy it again")
        return path.read_bytes()
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a null byte in the path.
        raise WeightsError(f"{name}: cannot be read ({printable(one_line(error))})") from error


def strided(storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """Returns a read-only view of a flat storage.

    Args:
      storage: [N], any dtype.
      offset: Index of the first element.
      shape: Shape of the view; a view without elements becomes an array [0].
      strides: Steps between neighbours along each axis, in elements.

    Raises:
      ValueError: The view leaves the storage, or repeats its elements until it is larger than the storage.
    """
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError("a tensor without a storage")
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    # An integer in a file may have a million digits, and arithmetic with it would take minutes.
    numbers = (offset, *shape, *strides)
    if not all(isinstance(number, int) and -_MAX_NUMBER <= number <= _MAX_NUMBER for number in numbers):
        raise ValueError("a tensor whose sizes are not sizes")
    if offset < 0 or any(size < 0 for size in shape):
        raise ValueError("a tensor of a negative size or offset")
    if 0 in shape:
        return storage[:0]
    steps = [0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True)]
    if any(step < 0 for step in steps):
        raise ValueError("a tensor with a negative stride")
    last = offset + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    if last >= len(storage) or math.prod(shape) > len(storage):
        raise ValueError("a tensor larger than its storage")
    return np.lib.stride_tricks.as_strided(
        storage[offset:], tuple(shape), tuple(step * storage.itemsize for step in steps), writeable=False
    )

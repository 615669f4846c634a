"""What all files of other frameworks' tensors have in common: their bytes, and views of flat storages."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glcic_jax.errors import WeightsError, one_line, printable

# The largest of these networks with its optimizer's slots takes about half a gigabyte.
LARGEST_FILE = 4 << 30
_MOST_DIMENSIONS = 8


def read_bytes(path: Path) -> bytes:
    """Reads a whole file of weights.

    Raises:
      WeightsError: It is not there, empty, too large or cannot be read.
    """
    name = printable(str(path))
    try:
        if not path.is_file():
            raise WeightsError(f"{name}: {'not a file' if path.exists() else 'no such file'}")
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise WeightsError(
                f"{name}: {size:,} bytes are more than the {LARGEST_FILE:,} that are read: save the weights alone"
            )
        if not size:
            raise WeightsError(f"{name}: the file is empty: copy it again")
        return path.read_bytes()
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a null byte in the path.
        raise WeightsError(f"{name}: cannot be read ({printable(one_line(error))})") from error


def strided(storage: np.ndarray, offset: int, shape: Sequence[int], strides: Sequence[int]) -> np.ndarray:
    """A view of a flat storage, as tensors are kept in files.

    Args:
      storage: [N], any dtype.
      offset: Where the first number lies.
      shape: The view's; one that holds no numbers gives an array [0].
      strides: Steps between neighbours along each axis, in numbers.

    Returns:
      An array of that shape that shares the storage's memory.

    Raises:
      ValueError: The view leaves the storage, or repeats its numbers so that it is larger than it.
    """
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError("a tensor without a storage")
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    numbers = (offset, *shape, *strides)
    if not all(isinstance(number, int) for number in numbers) or offset < 0 or any(size < 0 for size in shape):
        raise ValueError("a tensor of a size or offset that is no number of elements")
    if 0 in shape:
        return storage[:0]
    steps = [0 if size == 1 else stride for size, stride in zip(shape, strides, strict=True)]
    if any(step < 0 for step in steps):
        raise ValueError("a tensor of a negative stride")
    last = offset + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    if last >= len(storage) or math.prod(shape) > len(storage):
        raise ValueError("a tensor that is larger than its storage")
    return np.lib.stride_tricks.as_strided(
        storage[offset:], tuple(shape), tuple(step * storage.itemsize for step in steps), writeable=False
    )

"""Reads binary files of Torch7's `torch.save` without Torch7 and without running the Lua code in them.

A file is one value, and every value begins with a tag. Tables, objects and functions have an index, by which later
values refer back to them. Integers have 4 bytes, longs and doubles 8, little-endian.

Reference: torch7's doc/serialization.md and File.lua.
"""

import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from glcic_jax.errors import WeightsError, one_line, printable
from glcic_jax.weights.foreign.tensors import strided

# A completion network is about 12 levels deep. Python's own stack ends well above this limit.
_MAX_DEPTH = 150
# Larger numbers are inexact and may share one hash, and then a dict takes quadratic time.
_MAX_KEY = 1 << 53
_TENSOR = re.compile(r"torch\.(Cuda)?(Double|Float|Half|Long|Int|Short|Char|Byte)?(Tensor|Storage)")
_DTYPES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "i1",
    "Byte": "u1",
}


class TorchObject(NamedTuple):
    """An object that is not a tensor, such as a module of nn.

    Attributes:
      class_name: As "nn.SpatialConvolution".
      fields: The fields of the object, by name.
    """

    class_name: str
    fields: dict[Any, Any]


def looks_like_torch7(data: bytes) -> bool:
    """Returns whether a file begins with the tag of a table or of an object."""
    return data[:4] in (b"\x03\0\0\0", b"\x04\0\0\0")


def parse_torch7(data: bytes, name: str) -> Any:
    """Parses a binary Torch7 file.

    Args:
      data: The content of the file.
      name: The name of the file in errors.

    Returns:
      Tables as dicts (keys str or int, others are dropped), tensors and storages, CUDA's too, as NumPy arrays of
      their own dtype, other objects as `TorchObject`, numbers as float, strings as str, nil and functions as None.

    Raises:
      WeightsError: The file is damaged or truncated.
    """
    try:
        return _Parser(data).value()
    except (ValueError, OverflowError, MemoryError, struct.error) as error:
        reason = printable(one_line(error))
        raise WeightsError(f"{name}: cannot be read as a Torch7 file ({reason}): copy it again") from error


class _Parser:
    def __init__(self, data: bytes):
        self._data = data
        self._position = 0
        self._seen: dict[int, Any] = {}
        self._depth = 0

    def value(self) -> Any:
        """Reads the next value with everything inside it."""
        tag = self._integer()
        if tag not in _READERS:
            raise ValueError(f"unknown tag {tag}")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        value = _READERS[tag](self)
        self._depth -= 1
        return value

    def _skip(self, size: int) -> int:
        """Returns the position before the next `size` bytes, and moves behind them."""
        start = self._position
        left = len(self._data) - start
        if size < 0:
            raise ValueError(f"a negative size, {size}")
        if size > left:
            raise ValueError(f"it ends too early: {size:,} bytes are announced and {left:,} are left")
        self._position += size
        return start

    def _take(self, size: int) -> bytes:
        start = self._skip(size)
        return self._data[start : start + size]

    def _integer(self) -> int:
        return struct.unpack("<i", self._take(4))[0]

    def _long(self) -> int:
        return struct.unpack("<q", self._take(8))[0]

    def _double(self) -> float:
        return struct.unpack("<d", self._take(8))[0]

    def _boolean(self) -> bool:
        return self._integer() == 1

    def _string(self) -> str:
        return self._take(self._integer()).decode("utf-8", "backslashreplace")

    def _table(self) -> dict[Any, Any]:
        index = self._integer()
        if index in self._seen:
            return self._seen[index]
        size = self._integer()
        if size < 0:
            raise ValueError(f"a table of a negative size, {size}")
        table: dict[Any, Any] = {}
        self._seen[index] = table
        for _ in range(size):
            key, value = self.value(), self.value()
            if isinstance(key, float) and abs(key) <= _MAX_KEY and key.is_integer():
                key = int(key)
            # Weights have no other keys, and some of those cannot be hashed.
            if isinstance(key, str | int) and not isinstance(key, bool):
                table[key] = value
        return table

    def _function(self) -> None:
        self._take(self._integer())  # Its bytecode.
        self.value()  # Its upvalues.

    def _shared_function(self) -> None:
        index = self._integer()
        if index not in self._seen:
            self._seen[index] = None
            self._function()

    def _object(self) -> Any:
        index = self._integer()
        if index in self._seen:
            return self._seen[index]
        class_name = self._string()
        # Files from before Torch7 had versions begin with the class.
        if re.fullmatch(r"V -?\d+", class_name):
            class_name = self._string()
        if tensor := _TENSOR.fullmatch(class_name):
            cuda, kind, form = tensor.groups()
            if not (cuda or kind):
                raise ValueError(f"{class_name} has no dtype")
            dtype = np.dtype(_DTYPES[kind or "Float"])
            self._seen[index] = self._tensor(dtype) if form == "Tensor" else self._storage(dtype)
            return self._seen[index]
        found = TorchObject(class_name, {})
        self._seen[index] = found
        fields = self.value()
        if not isinstance(fields, dict):
            raise ValueError(f"an object of the unknown class {class_name[:80]!r}")  # noqa: TRY004 - the file's fault.
        found.fields.update(fields)
        return found

    def _storage(self, dtype: np.dtype) -> np.ndarray:
        size = self._long()
        return np.frombuffer(self._data, dtype, size, self._skip(size * dtype.itemsize))

    def _tensor(self, dtype: np.dtype) -> np.ndarray:
        dimensions = self._integer()
        if not 0 <= dimensions <= 8:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        numbers = [self._long() for _ in range(2 * dimensions + 1)]
        storage = self.value()
        if storage is None or not dimensions:
            return np.zeros(0, dtype)
        if not isinstance(storage, np.ndarray) or storage.dtype != dtype:
            raise ValueError("a tensor with a storage of another dtype")
        return strided(storage, numbers[-1] - 1, numbers[:dimensions], numbers[dimensions:-1])


# By tag.
_READERS: dict[int, Callable[[_Parser], Any]] = {
    0: lambda _: None,
    1: _Parser._double,
    2: _Parser._string,
    3: _Parser._table,
    4: _Parser._object,
    5: _Parser._boolean,
    6: _Parser._function,
    7: _Parser._shared_function,
    8: _Parser._shared_function,
}

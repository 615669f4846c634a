"""Reads files that Torch7's `torch.save` wrote, without Torch7 and without running the Lua code in them.

A file is one value; each begins with a tag. Tables and objects have a number, by which later ones point back
to them. Binary files are little endian with longs of eight bytes, or of four where a machine of 32 bits wrote
them, which they do not say; ascii ones hold the same as text.

Reference: torch7's doc/serialization.md and File.lua.
"""

import contextlib
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from glcic_jax.errors import WeightsError, one_line, printable
from glcic_jax.weights.foreign.tensors import read_bytes, strided

# A completion network is about 12 deep. What is deeper than this would exhaust Python's own stack.
_DEEPEST = 150
# Above, numbers are no more exact, and may all have one hash: a table of them takes time squared.
_LARGEST_KEY = 1 << 53
# What damaged files raise.
_FAULTS = (ValueError, OverflowError, MemoryError, struct.error)
_LONG = np.dtype("<i8")
_SHORTER_LONG = np.dtype("<i4")
_TOKEN = re.compile(rb"\s*(\S+)")
_TENSOR = re.compile(r"torch\.(Cuda)?(Double|Float|Half|Long|Int|Short|Char|Byte)?(Tensor|Storage)")
_TYPES = {
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
    """An object of a class that is no tensor, as nn's modules are.

    Attributes:
      class_name: As "nn.SpatialConvolution".
      fields: What it holds.
    """

    class_name: str
    fields: dict[Any, Any]


class LuaFunction:
    """Stands where a function was; its code is passed over."""


def read_torch7(path: Path) -> Any:
    """Reads a file of Torch7, binary or ascii.

    Returns:
      Tables as dicts (keys str or int, from 1 on; others are left out), tensors and storages as NumPy arrays of
      their own type, of which those of CUDA are no different, other objects as `TorchObject`, functions as
      `LuaFunction`, numbers as float, strings as str, nil as None.

    Raises:
      WeightsError: It is not there, no such file, damaged or truncated.
    """
    return parse_torch7(read_bytes(path), printable(str(path)))


def looks_like_torch7(data: bytes) -> bool:
    """If a file begins with the tag of a table or an object, binary or ascii."""
    return data[:4] in (b"\x03\0\0\0", b"\x04\0\0\0") or data[:2] in (b"3\n", b"4\n")


def parse_torch7(data: bytes, name: str) -> Any:
    """As `read_torch7`, from the file's bytes.

    Args:
      data: The file's.
      name: What errors call it.

    Raises:
      WeightsError: As in `read_torch7`.
    """
    try:
        return _Parser(_Ascii(data) if data[:1].isdigit() else _Binary(data)).value()
    except _FAULTS as error:
        if not data[:1].isdigit():
            with contextlib.suppress(*_FAULTS):
                return _with_shorter_longs(data)
        reason = printable(one_line(error))
        raise WeightsError(f"{name}: cannot be read as a Torch7 file ({reason}): copy it again") from error


def _with_shorter_longs(data: bytes) -> Any:
    """Of a file that makes no sense with longs of eight bytes. This one has to fit to its last byte."""
    source = _Binary(data, _SHORTER_LONG)
    value = _Parser(source).value()
    if source.left():
        raise ValueError(f"{source.left():,} bytes follow it")
    return value


class _Source(Protocol):
    """Where values come from; each method takes what it returns. Raises ValueError where there is none."""

    def integer(self) -> int: ...

    def long(self) -> int: ...

    def double(self) -> float: ...

    def text(self, size: int) -> bytes: ...

    def numbers(self, size: int, dtype: np.dtype) -> np.ndarray: ...


class _Binary:
    def __init__(self, data: bytes, long: np.dtype = _LONG):
        self._data = data
        self._long = long
        self._position = 0

    def integer(self) -> int:
        return struct.unpack("<i", self.text(4))[0]

    def long(self) -> int:
        return int(self.numbers(1, _LONG)[0])

    def double(self) -> float:
        return struct.unpack("<d", self.text(8))[0]

    def text(self, size: int) -> bytes:
        start = self._take(size)
        return self._data[start : start + size]

    def numbers(self, size: int, dtype: np.dtype) -> np.ndarray:
        stored = self._long if dtype == _LONG else dtype
        start = self._take(size * stored.itemsize)
        return np.frombuffer(self._data, stored, size, start).astype(dtype, copy=False)

    def left(self) -> int:
        return len(self._data) - self._position

    def _take(self, size: int) -> int:
        start = self._position
        _check_size(size, self.left())
        self._position += size
        return start


class _Ascii:
    def __init__(self, data: bytes):
        self._data = data
        self._position = 0

    def integer(self) -> int:
        value = int(next(self._tokens()))
        self._newline()
        return value

    def long(self) -> int:
        return self.integer()

    def double(self) -> float:
        value = float(next(self._tokens()))
        self._newline()
        return value

    def text(self, size: int) -> bytes:
        start = self._position
        _check_size(size, len(self._data) - start)
        self._position += size
        if size:
            self._newline()
        return self._data[start : start + size]

    def numbers(self, size: int, dtype: np.dtype) -> np.ndarray:
        if dtype.itemsize == 1:  # Written as they are.
            return np.frombuffer(self.text(size), dtype)
        # Each takes a digit and a space, so that this many fit; only then memory is set aside for them.
        _check_size(size, (len(self._data) - self._position + 1) // 2)
        convert: Callable[[bytes], Any] = int if dtype.kind == "i" else float
        tokens = self._tokens()
        with np.errstate(over="ignore"):
            numbers = np.fromiter((convert(next(tokens)) for _ in range(size)), dtype, size)
        if size:
            self._newline()
        return numbers

    def _tokens(self) -> Iterator[bytes]:
        while token := _TOKEN.match(self._data, self._position):
            self._position = token.end()
            yield token[1]
        raise ValueError("it ends too early")

    def _newline(self) -> None:
        if self._data[self._position : self._position + 1] == b"\n":
            self._position += 1


def _check_size(size: int, left: int) -> None:
    if size < 0:
        raise ValueError(f"a negative size, {size}")
    if size > left:
        raise ValueError(f"it ends too early: {size:,} bytes or numbers are announced where {left:,} can follow")


class _Parser:
    def __init__(self, source: _Source):
        self._source = source
        self._seen: dict[int, Any] = {}
        self._depth = 0

    def value(self) -> Any:
        """The next value, with all that is in it."""
        tag = self._source.integer()
        if tag not in _READERS:
            raise ValueError(f"unknown tag {tag}")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("nested too deeply")
        value = _READERS[tag](self)
        self._depth -= 1
        return value

    def _nil(self) -> None:
        return None

    def _number(self) -> float:
        return self._source.double()

    def _boolean(self) -> bool:
        return self._source.integer() == 1

    def _string(self) -> str:
        return self._source.text(self._source.integer()).decode("utf-8", "backslashreplace")

    def _table(self) -> dict[Any, Any]:
        index = self._source.integer()
        if index in self._seen:
            return self._seen[index]
        size = self._source.integer()
        if size < 0:
            raise ValueError(f"a table of a negative size, {size}")
        table: dict[Any, Any] = {}
        self._seen[index] = table
        for _ in range(size):
            key, value = self.value(), self.value()
            if isinstance(key, float) and abs(key) <= _LARGEST_KEY and key.is_integer():
                key = int(key)
            # No weights are kept under other keys, and some of those do not hash.
            if isinstance(key, str | int) and not isinstance(key, bool):
                table[key] = value
        return table

    def _function(self) -> LuaFunction:
        self._source.text(self._source.integer())
        self.value()  # The variables that it closes over.
        return LuaFunction()

    def _shared_function(self) -> Any:
        index = self._source.integer()
        if index not in self._seen:
            self._seen[index] = LuaFunction()
            self._function()
        return self._seen[index]

    def _object(self) -> Any:
        index = self._source.integer()
        if index in self._seen:
            return self._seen[index]
        class_name = self._string()
        # Files from before there were versions have the class at once.
        if re.fullmatch(r"V -?\d+", class_name):
            class_name = self._string()
        tensor = _TENSOR.fullmatch(class_name)
        if tensor:
            cuda, kind, form = tensor.groups()
            if not (cuda or kind):
                raise ValueError(f"{class_name} has no type")
            dtype = np.dtype(_TYPES[kind or "Float"])
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
        return self._source.numbers(self._source.long(), dtype)

    def _tensor(self, dtype: np.dtype) -> np.ndarray:
        dimensions = self._source.integer()
        _check_size(dimensions, 8)
        longs = self._source.numbers(2 * dimensions, _LONG).tolist()
        offset = self._source.long() - 1
        storage = self.value()
        if storage is None or not dimensions:
            return np.zeros(0, dtype)
        if not isinstance(storage, np.ndarray) or storage.dtype != dtype:
            raise ValueError("a tensor with the storage of another type")
        return strided(storage, offset, longs[:dimensions], longs[dimensions:])


# By their tags.
_READERS: dict[int, Callable[[_Parser], Any]] = {
    0: _Parser._nil,
    1: _Parser._number,
    2: _Parser._string,
    3: _Parser._table,
    4: _Parser._object,
    5: _Parser._boolean,
    6: _Parser._function,
    7: _Parser._shared_function,
    8: _Parser._shared_function,
}

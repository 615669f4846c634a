"""Reads the files of PyTorch's `torch.save` without PyTorch and without executing their pickles.

Since PyTorch 1.6 a file is an uncompressed zip archive with one pickle and one member per storage. Older files are
five pickles in a row, followed by the storages.

Reference: PyTorch's docs/source/notes/serialization.rst and torch/serialization.py.
"""

import dataclasses
import io
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NoReturn

import numpy as np

from glcic_jax.errors import WeightsError, one_line, printable
from glcic_jax.weights.foreign.tensors import strided

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_REMEDY = "save its weights with torch.save(model.state_dict(), ...) and import that file"
_LOCAL_HEADER = struct.Struct("<4s22xHH")

# Each pickle operation takes at least one read and makes at most one small object. A checkpoint of a network of
# this size takes some ten thousand operations.
_MAX_READS = 2_000_000
_MAX_ARGUMENTS = 100
# Many larger integers may share one hash, and then a dict takes quadratic time.
_MAX_KEY = 1 << 60

_PLAIN_OPERATIONS = b"".join(
    getattr(pickle, operation)
    for operation in """
    PROTO STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT
    BINFLOAT BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES
    BINBYTES8 EMPTY_LIST LIST EMPTY_DICT EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 PUT BINPUT LONG_BINPUT MEMOIZE
    GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID
    """.split()  # noqa: SIM905 - as a list it takes 45 lines.
)

# (NumPy type, key, number of elements, view metadata or None) -> array [N], or `Unread`.
_StorageReader = Callable[[str, str, int, Any], Any]


@dataclasses.dataclass(frozen=True)
class Unread:
    """An inert stand-in for a class, function or object that is neither a tensor nor a plain value.

    Attributes:
      name: The qualified name of its class or function.
    """

    name: str

    def __call__(self, *_: Any) -> "Unread":
        return self


def looks_like_torch(data: bytes) -> bool:
    """Returns whether a file begins like a zip archive, a pickle or a tar archive."""
    return data[:2] == b"PK" or (data[:1] == b"\x80" and data[1:2] <= b"\x05") or _is_tar(data)


def parse_torch(data: bytes, name: str) -> Any:
    """Parses a file of `torch.save`, of either format.

    Args:
      data: The content of the file.
      name: The name of the file in errors.

    Returns:
      The saved value: dicts (keys str or int, others are dropped), lists, tuples and plain values; tensors as
      read-only NumPy arrays of their own dtype, bfloat16 as float32; `Unread` for anything else.

    Raises:
      WeightsError: The file is damaged, truncated, compressed, TorchScript, or names code outside the allow-list,
        as a whole pickled module does.
    """
    if _is_tar(data):
        raise WeightsError(f"{name}: a tar archive, PyTorch's format before 0.1.10: load it there and {_REMEDY}")
    try:
        if data[:2] == b"PK":
            return _Archive(data).load()
        return _parse_legacy(data)
    except (
        ValueError,
        OverflowError,
        MemoryError,
        struct.error,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        reason = printable(one_line(error))
        raise WeightsError(f"{name}: cannot be read as a PyTorch file ({reason}): {_REMEDY}") from error


def _is_tar(data: bytes) -> bool:
    return data[257:262] == b"ustar"


class _CountedReader(io.BytesIO):
    """Bounds the number of operations of the pickles in a file, and so their time and memory."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise ValueError("a pickle too long for weights")
        return super().read(size)


class _Archive:
    """The zip archive of PyTorch 1.6 and later: one folder, nothing compressed."""

    def __init__(self, data: bytes):
        self._data = data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
        if sum(member.file_size for member in members) > len(data):
            raise ValueError("compressed or overlapping members, which PyTorch never writes")
        # PyTorch writes 0 for every checksum after `torch.serialization.set_crc32_options(False)`.
        self._has_checksums = any(member.CRC for member in members)
        folders = [member.filename[:-9] for member in members if member.filename.endswith("/data.pkl")]
        if not folders:
            raise ValueError("a zip archive without a data.pkl")
        prefix = f"{min(folders, key=len)}/"
        self._members = {
            member.filename.removeprefix(prefix): member
            for member in members
            if member.filename.startswith(prefix)
        }
        if "constants.pkl" in self._members or any(part.startswith("code/") for part in self._members):
            raise ValueError("a TorchScript archive, which holds a program as well as weights")
        self._order = ">" if "byteorder" in self._members and self._read("byteorder") == b"big" else "<"
        self._storages: dict[str, tuple[str, np.ndarray]] = {}

    def load(self) -> Any:
        return _unpickle(_CountedReader(self._read("data.pkl")), self._storage)

    def _storage(self, kind: str, key: str, count: int, _: Any) -> np.ndarray:
        if key not in self._storages:
            self._storages[key] = kind, _to_array(self._read(f"data/{key}"), kind, self._order)
        stored_kind, array = self._storages[key]
        if stored_kind != kind:
            raise ValueError(f"the storage {key[:40]} has two dtypes")
        return _check_count(array, key, count)

    def _read(self, part: str) -> memoryview:
        if part not in self._members:
            raise ValueError(f"its part {part[:80]} is missing")
        member = self._members[part]
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError(f"its part {part[:80]} is compressed or encrypted, which PyTorch never writes")
        start = member.header_offset
        if not 0 <= start <= len(self._data) - _LOCAL_HEADER.size:
            raise ValueError(f"its part {part[:80]} lies outside the file")
        signature, name_size, extra_size = _LOCAL_HEADER.unpack_from(self._data, start)
        start += _LOCAL_HEADER.size + name_size + extra_size
        content = memoryview(self._data)[start : start + member.file_size]
        complete = signature == b"PK\x03\x04" and len(content) == member.file_size
        if not complete or (self._has_checksums and zlib.crc32(content) != member.CRC):
            raise ValueError(f"its part {part[:80]} is damaged")
        return content


def _parse_legacy(data: bytes) -> Any:
    file = _CountedReader(data)
    if _unpickle(file, _refuse_storage) != _MAGIC:
        raise ValueError("a pickle that torch.save did not write")
    if _unpickle(file, _refuse_storage) != _PROTOCOL:
        raise ValueError("an unknown version of PyTorch's format")
    system = _unpickle(file, _refuse_storage)
    order = ">" if isinstance(system, dict) and system.get("little_endian") is False else "<"
    start = file.tell()
    kinds: dict[str, str] = {}

    def note_kind(kind: str, key: str, _count: int, _view: Any) -> Unread:
        if kinds.setdefault(key, kind) != kind:
            raise ValueError(f"the storage {key[:40]} has two dtypes")
        return Unread(kind)

    # The storages follow the pickle that states their dtypes, so that pickle is read twice.
    _unpickle(file, note_kind)
    storages = _legacy_storages(data, file, kinds, order)

    def storage(_kind: str, key: str, count: int, view: Any) -> np.ndarray:
        if key not in storages:
            raise ValueError(f"the storage {key[:40]} is missing")
        if view is None:
            return _check_count(storages[key], key, count)
        # The first versions of PyTorch shared storages through views of them.
        _, offset, size = view
        integers = isinstance(offset, int) and isinstance(size, int)
        if not (integers and 0 <= offset <= offset + size <= len(storages[key])):
            raise ValueError("a view outside its storage")
        return storages[key][offset : offset + size]

    file.seek(start)
    return _unpickle(file, storage)


def _legacy_storages(
    data: bytes, file: _CountedReader, kinds: dict[str, str], order: str
) -> dict[str, np.ndarray]:
    keys = _unpickle(file, _refuse_storage)
    if not isinstance(keys, list):
        raise ValueError("the list of its storages is not a list")  # noqa: TRY004 - the file's fault.
    content, position = memoryview(data), file.tell()
    storages: dict[str, np.ndarray] = {}
    for key in keys:
        if not isinstance(key, str) or key not in kinds:
            raise ValueError("a storage that no tensor refers to")
        (count,) = struct.unpack_from(f"{order}q", content, position)
        position += 8
        size = count * _item_size(kinds[key])
        if not 0 <= size <= len(data) - position:
            raise ValueError("it ends too early")
        storages[key] = _to_array(content[position : position + size], kinds[key], order)
        position += size
    return storages


def _refuse_storage(*_: Any) -> NoReturn:
    raise ValueError("a tensor in a header")


def _check_count(array: np.ndarray, key: str, count: int) -> np.ndarray:
    if count > len(array):
        raise ValueError(f"the storage {key[:40]} holds {len(array):,} numbers, not {count:,}")
    return array


def _to_array(raw: memoryview, kind: str, order: str) -> np.ndarray:
    if len(raw) % _item_size(kind):
        raise ValueError(f"a storage of {len(raw)} bytes, not a whole number of {kind}")
    if kind == "bfloat16":  # Unknown to NumPy: the upper half of a float32.
        return (np.frombuffer(raw, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    if kind == "bool":
        return np.frombuffer(raw, "u1") != 0
    return np.frombuffer(raw, f"{order}{kind}")


def _item_size(kind: str) -> int:
    return 2 if kind == "bfloat16" else np.dtype(kind).itemsize


def _unpickle(file: _CountedReader, storage: _StorageReader) -> Any:
    """Reads one pickle and leaves the file at its end.

    Raises:
      ValueError: The pickle is damaged or names code outside the allow-list.
    """
    try:
        return _Unpickler(file, storage).load()
    except ValueError:
        raise
    except Exception as error:  # A damaged pickle raises nearly every type.
        raise ValueError("a damaged pickle, or one with operations that weights do not need") from error


def _as_dict(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    # Strings and small integers only: hashing nested tuples overflows the C stack.
    return {
        key: value
        for key, value in pairs
        if isinstance(key, str) or (isinstance(key, int) and -_MAX_KEY < key < _MAX_KEY)
    }


def _new_dict(pairs: Any = None, *_: Any) -> dict[Any, Any]:
    if not isinstance(pairs, list):  # Such as the factory of a defaultdict.
        return {}
    found = _as_dict(pairs)
    pairs.clear()  # Copying one list again and again would take quadratic time.
    return found


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
    return storage if isinstance(storage, Unread) else strided(storage, offset, shape, strides)


def _rebuild_from_type(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    if function is _rebuild_tensor or function is _first:
        return function(*arguments[:5])
    return Unread(_FROM_TYPE)  # Calls within calls would exhaust the stack.


def _first(value: Any, *_: Any) -> Any:
    return value


def _getattr(owner: Any, *_: Any) -> Unread:
    # mmengine's training logs refer to their own methods this way.
    if owner != Unread(_HISTORY):
        raise _refused("builtins.getattr")
    return owner


def _refused(name: str) -> ValueError:
    return ValueError(f"it asks for {name[:120]}, which weights do not need; none of its code was run")


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, restricted to an allow-list of operations and names.

    The unpickler in C would allocate a memo as large as a pickle demands, and would let neither the keys of dicts
    nor `__setstate__` be intercepted.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(self, file: io.BytesIO, storage: _StorageReader):
        super().__init__(file, encoding="latin-1")
        self._storage = storage

    def find_class(self, module: str, name: str, /) -> Any:
        full_name = f"{module}.{name}"
        if full_name in _FUNCTIONS:
            return _FUNCTIONS[full_name]
        if name in _INERT.get(module, "").split() or _STORAGE.fullmatch(full_name) or _DTYPE.fullmatch(full_name):
            return Unread(full_name)
        raise _refused(full_name)

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or not 5 <= len(pid) <= 6:
            raise ValueError("a reference to external data that is not a storage")
        tag, storage_type, key, _, count, *view = pid
        match = isinstance(storage_type, Unread) and _STORAGE.fullmatch(storage_type.name)
        if tag != "storage" or not match:
            raise ValueError("a reference to external data that is not a storage")
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise ValueError("a storage without a key or a size")
        return self._storage(_STORAGE_TYPES[match[1]], key, count, view[0] if view else None)

    def _call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple) or len(arguments) > _MAX_ARGUMENTS:
            raise TypeError
        self.stack.append(function(*arguments))

    def _set_items(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(_as_dict(zip(items[::2], items[1::2], strict=True)))
        elif not isinstance(self.stack[-1], Unread):
            raise TypeError

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)
        elif not isinstance(self.stack[-1], Unread):
            raise TypeError

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _dict_from_mark(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._set_items(items)

    dispatch: ClassVar[Any] = {code: pickle._Unpickler.dispatch[code] for code in _PLAIN_OPERATIONS} | {
        pickle.FRAME[0]: lambda self: self.read(8),
        pickle.REDUCE[0]: _call,
        pickle.NEWOBJ[0]: _call,
        pickle.BUILD[0]: lambda self: self.stack.pop(),  # Drops the state of an object, which no tensor has.
        pickle.APPEND[0]: lambda self: self._extend([self.stack.pop()]),
        pickle.APPENDS[0]: lambda self: self._extend(self.pop_mark()),
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: lambda self: self._set_items(self.pop_mark()),
        pickle.DICT[0]: _dict_from_mark,
        # Sets become lists: they would hash their elements.
        pickle.EMPTY_SET[0]: lambda self: self.stack.append([]),
        pickle.ADDITEMS[0]: lambda self: self._extend(self.pop_mark()),
        pickle.FROZENSET[0]: pickle._Unpickler.dispatch[pickle.LIST[0]],
    }


_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"

# The functions that a pickle may call, by their names in it.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    _FROM_TYPE: _rebuild_from_type,
    "torch.Size": _first,
    "collections.OrderedDict": _new_dict,
    "collections.defaultdict": _new_dict,
    "collections.Counter": _new_dict,
    "builtins.dict": _new_dict,
    "__builtin__.dict": _new_dict,
    "addict.addict.Dict": _new_dict,
    "mmengine.config.config.ConfigDict": _new_dict,
    "builtins.getattr": _getattr,
    "__builtin__.getattr": _getattr,
}

# NumPy's types of PyTorch's storages.
_STORAGE_TYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
    "UntypedStorage": "u1",
}
_STORAGE = re.compile(rf"torch\.(?:cuda\.|storage\.)?({'|'.join(_STORAGE_TYPES)})")
# As torch.float32 and torch.float8_e4m3fn.
_DTYPE = re.compile(r"torch\.(?:float|bfloat|u?int|complex)\d+(?:_\w+)?|torch\.bool")

# Names in checkpoints that become `Unread`, by module: of optimizer states, arguments, logs, random generators.
_BUILTINS = (
    "bool bytearray bytes complex float frozenset int list object range set slice str tuple "
    "abs len max min round sum"  # In a functools.partial.
)
_INERT = {
    "builtins": _BUILTINS,
    "__builtin__": _BUILTINS,
    "torch": "Tensor device",
    "torch.nn.parameter": "Parameter",
    "torch.serialization": "_get_layout",
    # Tensors that are not weights: float8, uint16, without numbers, sparse, nested.
    "torch._utils": "_rebuild_tensor_v3 _rebuild_meta_tensor_no_storage _rebuild_sparse_tensor "
    "_rebuild_nested_tensor",
    "mmengine.logging.history_buffer": "HistoryBuffer",
    "_codecs": "encode",
    "copyreg": "_reconstructor",
    "copy_reg": "_reconstructor",
    "collections": "deque",
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "functools": "partial",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID SafeUUID",
    "datetime": "datetime date time timedelta timezone",
    "pathlib": "Path PosixPath WindowsPath PurePosixPath PureWindowsPath",
    "numpy": "ndarray dtype",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy._core.multiarray": "scalar _reconstruct",
    "numpy.dtypes": "Float64DType Float32DType Float16DType Int64DType Int32DType BoolDType",
    "numpy.random._pickle": "__generator_ctor __bit_generator_ctor __randomstate_ctor",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._philox": "Philox",
    "numpy.random._sfc64": "SFC64",
    "numpy.random._pcg64": "PCG64 PCG64DXSM",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
}

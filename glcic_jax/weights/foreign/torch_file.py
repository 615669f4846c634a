"""Reads files that PyTorch's `torch.save` wrote, without PyTorch and without running what is in them.

Since PyTorch 1.6 a file is a zip archive: one pickle, and the numbers of each storage as a member that is not
compressed. Before, it was five pickles one after the other, then the storages.

Reference: PyTorch's docs/source/notes/serialization.rst and torch/serialization.py.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from glcic_jax.errors import WeightsError, one_line, printable
from glcic_jax.weights.foreign.tensors import read_bytes
from glcic_jax.weights.foreign.torch_pickle import STORAGES, Unread, unpickle

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_REMEDY = "save what it holds with torch.save(model.state_dict(), ...) and import that"
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def read_torch(path: Path) -> Any:
    """Reads a file of PyTorch, of either format.

    Returns:
      What was saved: dicts, lists, tuples and plain values; tensors as NumPy arrays, read-only, of their own type
      but for bfloat16, which becomes float32; `Unread` for what is neither.

    Raises:
      WeightsError: It is not there, no such file, damaged, truncated, compressed, no state dict (a whole pickled
        module, TorchScript), or asks for code to be run.
    """
    return parse_torch(read_bytes(path), printable(str(path)))


def looks_like_torch(data: bytes) -> bool:
    """If a file begins as a zip archive, a pickle or a tar archive."""
    return data[:2] == b"PK" or (data[:1] == b"\x80" and data[1:2] <= b"\x05") or _is_tar(data)


def parse_torch(data: bytes, name: str) -> Any:
    """As `read_torch`, from the file's bytes.

    Args:
      data: The file's.
      name: What errors call it.

    Raises:
      WeightsError: As in `read_torch`.
    """
    if _is_tar(data):
        raise WeightsError(f"{name}: a tar archive, PyTorch's format before 0.1.10: load it there, and {_REMEDY}")
    try:
        if data[:2] == b"PK":
            return _Archive(data).load()
        return _parse_legacy(data)
    # What zipfile and struct raise on damaged files.
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


def _to_array(raw: bytes | memoryview, kind: str, order: str) -> np.ndarray:
    """The numbers of a storage, of a type in `STORAGES`' values."""
    size = _item_size(kind)
    if len(raw) % size:
        raise ValueError(f"a storage of {len(raw)} bytes, which holds no whole number of {kind}")
    if kind == "bfloat16":
        halves = np.frombuffer(raw, f"{order}u2")
        return (halves.astype(np.uint32) << 16).view(np.float32)
    if kind == "bool":
        return np.frombuffer(raw, "u1") != 0
    return np.frombuffer(raw, f"{order}{kind}")


def _item_size(kind: str) -> int:
    return {"bfloat16": 2, "bool": 1}.get(kind) or np.dtype(kind).itemsize


def _storage_fields(said: tuple[Any, ...]) -> tuple[str, str, int]:
    """(type in `STORAGES`' values, key, numbers), from what a pickle says of a storage."""
    kind, key, _, count, *_ = said
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise ValueError("a storage without a key or a size")
    return STORAGES[kind], key, count


class _Archive:
    """A zip archive as PyTorch writes it: all in one folder, nothing compressed."""

    def __init__(self, data: bytes):
        self._data = data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
        if sum(member.file_size for member in members) > len(data):
            raise ValueError("compressed, or parts that overlap; PyTorch writes neither")
        # Under `torch.serialization.set_crc32_options(False)` PyTorch writes 0 for all checksums.
        self._checked = any(member.CRC for member in members)
        folders = [member.filename[:-9] for member in members if member.filename.endswith("/data.pkl")]
        if not folders:
            raise ValueError("a zip archive without a data.pkl")
        folder = min(folders, key=len)
        self._members = {
            member.filename[len(folder) + 1 :]: member
            for member in members
            if member.filename.startswith(f"{folder}/")
        }
        if "constants.pkl" in self._members or any(part.startswith("code/") for part in self._members):
            raise ValueError("a TorchScript archive, which holds a program and not weights alone")
        self._order = ">" if "byteorder" in self._members and self._part("byteorder") == b"big" else "<"
        self._storages: dict[str, tuple[str, np.ndarray]] = {}

    def load(self) -> Any:
        return unpickle(io.BytesIO(self._part("data.pkl")), self._storage)

    def _storage(self, said: tuple[Any, ...]) -> np.ndarray:
        kind, key, count = _storage_fields(said)
        if key not in self._storages:
            self._storages[key] = kind, _to_array(self._part(f"data/{key}"), kind, self._order)
        found, array = self._storages[key]
        if found != kind:
            raise ValueError(f"the storage {key[:40]} is of two types")
        if count > len(array):
            raise ValueError(f"the storage {key[:40]} holds {len(array):,} numbers, not {count:,}")
        return array

    def _part(self, part: str) -> memoryview:
        if part not in self._members:
            raise ValueError(f"its part {part[:80]} is missing")
        member = self._members[part]
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise ValueError(f"its part {part[:80]} is compressed or encrypted, which PyTorch never writes")
        start = member.header_offset
        if not 0 <= start <= len(self._data) - _LOCAL_HEADER.size:
            raise ValueError(f"its part {part[:80]} lies outside it")
        mark, name_size, extra_size = _LOCAL_HEADER.unpack_from(self._data, start)
        start += _LOCAL_HEADER.size + name_size + extra_size
        content = memoryview(self._data)[start : start + member.file_size]
        whole = mark == b"PK\x03\x04" and len(content) == member.file_size
        if not whole or (self._checked and zlib.crc32(content) != member.CRC):
            raise ValueError(f"its part {part[:80]} is damaged")
        return content


def _parse_legacy(data: bytes) -> Any:
    file = io.BytesIO(data)
    if unpickle(file, _no_storage) != _MAGIC:
        raise ValueError("a pickle that torch.save did not write")
    if unpickle(file, _no_storage) != _PROTOCOL:
        raise ValueError("an unknown version of PyTorch's format")
    system = unpickle(file, _no_storage)
    order = ">" if isinstance(system, dict) and system.get("little_endian") is False else "<"
    start = file.tell()
    # The storages lie behind the pickle that says of which type they are, so it is read twice.
    kinds: dict[str, str] = {}

    def note(said: tuple[Any, ...]) -> Unread:
        kind, key, _ = _storage_fields(said)
        if kinds.setdefault(key, kind) != kind:
            raise ValueError(f"the storage {key[:40]} is of two types")
        return Unread(kind)

    unpickle(file, note)
    storages = _legacy_storages(data, file, kinds, order)
    file.seek(start)
    return unpickle(file, _legacy_storage(storages))


def _legacy_storages(data: bytes, file: io.BytesIO, kinds: dict[str, str], order: str) -> dict[str, np.ndarray]:
    keys = unpickle(file, _no_storage)
    if not isinstance(keys, list):
        raise ValueError("a list of storages that is none")  # noqa: TRY004 - the file's fault.
    view, position = memoryview(data), file.tell()
    storages: dict[str, np.ndarray] = {}
    for key in keys:
        if not isinstance(key, str) or key not in kinds:
            raise ValueError("a storage that nothing refers to")
        (count,) = struct.unpack_from(f"{order}q", view, position)
        position += 8
        size = count * _item_size(kinds[key])
        if not 0 <= size <= len(data) - position:
            raise ValueError("it ends too early")
        storages[key] = _to_array(view[position : position + size], kinds[key], order)
        position += size
    return storages


def _legacy_storage(storages: dict[str, np.ndarray]) -> Callable[[Any], np.ndarray]:
    def storage(said: tuple[Any, ...]) -> np.ndarray:
        _, key, count = _storage_fields(said)
        if key not in storages:
            raise ValueError(f"the storage {key[:40]} is missing")
        if len(said) < 5 or said[4] is None:
            if count > len(storages[key]):
                raise ValueError(f"the storage {key[:40]} holds {len(storages[key]):,} numbers, not {count:,}")
            return storages[key]
        # A part of another storage, as the first versions of PyTorch shared them.
        _, offset, size = said[4]
        whole = isinstance(offset, int) and isinstance(size, int)
        if not (whole and 0 <= offset <= offset + size <= len(storages[key])):
            raise ValueError("a part of a storage that is none")
        return storages[key][offset : offset + size]

    return storage


def _no_storage(said: Any) -> Any:
    raise ValueError("a tensor where none belongs")

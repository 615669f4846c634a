"""The archives that a data set is published in: found, verified, and read at random without being unpacked."""

import base64
import hashlib
import io
import json
import os
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from glcic_jax.errors import DataError, one_line
from glcic_jax.progress import Log as Tell
from glcic_jax.progress import Progress
from glcic_jax.progress import format_bytes as in_words

_BLOCK = 1 << 22


class Archive(NamedTuple):
    """A published file: its usual name, where it is, its size in bytes and its SHA-256 in hexadecimal."""

    name: str
    url: str
    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} ({in_words(self.size)}, {self.url})"


class Members(NamedTuple):
    """The regular files in an archive, in its order; `read(row)` gives the bytes of `names[row]` until `close()`.

    `offsets` say where each begins: reading in their order moves a disk's head one way.
    """

    names: list[str]
    sizes: Sequence[int]
    offsets: Sequence[int]
    read: Callable[[int], bytes]
    close: Callable[[], None]


class _Contents(NamedTuple):
    """Names, sizes and offsets of the regular files in a tar, in few bytes: there may be millions."""

    names: list[str]
    sizes: "array[int]"
    offsets: "array[int]"

    def add(self, name: str, size: int, offset: int) -> None:
        self.names.append(name)
        self.sizes.append(size)
        self.offsets.append(offset)


def find_archive(archive: Archive, directories: Iterable[Path]) -> Path | None:
    """Finds a downloaded archive under its own name, or under the one that TFDS's download cache gave it.

    Returns:
      The first file of the right size; None where there is none.

    Raises:
      DataError: The only file found has another size.
    """
    try:
        candidates = [path for directory in directories for path in _candidates(archive, directory)]
    except OSError as error:
        raise DataError(f"{archive.name} cannot be looked for ({one_line(error)})") from error
    for path in candidates:
        if path.stat().st_size == archive.size:
            return path
    if candidates:
        raise DataError(
            f"{candidates[0]} has {candidates[0].stat().st_size} bytes, {archive.size} are expected: it is not "
            f"complete, or another file; delete it and download {archive.url} again"
        )
    return None


def _candidates(archive: Archive, directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    # TFDS puts the checksum into the name; for a file without a registered one that of its address, and then only
    # the note beside the file says where it came from.
    token = base64.urlsafe_b64encode(bytes.fromhex(archive.sha256)).decode().rstrip("=")
    names = os.listdir(directory)
    cached = [name for name in names if token in name and not name.endswith((".INFO", ".part"))]
    noted = [
        name.removesuffix(".INFO")
        for name in names
        if name.endswith(".INFO") and archive.url in (directory / name).read_text(errors="replace")
    ]
    found = [directory / name for name in dict.fromkeys([archive.name, *cached, *noted])]
    return [path for path in found if path.is_file()]


def verify(archive: Archive, path: Path, memory: Path, tell: Tell) -> None:
    """Compares a file's SHA-256 with the expected one.

    Args:
      archive: What the file has to be.
      path: The file.
      memory: A small JSON file that remembers what was verified, by path, size and time of change.
      tell: Takes lines for the person who waits.

    Raises:
      DataError: It is another file, or a damaged one.
    """
    try:
        status = path.stat()
        known = _read_memory(memory)
        entry = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        if entry not in known:
            known[entry] = _sha256(path, tell)
            memory.write_text(json.dumps(known))
    except OSError as error:
        raise DataError(f"{path}: cannot be verified ({one_line(error)})") from error
    if known[entry] != archive.sha256:
        raise DataError(
            f"{path} is damaged or another file: its SHA-256 is {known[entry]}, {archive.sha256} is expected; "
            f"delete it and download {archive.url} again"
        )


def _read_memory(memory: Path) -> dict[str, str]:
    """What was verified so far; nothing where an interruption left half a file."""
    try:
        return dict(json.loads(memory.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _sha256(path: Path, tell: Tell) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, Progress(f"verifying {path.name}", path.stat().st_size, tell) as progress:
        while block := file.read(_BLOCK):
            digest.update(block)
            progress.advance(len(block))
    return digest.hexdigest()


def open_members(path: Path) -> Members:
    """Lists an uncompressed tar or a zip.

    Raises:
      DataError: It is neither, or it is damaged or truncated.
    """
    try:
        return _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)
    except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: truncated, damaged, or not an uncompressed tar or zip ({one_line(error)})"
        ) from error


def _tar_members(path: Path) -> Members:
    file = path.open("rb", buffering=0)
    try:
        names, sizes, offsets = _plain_headers(file.fileno()) or _all_headers(path)
    except BaseException:
        file.close()
        raise

    def read(row: int) -> bytes:
        try:
            content = os.pread(file.fileno(), sizes[row], offsets[row])
        except OSError as error:
            raise DataError(f"{path}: {names[row]} cannot be read ({one_line(error)})") from error
        if len(content) != sizes[row]:
            raise DataError(f"{path}: {names[row]} is cut off: the archive has changed while it was read")
        return content

    return Members(names, sizes, offsets, read, file.close)


def _all_headers(path: Path) -> _Contents:
    """Reads any uncompressed tar."""
    found = _Contents([], array("q"), array("q"))
    with tarfile.open(path, "r:") as tar:
        while (member := tar.next()) is not None:
            if member.isreg():
                found.add(member.name, member.size, member.offset_data)
            # tarfile keeps every header: gigabytes for the 1.8 million of Places365.
            tar.members.clear()  # type: ignore[attr-defined]
    return found


def _plain_headers(file: int) -> _Contents | None:
    """The same, three times as fast and stricter about damage; None where a header is of an uncommon kind."""
    found = _Contents([], array("q"), array("q"))
    offset, end = 0, os.fstat(file).st_size
    while header := os.pread(file, tarfile.BLOCKSIZE, offset).rstrip(b"\0"):
        header = header.ljust(tarfile.BLOCKSIZE, b"\0")
        kind, size, checksum = header[156:157], header[124:136].strip(b"\0 "), header[148:156].strip(b"\0 ")
        if kind not in (b"0", b"5") or not size.isdigit() or not checksum.isdigit():
            return None
        if sum(header) - sum(header[148:156]) + 8 * ord(" ") != int(checksum, 8):
            raise tarfile.ReadError(f"a wrong header checksum at byte {offset}")
        offset += tarfile.BLOCKSIZE
        if kind == b"0":
            name = header[:100].partition(b"\0")[0]
            if header[257:263] == b"ustar\0" and header[345]:  # Not in GNU's form, where other fields lie there.
                name = header[345:500].partition(b"\0")[0] + b"/" + name
            found.add(os.fsdecode(name), int(size, 8), offset)
            offset += -(-int(size, 8) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if offset > end:
            raise tarfile.ReadError("it ends within a file")
    return found


def _zip_members(path: Path) -> Members:
    archive = zipfile.ZipFile(path)
    infos = [info for info in archive.infolist() if not info.is_dir()]

    def read(row: int) -> bytes:
        try:
            return archive.read(infos[row])
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"{path}: {infos[row].filename} is damaged ({one_line(error)})") from error

    return Members(
        [info.filename for info in infos],
        [info.file_size for info in infos],
        [info.header_offset for info in infos],
        read,
        archive.close,
    )


def read_lines(path: Path, name: str) -> Iterator[str]:
    """Yields the lines of one text file in a small tar, compressed or not, wherever in it the file lies.

    Raises:
      DataError: The tar cannot be read, or holds no such file.
    """
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isreg() and os.path.basename(member.name) == name:
                    yield from io.TextIOWrapper(tar.extractfile(member), "utf-8")  # type: ignore[type-var]
                    return
    except (OSError, EOFError, tarfile.TarError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a tar ({one_line(error)})") from error
    raise DataError(f"{path} holds no {name}")

"""Photographs in a folder of any nesting: which files they are, which are held out, and reading them."""

import contextlib
import csv
import hashlib
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from glcic_jax.errors import DataError, lookup, one_line, printable

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
# Of pictures to complete, some of which only some installations can read.
COMPLETION_SUFFIXES = SUFFIXES | {".heic", ".heif", ".hif", ".avif", ".jp2"}

# What the largest image that can be decoded takes without compression: 178 megapixels of 3 x 16 bits.
_LARGEST_FILE = 2**30
LARGE_FILE = 2**27  # Bytes.
# Such files are read one at a time, or each of a training's threads would be busy with one.
_large_files = threading.Lock()


class FileSource:
    """Image files on disk."""

    def __init__(self, paths: Sequence[Path]):
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        try:
            with open(self._paths[index], "rb", opener=_open_at_once) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise DataError(f"{self.name(index)}: cannot be read (a pipe or a device, not a file)")
                if status.st_size > _LARGEST_FILE:
                    size = f"{status.st_size / 2**30:.1f} GiB, at most {_LARGEST_FILE / 2**30:.0f} are read"
                    raise DataError(f"{self.name(index)}: cannot be read ({size})")
                with _large_files if status.st_size > LARGE_FILE else contextlib.nullcontext():
                    return file.read()
        except OSError as error:
            raise self._unreadable(index, error) from error

    def size(self, index: int) -> int:
        """Bytes of one file. Raises DataError where it is not there."""
        try:
            return self._paths[index].stat().st_size
        except OSError as error:
            raise self._unreadable(index, error) from error

    def _unreadable(self, index: int, error: OSError) -> DataError:
        return DataError(f"{self.name(index)}: cannot be read ({error.strerror or one_line(error)})")

    def name(self, index: int) -> str:
        return printable(str(self._paths[index]))


def _open_at_once(path: str, flags: int) -> int:
    # Or a named pipe that nobody writes to would be waited for, for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _place(relative_path: str) -> int:
    """A hash in [0, 2^64) of a file's path."""
    digest = hashlib.sha256(relative_path.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")


def held_out(relative_path: str, fraction: float) -> bool:
    """Says whether a file belongs to the validation part: by a hash of its path, the same for ever.

    Adding or removing other files moves no file from one part to the other.
    """
    return _place(relative_path) < fraction * 2**64


class Listing(NamedTuple):
    """What lies below a folder.

    Args:
      images: Files with an image's suffix, relative to the folder, sorted.
      others: Number of other files by suffix, in small letters.
      hidden: Number of files that were passed over because their names begin with a dot.
      unopened: Folders that could not be opened, each with the reason.
    """

    images: list[str]
    others: Counter[str]
    hidden: int
    unopened: list[str]


def list_folder(root: Path, suffixes: frozenset[str] = SUFFIXES) -> Listing:
    """Lists all image files below a folder; links are followed, hidden folders passed over.

    Args:
      root: The folder.
      suffixes: Of image files, in small letters.
    """
    listing = Listing([], Counter(), 0, [])
    hidden = 0
    visited: set[str] = set()

    def note(error: OSError) -> None:
        listing.unopened.append(f"{printable(str(error.filename))} ({error.strerror})")

    for folder, folders, files in os.walk(root, followlinks=True, onerror=note):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        # Sorted, so that of two ways to a linked folder every machine takes the same.
        folders[:] = [name for name in sorted(folders) if not name.startswith((".", "__MACOSX"))]
        relative = Path(folder).relative_to(root).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                hidden += 1
            elif suffix in suffixes:
                listing.images.append(prefix + name)
            else:
                listing.others[suffix] += 1
    listing.images.sort()
    return listing._replace(hidden=hidden)


def fingerprint(root: Path, paths: Sequence[str]) -> str:
    """A hash of some files' names, sizes and times of change: another one where any of them was replaced.

    Args:
      root: The folder.
      paths: Relative to it. Those that are not there count as such.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = (root / path).stat()
            seen = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            seen = "not there"
        digest.update(f"{path}\0{seen}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def split_folder(paths: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Splits the files of a folder into those for training and those for validation.

    Args:
      paths: At least two, relative to the folder.
      fraction: Share that is held out; at least one file is, and at least one is not.
    """
    validation = [path for path in paths if held_out(path, fraction)]
    # A small folder may have none, or nothing else: then that of the smallest hash, so that both parts hold
    # something. It stays held out until a file with a smaller hash comes.
    if not validation or len(validation) == len(paths):
        validation = [min(paths, key=_place)]
    excluded = set(validation)
    return [path for path in paths if path not in excluded], validation


def too_few_images(root: Path, listing: Listing) -> str:
    """Says that a folder holds fewer than two images, and what it holds instead."""
    others = ", ".join(f"{count} {suffix or 'without one'}" for suffix, count in listing.others.most_common(5))
    instead = f"; files of other suffixes: {printable(others)}" if others else ""
    unopened = f"; cannot be opened: {listing.unopened[0]}" if listing.unopened else ""
    return (
        f"{printable(str(root))}: {len(listing.images)} image files found ({', '.join(sorted(SUFFIXES))}); at "
        f"least 2 are needed, one to train on and one to validate on{instead}{unopened}"
    )


PARTS = ("train", "validation", "test")
_NAMED = 3  # Files in an error.


class Listed(NamedTuple):
    """One photograph of a listing.

    Attributes:
      file: Relative to the folder, with slashes.
      part: One of `PARTS`.
      sha256: Of the file, 64 hexadecimal digits; empty where the listing does not say.
    """

    file: str
    part: str
    sha256: str = ""


def read_listing(path: Path) -> list[Listed]:
    """Reads a listing.

    Args:
      path: A CSV file in UTF-8.

    Returns:
      Its photographs, in its order.

    Raises:
      ConfigError: It names a part that is none.
      DataError: It cannot be read, lacks a column, or names a file outside the folder, or one twice.
    """
    name = printable(str(path))
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [column for column in ("file", "part") if column not in (rows.fieldnames or ())]
            if missing:
                needs = "a listing needs the columns file and part, separated by commas"
                raise DataError(f"{name}: {needs}; {missing[0]} is missing")
            listed = [_listed(row, f"{name}, line {rows.line_num}") for row in rows]
    except FileNotFoundError:
        raise DataError(f"{name}: no such listing") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name}: cannot be read as a listing ({one_line(error)})") from error
    seen: set[str] = set()
    for photograph in listed:
        if photograph.file in seen:
            raise DataError(f"{name}: names {printable(photograph.file)} twice")
        seen.add(photograph.file)
    return listed


def _listed(row: dict[str, str | None], where: str) -> Listed:
    file, part, digest = ((row.get(column) or "").strip() for column in Listed._fields)
    inside = PurePosixPath(file)
    if not file or inside.is_absolute() or ".." in inside.parts:
        raise DataError(f"{where}: {printable(file)!r} is no file below the folder")
    lookup(dict.fromkeys(PARTS), part, f"part ({where})")
    if digest and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise DataError(f"{where}: {printable(digest)!r} is no sha256, which has 64 hexadecimal digits")
    return Listed(inside.as_posix(), part, digest.lower())


def files_of(root: Path, listing: Path, part: str) -> list[str]:
    """The files of one part, compared with the listing.

    Args:
      root: The folder.
      listing: The CSV file.
      part: One of `PARTS`.

    Returns:
      Paths relative to the folder, in the listing's order.

    Raises:
      ConfigError: There is no such part.
      DataError: As in `read_listing`; the listing has none of this part; or files are not there, or are others
        than those listed.
    """
    lookup(dict.fromkeys(PARTS), part, "part of a listing")
    listed = read_listing(listing)
    chosen = [photograph for photograph in listed if photograph.part == part]
    if not chosen:
        raise DataError(
            f"{printable(str(listing))}: lists no photographs of the part {part}; there are: {_there(listed)}"
        )
    problems = {
        "are not there": [photograph.file for photograph in chosen if not os.path.isfile(root / photograph.file)],
    }
    if not problems["are not there"]:
        problems["are other files (sha256)"] = _others(root, chosen)
    for problem, files in problems.items():
        if files:
            named = ", ".join(printable(file) for file in files[:_NAMED]) + (", ..." if files[_NAMED:] else "")
            raise DataError(
                f"{printable(str(root))}: {len(files)} of the {len(chosen)} photographs that "
                f"{printable(str(listing))} lists for the part {part} {problem}: {named}; give the folder that it "
                "was made for, or mend it"
            )
    return [photograph.file for photograph in chosen]


def _there(listed: Sequence[Listed]) -> str:
    return ", ".join(part for part in PARTS if any(one.part == part for one in listed)) or "none at all"


def _others(root: Path, listed: Sequence[Listed]) -> list[str]:
    return [photograph.file for photograph in listed if photograph.sha256 and _differs(root, photograph)]


def _differs(root: Path, photograph: Listed) -> bool:
    try:
        with (root / photograph.file).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != photograph.sha256
    except OSError as error:
        raise DataError(f"{printable(str(root / photograph.file))}: cannot be read ({one_line(error)})") from error

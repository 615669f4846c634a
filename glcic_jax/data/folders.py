"""Image files below a folder: listing them, splitting them, reading them, and CSV listings that select them."""

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
from glcic_jax.files import sha256_of
from glcic_jax.pictures import readable_suffixes

# Thumbnails, snapshots and bins of macOS, Windows and network storage.
_SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "$RECYCLE.BIN", "lost+found"}
)

LARGE_FILE = 2**27  # Bytes.
_MAX_FILE = 2**30  # Bytes: the largest decodable image, 178 megapixels of 3 x 16 bits, stored uncompressed.
# One large file at a time: one in each reader thread would fill the memory.
_large_files = threading.Lock()


class FileSource:
    """Image files on disk, as an `ImageSource`.

    Args:
      root: The folder.
      paths: Files relative to it.
    """

    def __init__(self, root: Path, paths: Sequence[str]):
        self.root = root
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> bytes:
        try:
            with open(self.root / self.paths[index], "rb", opener=_open_nonblocking) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise DataError(f"{self.name(index)}: cannot be read (not a regular file)")
                if status.st_size > _MAX_FILE:
                    size = f"{status.st_size / 2**30:.1f} GiB; the limit is {_MAX_FILE / 2**30:.0f} GiB"
                    raise DataError(f"{self.name(index)}: cannot be read ({size})")
                with _large_files if status.st_size > LARGE_FILE else contextlib.nullcontext():
                    return file.read()
        except OSError as error:
            raise self._unreadable(index, error) from error

    def name(self, index: int) -> str:
        return printable(str(self.root / self.paths[index]))

    def short_name(self, index: int) -> str:
        return self.paths[index]

    def size(self, index: int) -> int:
        """Returns the size of one file in bytes; raises DataError if it is missing."""
        try:
            return (self.root / self.paths[index]).stat().st_size
        except OSError as error:
            raise self._unreadable(index, error) from error

    def _unreadable(self, index: int, error: OSError) -> DataError:
        return DataError(f"{self.name(index)}: cannot be read ({error.strerror or one_line(error)})")


def _open_nonblocking(path: str, flags: int) -> int:
    # A blocking open of a named pipe without a writer never returns.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class FolderContents(NamedTuple):
    """The files below a folder.

    Attributes:
      images: Files with an image suffix, relative to the folder, sorted.
      others: Number of other files by lower-case suffix.
      hidden: Number of files ignored because their names begin with a dot.
      unopened: Folders that could not be opened, each with the reason.
    """

    images: list[str]
    others: Counter[str]
    hidden: int
    unopened: list[str]


def list_folder(root: Path) -> FolderContents:
    """Lists all image files below a folder by their suffixes; follows links, skips hidden and system folders."""
    suffixes = readable_suffixes()
    images: list[str] = []
    others: Counter[str] = Counter()
    unopened: list[str] = []
    hidden = 0
    visited: set[str] = set()

    def note_unopened(error: OSError) -> None:
        unopened.append(f"{printable(str(error.filename))} ({error.strerror})")

    for folder, folders, files in os.walk(root, followlinks=True, onerror=note_unopened):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        # Sorted, so that every machine reaches a linked folder by the same path.
        folders[:] = [name for name in sorted(folders) if name not in _SYSTEM_FOLDERS and name[0] != "."]
        relative = Path(folder).relative_to(root).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                hidden += 1
            elif suffix in suffixes:
                images.append(prefix + name)
            else:
                others[suffix] += 1
    return FolderContents(sorted(images), others, hidden, unopened)


def too_few_images(root: Path, contents: FolderContents) -> str:
    """Returns the error text for a folder with fewer than two images."""
    others = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in contents.others.most_common(5))
    instead = f"; files with other suffixes: {printable(others)}" if others else ""
    unopened = f"; cannot be opened: {contents.unopened[0]}" if contents.unopened else ""
    suffixes = ", ".join(sorted(readable_suffixes()))
    return (
        f"{printable(str(root))}: {len(contents.images)} image files found ({suffixes}); at least 2 are needed, "
        f"one to train on and one to validate on{instead}{unopened}"
    )


def name_hash(path: str) -> int:
    """Returns a hash of a relative path, or another name, in [0, 2^64)."""
    return int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8], "big")


def held_out(path: str, fraction: float) -> bool:
    """Returns whether a file is held out for validation.

    The hash of its relative path decides, so adding or removing other files does not move it. Changing the hash
    would leak the validation images of every earlier run into its training.
    """
    return name_hash(path) < fraction * 2**64


def split_folder(paths: Sequence[str], fraction: float) -> tuple[list[str], list[str]]:
    """Splits the files of a folder into training and validation files.

    Args:
      paths: At least two, relative to the folder.
      fraction: Fraction to hold out; both parts get at least one file.
    """
    validation = [path for path in paths if held_out(path, fraction)]
    # A small folder may have no such file, or nothing else. Then the file with the smallest hash is held out.
    if not validation or len(validation) == len(paths):
        validation = [min(paths, key=name_hash)]
    excluded = set(validation)
    return [path for path in paths if path not in excluded], validation


PARTS = ("train", "validation", "test")  # The values of a listing's column "part".


class ListedImage(NamedTuple):
    """One row of a listing.

    Attributes:
      file: Path relative to the folder, with slashes.
      part: One of `PARTS`.
      sha256: Of the file, 64 lower-case hexadecimal digits; empty if the listing gives none.
    """

    file: str
    part: str
    sha256: str = ""


def read_listing(path: Path) -> list[ListedImage]:
    """Reads a listing: a CSV file in UTF-8 with the columns file, part and optionally sha256.

    Raises:
      ConfigError: A part is unknown.
      DataError: The listing cannot be read, lacks a column, or names a file outside the folder or twice.
    """
    name = printable(str(path))
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [column for column in ("file", "part") if column not in (rows.fieldnames or ())]
            if missing:
                needs = "a listing needs the columns file and part, separated by commas"
                raise DataError(f"{name}: {needs}; {missing[0]} is missing")
            listed = [_parse_row(row, f"{name}, line {rows.line_num}") for row in rows]
    except FileNotFoundError:
        raise DataError(f"{name}: no such listing") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name}: cannot be read as a listing ({one_line(error)})") from error
    for image, count in Counter(image.file for image in listed).items():
        if count > 1:
            raise DataError(f"{name}: names {printable(image)} twice")
    return listed


def _parse_row(row: dict[str, str | None], where: str) -> ListedImage:
    file, part, digest = ((row.get(column) or "").strip() for column in ListedImage._fields)
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: {printable(file)!r} is not a file below the folder")
    lookup(dict.fromkeys(PARTS), part, f"part ({where})")
    if digest and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise DataError(f"{where}: {printable(digest)!r} is not a sha256, which has 64 hexadecimal digits")
    return ListedImage(path.as_posix(), part, digest.lower())


def listed_files(root: Path, listing: Path, part: str) -> list[str]:
    """Returns the files of one part of a listing, after verifying that they exist and match their hashes.

    Args:
      root: The folder.
      listing: The CSV file.
      part: One of `PARTS`.

    Returns:
      Paths relative to the folder, in the order of the listing.

    Raises:
      ConfigError: The part is unknown.
      DataError: As in `read_listing`; or the part is empty, or files are missing or differ from those listed.
    """
    lookup(dict.fromkeys(PARTS), part, "part of a listing")
    name = printable(str(listing))
    rows = read_listing(listing)
    images = [image for image in rows if image.part == part]
    if not images:
        present = ", ".join(part for part in PARTS if any(image.part == part for image in rows)) or "none"
        raise DataError(f"{name}: lists no images of the part {part}; its parts: {present}")
    wrong, problem = [image.file for image in images if not os.path.isfile(root / image.file)], "are missing"
    if not wrong:
        hashed = [image for image in images if image.sha256]
        wrong = [image.file for image in hashed if sha256_of(root / image.file) != image.sha256]
        problem = "differ (sha256)"
    if wrong:
        shown = ", ".join(printable(file) for file in wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise DataError(
            f"{printable(str(root))}: {len(wrong)} of the {len(images)} images that {name} lists for the part "
            f"{part} {problem}: {shown}; give the folder that the listing was made for, or correct the listing"
        )
    return [image.file for image in images]

"""Listings: CSV files that say which photographs of a folder are used, for what, and how their files hash.

One line a photograph, and a heading: `file` (relative to the folder), `part` ("train", "validation" or "test"),
and, if wanted, `sha256` of the file. Other columns, as of licences, are passed over. Where photographs show one
scene, or come from one source, a listing keeps them in one part, which a hash of their paths would not.
"""

import csv
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from glcic_jax.errors import DataError, lookup, one_line, printable

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

"""What a mask set is known by: the hash of its masks, and what a folder of stored masks says of itself."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from glcic_jax.errors import DataError, one_line, printable

RECORD = "mask_set.json"
_FORMAT = 1
REMEDY = "write the set anew with glcic masks, or take the file away to use the masks as they are"


class Digest:
    """The SHA-256 of the SHA-256s of masks, in their order.

    That of one mask is of its height and its width, 8 bytes each with the lowest first, then its bits row by row,
    8 in a byte with the highest first, 1 = hole; the last byte is filled with zeros.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @staticmethod
    def of(hole: np.ndarray) -> bytes:
        """The SHA-256 of one mask, 32 bytes: [H, W] bool, True = hole.

        Raises:
          ValueError: It is another kind of array.
        """
        if hole.dtype != bool or hole.ndim != 2:
            raise ValueError(f"a mask of a set is [H, W] bool, and not {list(hole.shape)} {hole.dtype}")
        sides = b"".join(side.to_bytes(8, "little") for side in hole.shape)
        return hashlib.sha256(sides + np.packbits(hole).tobytes()).digest()

    def add(self, hole: np.ndarray) -> None:
        """Takes the next mask in; as in `of`."""
        self.add_digest(self.of(hole))

    def add_digest(self, digest: bytes) -> None:
        """Takes in the next mask, of which only `of` is at hand."""
        self._hash.update(digest)

    def hexdigest(self) -> str:
        """The hash of all masks until now, in 64 hexadecimal digits."""
        return self._hash.hexdigest()


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of the first masks of a set.

    Attributes:
      name: Of the set, as `open_mask_set` takes it.
      size: (height, width) of each in pixels.
      count: How many.
      sha256: The `Digest` of all.
    """

    name: str
    size: tuple[int, int]
    count: int
    sha256: str

    def to_json(self) -> str:
        """The text of a folder's `mask_set.json`."""
        return json.dumps(dataclasses.asdict(self) | {"format": _FORMAT}, indent=2) + "\n"


def mask_file(index: int) -> str:
    """What the mask at a place of a set is called in a folder."""
    return f"{index:06}.png"


def read_record(folder: Path) -> Record | None:
    """Reads what a folder of masks says of itself; None where it says nothing.

    Raises:
      DataError: The file cannot be read, or is no record.
    """
    path = folder / RECORD
    name = printable(str(path))
    try:
        said = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{name}: cannot be read ({printable(one_line(error))})") from error
    if not isinstance(said, dict) or said.get("format") != _FORMAT:
        raise DataError(f"{name}: is no record of format {_FORMAT}: {REMEDY}")
    record = _checked(said)
    if record is None:
        raise DataError(f"{name}: lacks name, size, count or sha256 of the set: {REMEDY}")
    return record


def _checked(said: dict[str, Any]) -> Record | None:
    name, size, count, sha256 = (said.get(key) for key in ("name", "size", "count", "sha256"))
    if not (isinstance(name, str) and isinstance(sha256, str) and isinstance(size, list) and len(size) == 2):
        return None
    if not all(type(number) is int and number > 0 for number in (*size, count)):
        return None
    assert isinstance(count, int)
    return Record(name, (size[0], size[1]), count, sha256)

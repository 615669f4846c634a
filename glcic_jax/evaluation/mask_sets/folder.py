"""Mask sets that are folders of files: by the images' names, or in their order."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glcic_jax.completion.pairing import masks_by_picture, stem_of
from glcic_jax.data.folders import COMPLETION_SUFFIXES, fingerprint, list_folder
from glcic_jax.errors import DataError, one_line, printable
from glcic_jax.evaluation.cropping import centre_square
from glcic_jax.pictures.mask_files import hole_from_pixels, read_mask, same_aspect

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


Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class FolderMasks:
    """Masks that lie in a folder; white is the hole.

    Attributes:
      name: As `open_mask_set` takes it.
      folder: Where they lie.
      files: All of them, relative to the folder, sorted.
      by_image: The mask of each image, by the image's name; empty where masks are taken in their order.
      images: The images' names in the order of their places.
      record: What the folder says of itself, verified; None where it says nothing.
    """

    name: str
    folder: Path
    files: Sequence[str]
    by_image: Mapping[str, str]
    images: Sequence[str]
    record: Record | None = None

    @property
    def fingerprint(self) -> str:
        """See `MaskSet`; of the files' names, sizes and times of change."""
        return fingerprint(self.folder, self.files)

    @property
    def description(self) -> str:
        """See `MaskSet`."""
        said = "by the images' names" if self.by_image else "in their order"
        if self.record is not None:
            said = f"{self.record.name}, verified; {said}"
        return f"{printable(self.name)} ({said})"

    @property
    def valid_size(self) -> tuple[int, Size]:
        """See `MaskSet`: how many masks there are, and the size of the first."""
        if self.record is not None:
            return self.record.count, self.record.size
        height, width = read_mask(self.folder / self.files[0], None).hole.shape
        return len(self.files), (height, width)

    def hole(self, index: int, size: Size, original: Size | None = None, image: str = "") -> np.ndarray:
        """Reads a mask and brings it to the image's size.

        One of the image's original size is cut as `cropping.centre_square` cuts the image, one of `size` is
        taken as it is, any other is resized by its nearest pixels.

        Args:
          index, size, original, image: As in `MaskSet`.

        Returns:
          [H, W] bool, True = hole; of `size`.

        Raises:
          DataError: The mask cannot be read, or has another aspect ratio; or the image has none.
        """
        path = self.folder / self._file(index, image)
        hole = read_mask(path, None).hole
        if hole.shape == size:
            return hole
        if hole.shape == original and size[0] == size[1]:
            return centre_square(hole, size[0])
        if not same_aspect(hole.shape, size):
            raise DataError(
                f"{printable(str(path))}: the mask is {hole.shape[1]} x {hole.shape[0]} pixels, the image "
                f"{_described(size, original)}: make a mask of the image's shape"
            )
        return hole_from_pixels(hole, (size[1], size[0])).hole

    def _file(self, index: int, image: str) -> str:
        if not self.by_image:
            return self.files[index % len(self.files)]
        image = image or (self.images[index] if index < len(self.images) else f"number {index}")
        if image not in self.by_image:
            raise _missing(self.folder, [image])
        return self.by_image[image]


def open_folder(name: str, folder: Path, images: Sequence[str] = ()) -> FolderMasks:
    """Lists a folder of masks, and gives each image its mask.

    Where the name of any mask is that of an image (NAME, or NAME_maskNNN), masks are by name and each image needs
    one; otherwise they are taken in the order of their paths, over and over. Where the folder holds a
    `mask_set.json`, the masks are compared with it, and taken in their order: their names are numbers.

    Args:
      name: Of the set.
      folder: Where the masks lie, in folders within it too.
      images: The images' names: their paths, relative to their folder.

    Raises:
      DataError: There is no such folder, it holds no masks, or others than its record says; or an image has no
        mask, or several.
    """
    where = printable(str(folder))
    if not folder.is_dir():
        raise DataError(f"{where}: no such folder of masks")
    listing = list_folder(folder, COMPLETION_SUFFIXES)
    if listing.unopened:
        raise DataError(f"{where}: a folder in it cannot be opened: {listing.unopened[0]}")
    if not listing.images:
        raise DataError(f"{where}: holds no mask files ({', '.join(sorted(COMPLETION_SUFFIXES))})")
    record = read_record(folder)
    if record is not None:
        _verify(folder, listing.images, record)
        return FolderMasks(name, folder, listing.images, {}, images, record)
    return FolderMasks(name, folder, listing.images, _by_image(folder, listing.images, images), images)


def _by_image(folder: Path, files: Sequence[str], images: Sequence[str]) -> dict[str, str]:
    """The mask of each image, or none of any."""
    stems = {image: stem_of(image) if image else "" for image in images}
    masks_of, _ = masks_by_picture(set(stems.values()), files)
    if not masks_of:
        return {}
    without = [image for image, stem in stems.items() if stem not in masks_of]
    if without:
        raise _missing(folder, without)
    for image, stem in stems.items():
        if len(masks_of[stem]) > 1:
            found = printable(", ".join(masks_of[stem][:3]))
            raise DataError(
                f"{printable(str(folder))}: {printable(image)} has {len(masks_of[stem])} masks ({found}): leave "
                "one of them in the folder"
            )
    return {image: masks_of[stem][0] for image, stem in stems.items()}


def _missing(folder: Path, images: Sequence[str]) -> DataError:
    named = ", ".join(printable(image) for image in images[:3])
    more = f" and {len(images) - 3} more" if len(images) > 3 else ""
    return DataError(
        f"{printable(str(folder))}: its masks are called after the images, and there is none for {named}{more}: "
        "add NAME.png or NAME_mask.png"
    )


def _verify(folder: Path, files: Sequence[str], record: Record) -> None:
    """Raises DataError where the masks are not those that the folder's record says."""
    where = printable(str(folder))
    # One more than there are at most: a record may claim any number.
    expected = [mask_file(index) for index in range(min(record.count, len(files) + 1))]
    if list(files) != expected:
        odd = sorted(set(files) ^ set(expected))[0]
        state = "is there and not in it" if odd in files else "is missing"
        raise DataError(f"{where}: {RECORD} is of {record.count} masks, and {printable(odd)} {state}: {REMEDY}")
    digest = Digest()
    for file in files:
        digest.add(read_mask(folder / file, None).hole)
    if digest.hexdigest() != record.sha256:
        raise DataError(
            f"{where}: the masks have the sha256 {digest.hexdigest()[:12]}..., and {RECORD} says "
            f"{printable(record.sha256[:12])}...: {REMEDY}"
        )


def _described(size: Size, original: Size | None) -> str:
    text = f"{size[1]} x {size[0]}"
    return text if original in (None, size) else f"{text} (before it was resized, {original[1]} x {original[0]})"

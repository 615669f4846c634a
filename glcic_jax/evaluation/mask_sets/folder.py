"""Mask sets in folders, matched by the images' names or taken in order, and the hash of a mask set."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from glcic_jax.completion import masks_by_image, stem_of
from glcic_jax.data import list_folder
from glcic_jax.errors import DataError, one_line, printable
from glcic_jax.evaluation.cropping import centre_square
from glcic_jax.evaluation.mask_sets.drawn import Size
from glcic_jax.pictures import hole_from_pixels, read_mask, readable_suffixes, same_aspect

RECORD_FILE = "mask_set.json"
_FORMAT = 1
_REMEDY = "write the set again with glcic masks, or remove the file to use the masks as they are"


class MaskDigest:
    """The SHA-256 of the SHA-256s of masks, in their order.

    The SHA-256 of one mask covers its height and width, 8 bytes each, little-endian, then its bits row by row,
    eight to a byte, most significant first, 1 = hole; zeros fill the last byte.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @staticmethod
    def of(hole: np.ndarray) -> bytes:
        """The SHA-256 of one mask [H, W] bool, True = hole: 32 bytes."""
        if hole.dtype != bool or hole.ndim != 2:
            raise ValueError(f"a mask of a set is [H, W] bool, not {list(hole.shape)} {hole.dtype}")
        sides = b"".join(side.to_bytes(8, "little") for side in hole.shape)
        return hashlib.sha256(sides + np.packbits(hole).tobytes()).digest()

    def add(self, hole: np.ndarray) -> None:
        """Adds the next mask."""
        self.add_digest(self.of(hole))

    def add_digest(self, digest: bytes) -> None:
        """Adds the next mask by its SHA-256."""
        self._hash.update(digest)

    def hexdigest(self) -> str:
        """The hash of all masks so far, in 64 hexadecimal digits."""
        return self._hash.hexdigest()


@dataclasses.dataclass(frozen=True)
class MaskSetRecord:
    """The content of a folder's `mask_set.json`.

    Attributes:
      name: Name of the set, as `open_mask_set` takes it.
      size: (height, width) of each mask in pixels.
      count: Number of masks.
      sha256: The `MaskDigest` of all.
    """

    name: str
    size: Size
    count: int
    sha256: str

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(dataclasses.asdict(self) | {"format": _FORMAT}, indent=2) + "\n"


def mask_file(index: int) -> str:
    """The file name of a mask in a written set."""
    return f"{index:06}.png"


def read_record(folder: Path) -> MaskSetRecord | None:
    """Reads a folder's `mask_set.json`; None if there is none.

    Raises:
      DataError: The file cannot be read or is invalid.
    """
    path = folder / RECORD_FILE
    name = printable(str(path))
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{name}: cannot be read ({printable(one_line(error))})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise DataError(f"{name}: is not a record of format {_FORMAT}: {_REMEDY}")
    set_name, size, count, sha256 = (content.get(key) for key in ("name", "size", "count", "sha256"))
    if not (
        isinstance(set_name, str)
        and isinstance(sha256, str)
        and isinstance(size, list)
        and len(size) == 2
        and all(type(number) is int and number > 0 for number in (*size, count))
    ):
        raise DataError(f"{name}: lacks name, size, count or sha256 of the set: {_REMEDY}")
    return MaskSetRecord(set_name, (size[0], size[1]), content["count"], sha256)


@dataclasses.dataclass(frozen=True)
class FolderMasks:
    """Masks in a folder; white is the hole.

    Attributes:
      name: As `open_mask_set` takes it.
      folder: The folder.
      files: All masks, relative to the folder, sorted.
      by_image: The mask of each image by the image's name; empty: masks are taken in their order.
      images: The images' names in order.
      record: The folder's verified record; None without one.
    """

    name: str
    folder: Path
    files: Sequence[str]
    by_image: Mapping[str, str]
    images: Sequence[str]
    record: MaskSetRecord | None = None

    @property
    def description(self) -> str:
        order = "by the images' names" if self.by_image else "in their order"
        if self.record is not None:
            order = f"{self.record.name}, verified; {order}"
        return f"{printable(self.name)} ({order})"

    @property
    def default_count_and_size(self) -> tuple[int, Size]:
        if self.record is not None:
            return self.record.count, self.record.size
        height, width = read_mask(self.folder / self.files[0], None).hole.shape
        return len(self.files), (height, width)

    def hole(self, index: int, size: Size, original: Size | None = None, image: str = "") -> np.ndarray:
        """Reads a mask and brings it to the image's size; see `MaskSet.hole`.

        A mask of the image's original size is cropped like the image (`cropping.centre_square`), one of `size` is
        unchanged, any other is resized by its nearest pixels.

        Raises:
          DataError: The mask cannot be read or has another aspect ratio, or the image has none.
        """
        path = self.folder / self._file(index, image)
        hole = read_mask(path, None).hole
        if hole.shape == size:
            return hole
        if hole.shape == original and size[0] == size[1]:
            return centre_square(hole, size[0])
        if not same_aspect(hole.shape, size):
            described = f"{size[1]} x {size[0]}"
            if original not in (None, size):
                described += f" (before it was resized, {original[1]} x {original[0]})"
            raise DataError(
                f"{printable(str(path))}: the mask is {hole.shape[1]} x {hole.shape[0]} pixels, the image "
                f"{described}: make a mask of the image's shape"
            )
        return hole_from_pixels(hole, (size[1], size[0])).hole

    def _file(self, index: int, image: str) -> str:
        if not self.by_image:
            return self.files[index % len(self.files)]
        image = image or (self.images[index] if index < len(self.images) else f"number {index}")
        if image not in self.by_image:
            raise _no_mask_for(self.folder, [image])
        return self.by_image[image]


def open_folder(name: str, folder: Path, images: Sequence[str] = ()) -> FolderMasks:
    """Lists a folder of masks and assigns them to images.

    If any mask is named after an image (NAME or NAME_maskNNN), every image needs a mask of its name; otherwise
    masks are taken in the order of their paths, repeatedly. A folder with a `mask_set.json` is verified and taken
    in order, because its files are numbered.

    Args:
      name: Name of the set.
      folder: The masks, also in its subfolders.
      images: The images' paths relative to their folder.

    Raises:
      DataError: The folder does not exist, holds no masks or differs from its record, or an image has no mask or
        several.
    """
    where = printable(str(folder))
    if not folder.is_dir():
        raise DataError(f"{where}: no such folder of masks")
    listing = list_folder(folder)
    if listing.unopened:
        raise DataError(f"{where}: a folder in it cannot be opened: {listing.unopened[0]}")
    if not listing.images:
        raise DataError(f"{where}: holds no mask files ({', '.join(sorted(readable_suffixes()))})")
    record = read_record(folder)
    if record is not None:
        _verify(folder, listing.images, record)
        return FolderMasks(name, folder, listing.images, {}, images, record)
    return FolderMasks(name, folder, listing.images, _match(folder, listing.images, images), images)


def _match(folder: Path, files: Sequence[str], images: Sequence[str]) -> dict[str, str]:
    """The mask of each image; empty if no mask has the name of an image."""
    stems = {image: stem_of(image) if image else "" for image in images}
    masks_of, _ = masks_by_image(set(stems.values()), files)
    if not masks_of:
        return {}
    without = [image for image, stem in stems.items() if stem not in masks_of]
    if without:
        raise _no_mask_for(folder, without)
    for image, stem in stems.items():
        if len(masks_of[stem]) > 1:
            found = printable(", ".join(masks_of[stem][:3]))
            raise DataError(
                f"{printable(str(folder))}: {printable(image)} has {len(masks_of[stem])} masks ({found}): leave "
                "one of them in the folder"
            )
    return {image: masks_of[stem][0] for image, stem in stems.items()}


def _no_mask_for(folder: Path, images: Sequence[str]) -> DataError:
    named = ", ".join(printable(image) for image in images[:3])
    more = f" and {len(images) - 3} more" if len(images) > 3 else ""
    return DataError(
        f"{printable(str(folder))}: its masks have the names of the images, and there is none for {named}{more}: "
        "add NAME.png or NAME_mask.png"
    )


def _verify(folder: Path, files: Sequence[str], record: MaskSetRecord) -> None:
    """Raises DataError if the masks differ from the folder's record."""
    where = printable(str(folder))
    # At most one more than there are: a record may claim any number.
    expected = [mask_file(index) for index in range(min(record.count, len(files) + 1))]
    if list(files) != expected:
        odd = sorted(set(files) ^ set(expected))[0]
        state = "is not in it" if odd in files else "is missing"
        raise DataError(
            f"{where}: {RECORD_FILE} lists {record.count} masks, and {printable(odd)} {state}: {_REMEDY}"
        )
    digest = MaskDigest()
    for file in files:
        digest.add(read_mask(folder / file, None).hole)
    if digest.hexdigest() != record.sha256:
        raise DataError(
            f"{where}: the masks have the sha256 {digest.hexdigest()[:12]}..., {RECORD_FILE} says "
            f"{printable(record.sha256[:12])}...: {_REMEDY}"
        )

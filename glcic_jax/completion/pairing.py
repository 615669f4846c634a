"""Pairs the images of a folder with their masks, and names the results."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from glcic_jax.data import list_folder
from glcic_jax.errors import DataError, printable
from glcic_jax.pictures import readable_suffixes

# NAME_mask, NAME_mask2, NAME_mask002: several masks of one image.
_MASK_NAME = re.compile(r"(.+)_mask\d*", re.IGNORECASE | re.DOTALL)


class Pair(NamedTuple):
    """One image to complete.

    Attributes:
      image: Image file.
      mask: Mask file; None if masks do not come from files.
      stem: Path of the result without suffix, relative to the folder of results.
    """

    image: Path
    mask: Path | None
    stem: str


class Failure(NamedTuple):
    """A file that cannot be completed or has no counterpart; both fields are one line."""

    file: str
    reason: str


class Pairing(NamedTuple):
    """Pairs in the order of their unique stems, and the files that could not be paired."""

    pairs: list[Pair]
    failures: list[Failure]


def pair_files(images: Path, masks: Path | None, results: Path | None = None) -> Pairing:
    """Pairs the images of a folder, including subfolders, with their masks by relative path.

    A mask has the name of its image, or `NAME_maskNNN`. A result has the name of its image, or of its mask if the
    image has several masks.

    Args:
      images: Folder of images.
      masks: One mask file for all images; a folder of masks; the folder of images, in which files called
        `NAME_maskNNN` are masks; or None if masks do not come from files.
      results: Folder of results; if it lies inside a listed folder, its files are ignored.

    Raises:
      DataError: A folder does not exist, or holds no images or no masks.
    """
    found, failures = _list_images(images, exclude=(masks, results))
    if masks is None:
        return _without_clashes([Pair(images / path, None, stem_of(path)) for path in found], failures)
    if not masks.exists():
        raise DataError(f"{printable(str(masks))}: no such file or folder")
    if masks.is_file():
        return _without_clashes([Pair(images / path, masks, stem_of(path)) for path in found], failures)
    if _same_file(images, masks):
        mask_paths = [path for path in found if _MASK_NAME.fullmatch(stem_of(path))]
        found = [path for path in found if not _MASK_NAME.fullmatch(stem_of(path))]
    else:
        mask_paths, unopened = _list_images(masks, exclude=(images, results))
        failures += unopened
    if not found or not mask_paths:
        missing = "masks (NAME_mask)" if found else "images for its masks"
        raise DataError(f"{printable(str(masks))}: holds no {missing}")
    masks_of, strays = masks_by_image({stem_of(path) for path in found}, mask_paths)
    failures += [_failure(masks / path, "no image has the name of this mask") for path in strays]
    pairs = []
    for path in found:
        own = masks_of[stem_of(path)]
        if not own:
            name = printable(PurePosixPath(stem_of(path)).name)
            failures.append(_failure(images / path, f"has no mask: it would be called {name}_mask"))
        pairs += [Pair(images / path, masks / mask, stem_of(mask if len(own) > 1 else path)) for mask in own]
    return _without_clashes(pairs, failures)


def _list_images(folder: Path, exclude: Iterable[Path | None]) -> tuple[list[str], list[Failure]]:
    """Lists the image files below a folder, and the subfolders that cannot be opened.

    Args:
      folder: The folder.
      exclude: Files and folders to ignore; the folder itself is never ignored.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(str(folder))}: no such folder")
    listing = list_folder(folder)
    others = [path.resolve() for path in exclude if path is not None and not _same_file(folder, path)]
    root = folder.resolve()
    excluded = [path.relative_to(root).parts for path in others if path.is_relative_to(root)]
    paths = [
        path
        for path in listing.images
        if not any(PurePosixPath(path).parts[: len(parts)] == parts for parts in excluded)
    ]
    if not paths:
        suffixes = ", ".join(sorted(readable_suffixes()))
        raise DataError(f"{printable(str(folder))}: holds no image files ({suffixes})")
    return paths, [Failure(str(unopened), "is a folder that cannot be opened") for unopened in listing.unopened]


def _failure(path: Path, reason: str) -> Failure:
    return Failure(printable(str(path)), reason)


def _same_file(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def stem_of(path: str) -> str:
    """Returns a relative path without its suffix."""
    return PurePosixPath(path).with_suffix("").as_posix()


def masks_by_image(stems: set[str], masks: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Assigns masks to images by name.

    Args:
      stems: Relative paths of the images, without suffix.
      masks: Relative paths of the masks.

    Returns:
      Masks by the stem of their image, and the masks without an image.
    """
    masks_of: dict[str, list[str]] = defaultdict(list)
    strays = []
    # File systems differ in whether an accented letter is one character or two.
    composed = {unicodedata.normalize("NFC", stem): stem for stem in sorted(stems)}
    for path in masks:
        stem = stem_of(path)
        named = _MASK_NAME.fullmatch(stem)
        # An image may itself be called NAME_mask: a mask of exactly that name belongs to it.
        for name in (stem, named[1]) if named else (stem,):
            image = name if name in stems else composed.get(unicodedata.normalize("NFC", name))
            if image is not None:
                masks_of[image].append(path)
                break
        else:
            strays.append(path)
    return masks_of, strays


def _without_clashes(pairs: list[Pair], failures: list[Failure]) -> Pairing:
    """Removes pairs whose results would overwrite each other: the same name in the same format."""
    by_stem: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_stem[pair.stem].append(pair)
    for stem, same in by_stem.items():
        if len(same) > 1:
            failures += dict.fromkeys(_clash(pair, stem, same) for pair in same)
    return Pairing([same[0] for _, same in sorted(by_stem.items()) if len(same) == 1], failures)


def _clash(pair: Pair, stem: str, same: list[Pair]) -> Failure:
    file, kind = pair.image, "image"
    others = {other.image.name for other in same} - {file.name}
    if not others and pair.mask is not None:
        file, kind = pair.mask, "mask"
        others = {other.mask.name for other in same if other.mask is not None} - {file.name}
    return _failure(
        file,
        f"the {kind} {printable(', '.join(sorted(others)))} differs only in its suffix, so both results would be "
        f"called {printable(PurePosixPath(stem).name)}: rename one",
    )

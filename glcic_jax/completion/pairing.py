"""A folder of pictures and its masks: which mask belongs to which picture, and what each result is called."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from glcic_jax.data.folders import COMPLETION_SUFFIXES, list_folder
from glcic_jax.errors import DataError, printable

# NAME_mask, NAME_mask2, NAME_mask002: several masks of one picture.
_MASK_NAME = re.compile(r"(.+)_mask\d*", re.IGNORECASE | re.DOTALL)


class Job(NamedTuple):
    """One picture to complete.

    Args:
      image: Its file.
      mask: Its mask's file; None where masks do not come from files.
      stem: Where the result goes: a path without a suffix, relative to the folder of results.
    """

    image: Path
    mask: Path | None
    stem: str


class Failure(NamedTuple):
    """A file that cannot be completed or belongs to nothing, and why; both fit on a line."""

    file: str
    reason: str


class Pairs(NamedTuple):
    """What a folder holds.

    Args:
      jobs: In the order of their stems, each of which occurs once.
      failures: What cannot be completed, or belongs to nothing.
    """

    jobs: list[Job]
    failures: list[Failure]


def pair(images: Path, masks: Path | None, results: Path | None = None) -> Pairs:
    """Pairs the pictures of a folder with their masks; those in folders within it by their relative paths.

    A mask has the picture's name, or `NAME_maskNNN`. A result is called after the picture; those of a picture
    with several masks are called after the masks.

    Args:
      images: A folder of pictures.
      masks: One mask file for all; a folder of masks; the folder of pictures, where the files called
        `NAME_maskNNN` are the masks; or None, where masks do not come from files.
      results: The folder that results go to; what earlier runs left there is no picture, where it lies among them.

    Returns:
      The pairs, and what is left over.

    Raises:
      DataError: The folders are not there, or hold no pictures or no masks.
    """
    found, failures = _listed(images, leave_out=(masks, results))
    if masks is None:
        return _distinct([Job(images / path, None, stem_of(path)) for path in found], failures)
    if not masks.exists():
        raise DataError(f"{printable(str(masks))}: no such file or folder")
    if masks.is_file():
        jobs = [Job(images / path, masks, stem_of(path)) for path in found]
        return _distinct(jobs, failures)
    if _same_file(images, masks):
        of_masks = [path for path in found if _MASK_NAME.fullmatch(stem_of(path))]
        found = [path for path in found if not _MASK_NAME.fullmatch(stem_of(path))]
    else:
        of_masks, unopened = _listed(masks, leave_out=(images, results))
        failures += unopened
    if not found or not of_masks:
        missing = "masks (NAME_mask)" if found else "pictures for its masks"
        raise DataError(f"{printable(str(masks))}: holds no {missing}")
    masks_of, strays = masks_by_picture({stem_of(path) for path in found}, of_masks)
    failures += [_failure(masks / path, "no picture has the name of this mask") for path in strays]
    jobs = []
    for path in found:
        own = masks_of[stem_of(path)]
        if not own:
            name = printable(PurePosixPath(stem_of(path)).name)
            failures.append(_failure(images / path, f"has no mask: it would be called {name}_mask"))
        jobs += [Job(images / path, masks / mask, stem_of(mask if len(own) > 1 else path)) for mask in own]
    return _distinct(jobs, failures)


def _listed(folder: Path, leave_out: Iterable[Path | None]) -> tuple[list[str], list[Failure]]:
    """The image files below a folder, and each folder within it that cannot be opened.

    Args:
      folder: The folder.
      leave_out: Files, and folders with all that is below them, that do not count; itself is not left out.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(str(folder))}: no such folder")
    listing = list_folder(folder, COMPLETION_SUFFIXES)
    others = [path.resolve() for path in leave_out if path is not None and not _same_file(folder, path)]
    root = folder.resolve()
    inside = [path.relative_to(root).parts for path in others if path.is_relative_to(root)]
    paths = [
        path
        for path in listing.images
        if not any(PurePosixPath(path).parts[: len(parts)] == parts for parts in inside)
    ]
    if not paths:
        suffixes = ", ".join(sorted(COMPLETION_SUFFIXES))
        raise DataError(f"{printable(str(folder))}: holds no image files ({suffixes})")
    return paths, [Failure(str(unopened), "is a folder that cannot be opened") for unopened in listing.unopened]


def _failure(path: Path, reason: str) -> Failure:
    return Failure(printable(str(path)), reason)


def _same_file(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def stem_of(path: str) -> str:
    """A relative path without its suffix."""
    return PurePosixPath(path).with_suffix("").as_posix()


def masks_by_picture(stems: set[str], masks: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Finds the pictures that masks are called after.

    Args:
      stems: Of the pictures: relative paths without a suffix.
      masks: Relative paths.

    Returns:
      Masks by the stem of their picture, and the masks of no picture.
    """
    masks_of: dict[str, list[str]] = defaultdict(list)
    strays = []
    # A letter with an accent is one character or two, by the system that wrote the name; both look the same.
    composed = {unicodedata.normalize("NFC", stem): stem for stem in sorted(stems)}
    for path in masks:
        stem = stem_of(path)
        named = _MASK_NAME.fullmatch(stem)
        # A picture may be called NAME_mask itself: then the mask of just that name is its own.
        for name in (stem, named[1]) if named else (stem,):
            picture = name if name in stems else composed.get(unicodedata.normalize("NFC", name))
            if picture is not None:
                masks_of[picture].append(path)
                break
        else:
            strays.append(path)
    return masks_of, strays


def _distinct(jobs: list[Job], failures: list[Failure]) -> Pairs:
    """Takes out jobs whose results would overwrite each other: in one format they would have one name."""
    by_stem: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_stem[job.stem].append(job)
    for stem, same in by_stem.items():
        if len(same) > 1:
            failures += dict.fromkeys(_clash(job, stem, same) for job in same)
    return Pairs([same[0] for _, same in sorted(by_stem.items()) if len(same) == 1], failures)


def _clash(job: Job, stem: str, same: list[Job]) -> Failure:
    file, kind = job.image, "picture"
    others = {other.image.name for other in same} - {file.name}
    if not others and job.mask is not None:
        file, kind = job.mask, "mask"
        others = {other.mask.name for other in same if other.mask is not None} - {file.name}
    return _failure(
        file,
        f"but for its suffix the {kind} {printable(', '.join(sorted(others)))} has the same name, "
        f"so that both results would be called {printable(PurePosixPath(stem).name)}: rename one",
    )

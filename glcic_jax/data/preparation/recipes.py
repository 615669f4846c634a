"""How each TFDS data set that `glcic data prepare` knows lies in its published archives.

The features, the version, the citation and the archives' checksums are TFDS's own; what its builders read through
TensorFlow, the archives' layout, is told here. A new data set is an entry of `RECIPES` at the foot.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glcic_jax.data.preparation.archives import Members, open_members, read_lines
from glcic_jax.errors import DataError

Files = Mapping[str, Path]  # The archives on this disk, by their role in the recipe.


class Split(NamedTuple):
    """The examples of a split.

    Attributes:
      members: The archive with its images.
      rows: [examples] The image of each, as a row of `members`.
      keys: [examples] The key that TFDS gives each and orders them by, when it is hashed.
      describe: From a key to the features beside the image.
    """

    members: Members
    rows: Sequence[int]
    keys: list[str]
    describe: Callable[[str], dict[str, Any]]


class Recipe(NamedTuple):
    """What a data set is made from.

    Attributes:
      urls: The address of each archive, by role, as TFDS registers it.
      images: The roles of those that hold the images.
      growth: The result's size as a multiple of theirs.
      splits: By name, in TFDS's order, what lists the examples of each.
      config: The configuration whose sizes fit the images.
    """

    urls: Mapping[str, str]
    images: tuple[str, ...]
    growth: float
    splits: Mapping[str, Callable[[Files], Split]]
    config: str = "joint"


_PLACES = "http://data.csail.mit.edu/places/places365/"
_DRIVE = "https://drive.google.com/uc?export=download&id="
_CYCLE_GAN = "https://efrosgans.eecs.berkeley.edu/cyclegan/datasets/"


def _places_split(role: str, list_name: str, files: Files) -> Split:
    members = open_members(files[role])
    folder = members.names[0].partition("/")[0] if members.names else ""  # data_256, val_256 or test_256.
    # By the names that `members` holds, not by copies: there are 1.8 million.
    labels: dict[str, int | None] = dict.fromkeys(members.names)
    for line in read_lines(files["lists"], list_name):
        # Only the training list has a leading slash; the test list has no labels, for which TFDS writes -1.
        name, _, label = line.strip().removeprefix("/").partition(" ")
        if (key := f"{folder}/{name}") in labels:
            labels[key] = int(label or -1)

    def describe(key: str) -> dict[str, Any]:
        if labels[key] is None:
            raise DataError(f"{files[role]}: {key} is not in {list_name} of {files['lists']}")
        return {"label": labels[key], "filename": key}

    return Split(members, range(len(members.names)), members.names, describe)


class _Table(NamedTuple):
    """One of CelebA's tables: its headings, and the values of each file name."""

    headings: tuple[str, ...]
    rows: dict[str, tuple[int, ...]]


@functools.lru_cache(maxsize=4)  # The three splits are made from the same four tables.
def _table(path: Path, *headings: str) -> _Table:
    """Reads a table; headings that are not given stand in its second line."""
    try:
        lines = path.read_text().splitlines()
        if not headings:
            headings, lines = tuple(lines[1].split()), lines[2:]
        rows = [line.split() for line in lines if line.strip()]
        table = _Table(headings, {name: tuple(map(int, values)) for name, *values in rows})
        if any(len(values) != len(headings) for values in table.rows.values()):
            raise ValueError("a line has more or fewer values than there are headings")
        return table
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not one of CelebA's tables ({error})") from error


def _celeb_a_split(partition: int, files: Files) -> Split:
    members = open_members(files["images"])
    row_of = {os.path.basename(name): row for row, name in enumerate(members.names)}
    keys = sorted(name for name, (of,) in _table(files["partition"], "partition").rows.items() if of == partition)
    tables = {
        "landmarks": _table(files["landmarks"]),
        "attributes": _table(files["attributes"]),
        "identity": _table(files["identity"], "Identity_No"),
    }

    def describe(key: str) -> dict[str, Any]:
        described = {
            what: dict(zip(table.headings, table.rows[key], strict=True)) for what, table in tables.items()
        }
        signs = described["attributes"]
        return {**described, "attributes": {heading: sign > 0 for heading, sign in signs.items()}}  # 1 or -1.

    listed: dict[str, Mapping[str, Any]] = {what: table.rows for what, table in tables.items()}
    for what, table in {"images": row_of, **listed}.items():
        missing = next((key for key in keys if key not in table), None)
        if missing is not None:
            raise DataError(f"{files[what]}: {missing}, listed in {files['partition']}, is missing")
    return Split(members, [row_of[key] for key in keys], keys, describe)


def _cycle_gan_split(folder: str, files: Files) -> Split:
    members = open_members(files["images"])
    rows = [row for row, name in enumerate(members.names) if name.split("/")[-2:-1] == [folder]]
    keys = [os.path.basename(members.names[row]) for row in rows]
    return Split(members, rows, keys, lambda key: {"label": folder[-1]})


def _cycle_gan(name: str) -> Recipe:
    folders = ("trainA", "trainB", "testA", "testB")
    return Recipe(
        urls={"images": f"{_CYCLE_GAN}{name}.zip"},
        images=("images",),
        growth=1.05,
        splits={folder: functools.partial(_cycle_gan_split, folder) for folder in folders},
    )


RECIPES: dict[str, Recipe] = {
    "places365_small": Recipe(
        urls={
            "train": _PLACES + "train_256_places365standard.tar",
            "test": _PLACES + "test_256.tar",
            "validation": _PLACES + "val_256.tar",
            "lists": _PLACES + "filelist_places365-standard.tar",
        },
        images=("train", "test", "validation"),
        growth=1.0,
        splits={
            "train": functools.partial(_places_split, "train", "places365_train_standard.txt"),
            "test": functools.partial(_places_split, "test", "places365_test.txt"),
            "validation": functools.partial(_places_split, "validation", "places365_val.txt"),
        },
    ),
    "celeb_a": Recipe(
        urls={
            "images": _DRIVE + "0B7EVK8r0v71pZjFTYXZWM3FlRnM",
            "partition": _DRIVE + "0B7EVK8r0v71pY0NSMzRuSXJEVkk",
            "landmarks": _DRIVE + "0B7EVK8r0v71pd0FJY3Blby1HUTQ",
            "attributes": _DRIVE + "0B7EVK8r0v71pblRyaVFSWGxPY0U",
            "identity": _DRIVE + "1_ee_0u7vcNLOfNLegJRHmolfH5ICW-XS",
        },
        images=("images",),
        growth=1.2,  # Fifty-one numbers with their names, compressed, to each image of seven kilobytes.
        splits={
            "train": functools.partial(_celeb_a_split, 0),
            "validation": functools.partial(_celeb_a_split, 1),
            "test": functools.partial(_celeb_a_split, 2),
        },
        config="celeba",
    ),
    **{
        f"cycle_gan/{name}": _cycle_gan(name)
        for name in (
            "apple2orange",
            "summer2winter_yosemite",
            "horse2zebra",
            "monet2photo",
            "cezanne2photo",
            "ukiyoe2photo",
            "vangogh2photo",
            "maps",
            "facades",
            "iphone2dslr_flower",
        )
    },
}

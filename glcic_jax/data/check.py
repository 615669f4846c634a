"""Reads every image of a data set and says what training would find there."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from glcic_jax.data.folders import LARGE_FILE, FileSource, list_folder, split_folder, too_few_images
from glcic_jax.data.sources import ImageSource
from glcic_jax.data.tfds import (
    TfdsSource,
    is_version,
    open_prepared,
    open_split,
    prepare_command,
    prepared_info,
    training_splits,
)
from glcic_jax.data.worker_pool import in_processes
from glcic_jax.errors import ConfigError, DataError, one_line, printable
from glcic_jax.pictures.rgb_files import LARGE, load_with_header
from glcic_jax.progress import Progress, format_bytes

_AT_LEAST = 64  # Pixels of the shorter side that the mean colour is taken from; damage shows at any size.
_CHUNK = 64  # Images that a process is handed at once.

Item = str | int  # An image by its path below the folder, or by its place in its split.


class Plan(NamedTuple):
    """What there is to check.

    Args:
      root: The folder, or the directory of a prepared TFDS data set.
      parts: The images of each part: "train" and "validation", or the splits.
      others: Files of a folder that are no images by their suffix: how many of each.
      hidden: How many files' names begin with a dot.
      unopened: Folders that could not be opened, with the reason.
    """

    root: Path
    parts: Mapping[str, Sequence[str] | range]
    others: dict[str, int]
    hidden: int
    unopened: list[str]

    def items(self) -> Iterator[tuple[str, Item]]:
        """Every image, with its part."""
        for part, images in self.parts.items():
            yield from ((part, image) for image in images)

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    @property
    def training_parts(self) -> tuple[str, str]:
        """The parts that training trains on and validates on, which may be slices of the same."""
        train, validation = (split.partition("[")[0] for split in training_splits(list(self.parts)))
        return train, validation


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found in one image: why it cannot be read, or what it is."""

    error: str = ""
    postponed: bool = False
    size: int = 0
    digest: bytes = b""
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)


_CRASHED = Finding(error="cannot be read as an image (the decoder crashed, or the memory was full)")
_POSTPONED = Finding(postponed=True)


def plan(root: Path, validation_fraction: float) -> Plan:
    """Lists the images of a folder, or opens a prepared TFDS data set.

    Args:
      root: A folder; the directory of a prepared data set's version, or one above it.
      validation_fraction: Share of a folder that training holds out.

    Raises:
      DataError: No such folder, fewer than two images in it, several data sets, or one that cannot be opened.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "no such folder"
        raise DataError(f"{printable(str(root))}: {what}; give a folder of photographs or a prepared data set")
    listing = list_folder(root)
    # TFDS unpacks archives below its data directory; any other image makes a folder of photographs.
    if all(path.startswith("downloads/") for path in listing.images) and (found := _prepared_below(root)):
        if len(found) > 1:
            several = ", ".join(printable(str(path)) for path in found)
            raise DataError(f"{printable(str(root))} holds several prepared data sets: give one of {several}")
        builder = _opened(found[0])
        if not builder.info.splits:
            raise DataError(f"{found[0]}: the data set has no split")
        splits = {split: range(len(open_split(builder, split))) for split in builder.info.splits}
        return Plan(found[0], splits, {}, 0, [])
    if len(listing.images) < 2:
        raise DataError(too_few_images(root, listing))
    train, validation = split_folder(listing.images, validation_fraction)
    parts = {"train": train, "validation": validation}
    return Plan(root, parts, dict(listing.others.most_common()), listing.hidden, listing.unopened)


def _prepared_below(root: Path) -> list[Path]:
    """Prepared data sets: `root` itself, or as deep as versions lie below TFDS's data directory."""
    infos = [root / "dataset_info.json"]
    for depth in (1, 2, 3):
        infos += [path for path in root.glob("*/" * depth + "dataset_info.json") if is_version(path.parent.name)]
    # Other programs write a dataset_info.json too.
    return sorted(path.parent for path in infos if path.is_file() and path.with_name("features.json").is_file())


def read_all(plan: Plan, processes: int, told: Callable[[], Any]) -> "Findings":
    """Reads every image of a plan, in several processes.

    Args:
      plan: What to read.
      processes: How many.
      told: Called once an image.

    Returns:
      What was found.
    """
    findings = Findings()
    postponed: list[tuple[str, Item]] = []
    work = functools.partial(inspect_items, plan.root)
    chunk = min(_CHUNK, 1 + len(plan) // (4 * processes))
    with contextlib.closing(in_processes(work, plan.items(), processes, chunk, _CRASHED)) as found:
        for (part, item), finding in found:
            if finding.postponed:
                postponed.append((part, item))
                continue
            findings.add(part, item, finding)
            told()
    if not postponed:
        return findings
    # One at a time: one in each process would fill the memory.
    work = functools.partial(inspect_items, plan.root, large=True)
    with contextlib.closing(in_processes(work, postponed, 1, 1, _CRASHED)) as found:
        for (part, item), finding in found:
            findings.add(part, item, finding)
            told()
    return findings


def inspect_items(root: Path, items: Sequence[tuple[str, Item]], large: bool = False) -> list[Finding]:
    """Reads some images; those that take much memory are postponed unless `large`."""
    return [_inspect(*_source(root, part, item), large) for part, item in items]


def _source(root: Path, part: str, item: Item) -> tuple[ImageSource, int]:
    return (FileSource(root, [item]), 0) if isinstance(item, str) else (_opened_split(root, part), item)


def _opened(root: Path) -> Any:
    info = prepared_info(root)
    data_dir = root.absolute().parents[1 + info.name.count("/")]
    return open_prepared(root, prepare_command(f"{info.name}:{info.version}", str(data_dir)))


@functools.cache
def _opened_split(root: Path, split: str) -> TfdsSource:
    return open_split(_opened(root), split)


def _inspect(source: ImageSource, index: int, large: bool) -> Finding:
    name = source.name(index)
    try:
        if not large and isinstance(source, FileSource) and source.size(index) > LARGE_FILE:
            return _POSTPONED
        content = source.read(index)
        header, image = load_with_header(content, name, _AT_LEAST, float("inf") if large else LARGE)
        if image is None:
            return _POSTPONED
    except (DataError, OSError) as error:
        return Finding(error=printable(str(error)).removeprefix(f"{name}: "))
    # Rows first: a sum over both axes of a channels-last image at once takes ten times as long.
    sums = image.sum(axis=0, dtype=np.uint32).sum(axis=0, dtype=np.float64)
    red, green, blue = sums / (255.0 * image.shape[0] * image.shape[1])
    return Finding(
        size=len(content),
        digest=hashlib.blake2b(content, digest_size=16).digest(),
        format=header.format,
        mode=header.mode,
        width=header.width,
        height=header.height,
        mean=(float(red), float(green), float(blue)),
    )


class Findings:
    """What was found in all images, in counts: nothing grows with an image's size."""

    def __init__(self) -> None:
        self.bytes = 0
        self.formats: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.widths: Counter[int] = Counter()
        self.heights: Counter[int] = Counter()
        self.shorter_sides: Counter[int] = Counter()
        self.unreadable: list[tuple[str, str]] = []
        self.in_both_parts = 0
        self.readable_in: Counter[str] = Counter()
        self.unreadable_in: Counter[str] = Counter()
        self._parts_of: dict[bytes, str] = {}
        self._sums: dict[str, np.ndarray] = {}

    def add(self, part: str, item: Item, finding: Finding) -> None:
        """Counts one image."""
        if finding.error:
            name = printable(item) if isinstance(item, str) else f"{part}[{item}]"
            self.unreadable.append((name, finding.error))
            self.unreadable_in[part] += 1
            return
        self.bytes += finding.size
        self.formats[finding.format] += 1
        self.modes[finding.mode] += 1
        self.widths[finding.width] += 1
        self.heights[finding.height] += 1
        self.shorter_sides[min(finding.width, finding.height)] += 1
        self.readable_in[part] += 1
        self._sums[part] = self._sums.get(part, 0.0) + np.asarray(finding.mean)
        first = self._parts_of.setdefault(finding.digest, part)
        self.in_both_parts += first != part

    @property
    def readable(self) -> int:
        """Number of images that could be read."""
        return self.formats.total()

    @property
    def duplicates(self) -> int:
        """Number of files that are byte for byte the same as another, not counting the first of each."""
        return self.readable - len(self._parts_of)

    def mean_pixel(self, part: str) -> tuple[float, ...] | None:
        """(r, g, b) in [0, 1]: the mean colour of a part's images, each weighing the same; None of none."""
        if part not in self._sums:
            return None
        return tuple(float(value) for value in self._sums[part] / self.readable_in[part])


_SHOWN = 20  # Unreadable images on the screen; a file can hold them all.


def check_data(
    path: Path,
    processes: int | None,
    list_file: Path | None,
    json_file: Path | None,
    *,
    image_size: int,
    validation_fraction: float,
    max_skipped_fraction: float,
) -> bool:
    """Reads all images below a path and reports on them.

    Args:
      path: A folder, or the directory of a prepared TFDS data set.
      processes: How many read at a time; None: one for each core.
      list_file: Where all unreadable images are named, one a line; "-": on stdout, in place of the text.
      json_file: Where the report goes for programs; "-": as above.
      image_size, validation_fraction, max_skipped_fraction: Those of training's `config.data`.

    Returns:
      Whether all images, and all folders, can be read.

    Raises:
      ConfigError: The list and the report are both to go to stdout.
      DataError: There are no images, or a file cannot be written.
    """
    targets = [str(file) for file in (list_file, json_file) if file is not None]
    if targets.count("-") > 1:
        raise ConfigError("only one of --list and --json can be - (stdout): name a file for the other")
    planned = plan(path, validation_fraction)
    # Before an hour of reading, not after it; what an earlier check wrote stays until this one is done.
    for target in targets:
        _write(target, "", "a")
    tell = functools.partial(click.echo, err=True)
    with Progress("reading", len(planned), tell, unit="images") as progress:
        findings = read_all(planned, processes or _cores(), progress.advance)
    values = report(planned, findings, image_size, max_skipped_fraction)
    if list_file is not None:
        _write(str(list_file), "".join(f"{bad['name']}: {bad['reason']}\n" for bad in values["unreadable"]))
    if json_file is not None:
        _write(str(json_file), json.dumps(values, indent=2) + "\n")
    if "-" not in targets:
        click.echo(as_text(values))
    return not values["unreadable"] and not values["unopened_folders"]


def _cores() -> int:
    """The cores that this process may use, which in a container are not all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write(target: str, text: str, mode: str = "w") -> None:
    try:
        with click.open_file(target, mode, encoding="utf-8") as file:  # "-" is stdout.
            file.write(text)
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({one_line(error)})") from error


def range_of(counts: Counter[int]) -> tuple[int, int, int] | None:
    """The smallest, the median and the largest of numbers that are counted; None where there are none."""
    left = (counts.total() + 1) // 2
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return min(counts), value, max(counts)
    return None


def report(plan: Plan, findings: Findings, image_size: int, most: float) -> dict[str, Any]:
    """Returns all that a check found, as plain values.

    Args:
      plan: What was checked.
      findings: What was found.
      image_size: Side of training's crops, in pixels.
      most: Share of unreadable images beyond which training stops.
    """
    sides = {"width": findings.widths, "height": findings.heights, "shorter_side": findings.shorter_sides}
    unreadable = sorted(findings.unreadable)
    train = plan.training_parts[0]
    # What training opens: a test split counts for nothing there.
    opened = set(plan.training_parts)
    skipped = sum(findings.unreadable_in[part] for part in opened)
    return {
        "path": printable(os.path.abspath(plan.root)),
        "images": len(plan),
        "parts": {part: len(images) for part, images in plan.parts.items()},
        "readable": findings.readable,
        "unreadable": [{"name": name, "reason": reason} for name, reason in unreadable],
        "max_skipped_fraction": most,
        "unreadable_in_training": skipped,
        "training_would_stop": skipped > most * sum(len(plan.parts[part]) for part in opened),
        "bytes": findings.bytes,
        "formats": dict(findings.formats.most_common()),
        "modes": dict(findings.modes.most_common()),
        "sides": {name: range_of(counts) for name, counts in sides.items()},
        "image_size": image_size,
        "enlarged": sum(n for side, n in findings.shorter_sides.items() if side < image_size),
        "duplicates": findings.duplicates,
        "duplicates_in_other_part": findings.in_both_parts,
        "mean_pixel": findings.mean_pixel(train),
        "other_files": {printable(suffix): count for suffix, count in plan.others.items()},
        "hidden_files": plan.hidden,
        "unopened_folders": plan.unopened,
    }


def as_text(values: dict[str, Any]) -> str:
    """Returns a report's values as lines for people."""
    count, bad = values["images"], values["unreadable"]
    parts = ", ".join(f"{images:,} {part}" for part, images in values["parts"].items())
    rows = [
        ("images", f"{count:,}: {parts}"),
        ("readable", f"{values['readable']:,}, {format_bytes(values['bytes'])}"),
        ("unreadable", f"{len(bad):,} ({len(bad) / count:.2%})"),
        ("formats", _counts(values["formats"])),
        ("colour modes", _counts(values["modes"])),
    ]
    for name, found in values["sides"].items():
        if found:
            rows.append((name.replace("_", " "), f"{found[0]:,} to {found[2]:,} px, median {found[1]:,}"))
    rows += [
        ("to be enlarged", f"{values['enlarged']:,} have a side below the crop's {values['image_size']} px"),
        ("duplicates", f"{values['duplicates']:,}, {values['duplicates_in_other_part']:,} in another part"),
        ("other files", _counts(values["other_files"]) + f"; {values['hidden_files']:,} hidden"),
    ]
    rows += [("not opened", folder) for folder in values["unopened_folders"][:_SHOWN]]
    if values["mean_pixel"]:
        pixel = ",".join(f"{value:.5f}" for value in values["mean_pixel"])
        rows.append(("mean pixel", f"'--config.data.mean_pixel=({pixel})'"))
    rows.append(("training", _verdict(values)))
    lines = [values["path"], *(f"  {name:14}  {value}" for name, value in rows)]
    if bad:
        lines += ["", "cannot be read:", *(f"  {entry['name']}: {entry['reason']}" for entry in bad[:_SHOWN])]
    if len(bad) > _SHOWN:
        lines.append(
            f"  and {len(bad) - _SHOWN:,} more: glcic data check --list FILE {shlex.quote(values['path'])}"
        )
    return "\n".join(lines)


def _verdict(values: dict[str, Any]) -> str:
    limit = f"{values['max_skipped_fraction']:.2%} that data.max_skipped_fraction allows"
    if not values["unreadable"]:
        return "can read every image"
    if not values["unreadable_in_training"]:
        return "can read every image of the parts that it opens"
    if values["training_would_stop"]:
        return f"would stop: more is unreadable than the {limit}; remove or replace them, or raise it"
    return f"would skip the unreadable, which are no more than the {limit}"


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{name or 'no suffix'} {count:,}" for name, count in list(counts.items())[:8]]
    return ", ".join(shown + ["..."] * (len(counts) > 8)) or "none"

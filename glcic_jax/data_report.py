"""What `glcic data check` shows: progress, and a report for people and for programs."""

import json
import os
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from glcic_jax.data_check import Findings, Plan, plan, read_all
from glcic_jax.errors import DataError, one_line, printable

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
      list_file: Where all unreadable images are named, one a line.
      json_file: Where the report goes for programs; "-": on stdout, in place of the text.
      image_size, validation_fraction, max_skipped_fraction: Those of training's `config.data`.

    Returns:
      Whether all images, and all folders, can be read.

    Raises:
      DataError: There are no images, or a file cannot be written.
    """
    planned = plan(path, validation_fraction)
    # Before an hour of reading, not after it.
    for file in (list_file, json_file):
        if file is not None and str(file) != "-":
            _write(file, "")
    with Progress(len(planned)) as progress:
        findings = read_all(planned, processes or _cores(), progress.advance)
    values = report(planned, findings, image_size, max_skipped_fraction)
    if list_file is not None:
        _write(list_file, "".join(f"{bad['name']}: {bad['reason']}\n" for bad in values["unreadable"]))
    if json_file is not None and str(json_file) != "-":
        _write(json_file, json.dumps(values, indent=2) + "\n")
    click.echo(json.dumps(values, indent=2) if str(json_file) == "-" else as_text(values))
    return not values["unreadable"] and not values["unopened_folders"]


def _cores() -> int:
    """The cores that this process may use, which in a container are not all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({one_line(error)})") from error


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
    return {
        "path": printable(os.path.abspath(plan.root)),
        "images": len(plan),
        "parts": {part: images if isinstance(images, int) else len(images) for part, images in plan.parts.items()},
        "readable": findings.readable,
        "unreadable": [{"name": name, "reason": reason} for name, reason in unreadable],
        "max_skipped_fraction": most,
        "training_would_stop": len(unreadable) > most * len(plan),
        "bytes": findings.bytes,
        "formats": dict(findings.formats.most_common()),
        "modes": dict(findings.modes.most_common()),
        "sides": {name: range_of(counts) for name, counts in sides.items()},
        "image_size": image_size,
        "enlarged": sum(n for side, n in findings.shorter_sides.items() if side < image_size),
        "duplicates": findings.duplicates,
        "duplicates_in_other_part": findings.in_both_parts,
        "mean_pixel": findings.mean_pixel,
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
        ("readable", f"{values['readable']:,}, {_bytes(values['bytes'])}"),
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
    if values["training_would_stop"]:
        return f"would stop: more is unreadable than the {limit}; remove or replace them, or raise it"
    return f"would skip the unreadable, which are no more than the {limit}"


def _counts(counts: dict[str, int]) -> str:
    shown = [f"{name or 'no suffix'} {count:,}" for name, count in list(counts.items())[:8]]
    return ", ".join(shown + ["..."] * (len(counts) > 8)) or "none"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


class Progress:
    """A bar on stderr; where that is no terminal, a line at every tenth, not more often than every 5 s."""

    def __init__(self, total: int):
        self._bar = tqdm(total=total, unit=" images", file=sys.stderr) if sys.stderr.isatty() else None
        self._total = total
        self._done = 0
        self._told = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """One image more has been read."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif self._done % -(-self._total // 10) == 0 and time.monotonic() - self._told >= 5:
            self._told = time.monotonic()
            click.echo(f"{self._done:,} of {self._total:,} images read", err=True)

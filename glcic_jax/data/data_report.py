"""What `glcic data check` shows: a report for people and for programs."""

import functools
import json
import os
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import click

from glcic_jax.data.check import Findings, Plan, plan, read_all
from glcic_jax.errors import ConfigError, DataError, one_line, printable
from glcic_jax.progress import Progress, in_words

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
        ("readable", f"{values['readable']:,}, {in_words(values['bytes'])}"),
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

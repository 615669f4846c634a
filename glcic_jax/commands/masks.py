"""The command `glcic masks`. Modules that read and write images are imported inside it."""

import functools
import re
from pathlib import Path
from typing import Any

import click

from glcic_jax.command_line import UserPath
from glcic_jax.errors import printable

_LARGEST_SIDE = 2**14
_MAX_COUNT = 1_000_000  # File names have six digits.


class _Size(click.ParamType):
    """A side, or HEIGHTxWIDTH, in pixels."""

    name = "SIZE"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Parses the option's text."""
        if isinstance(value, tuple):  # click may convert a value twice.
            return value
        matched = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", str(value))
        sides = [int(side or matched[1]) for side in matched.groups()] if matched else []
        if not sides or not all(1 <= side <= _LARGEST_SIDE for side in sides):
            self.fail(
                f"{value!r} is not a size: give a side or HEIGHTxWIDTH in px up to {_LARGEST_SIDE}, as 192x320",
                param,
                ctx,
            )
        return sides[0], sides[1]


@click.command()
@click.argument("name", metavar="NAME[:OPTIONS]")
@click.option(
    "--count", type=click.IntRange(1, _MAX_COUNT), help="Number of masks.  [default: 1000; of a folder all]"
)
@click.option(
    "--size",
    metavar="SIZE",
    type=_Size(),
    help="256, or 192x320 (height x width).  [default: 256; of a folder its own]",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=UserPath(),
    help="A new directory for the mask files.",
)
def masks(name: str, count: int | None, size: tuple[int, int] | None, output: Path | None) -> None:
    """Show the hash of a reproducible set of masks, or write the masks as files.

    NAME is paper, box, mmagic, centre, free_form, rectangles, or folder:PATH. OPTIONS belong to the set, as in
    paper:seed=3 or rectangles:count=1-3. The same name and size give the same masks on every machine; cite the
    hash. DIR receives 000000.png ... (white is the hole) and mask_set.json; folder:DIR reads it back.
    """
    from glcic_jax.evaluation.mask_sets.sets import open_mask_set, store, summarise

    chosen = open_mask_set(name)
    usual_count, usual_size = chosen.default_count_and_size
    count, size = count or usual_count, size or usual_size
    show = summarise if output is None else functools.partial(store, directory=output)
    summary = show(chosen, count, size)
    record = summary.record
    lines = [
        ("name", record.name),
        ("size", f"{size[0]} x {size[1]} (height x width)"),
        ("count", str(record.count)),
        ("hole ratio", f"{summary.hole_ratio:.4f}, the mean"),
        ("sha256", record.sha256),
    ]
    if output is not None:
        lines.append(("written", str(output)))
    for label, text in lines:
        click.echo(f"{label:11} {printable(text)}")

"""The commands `glcic evaluate` and `glcic compare`; JAX is imported inside them."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from glcic_jax.command_line import FiniteFloat, UserPath
from glcic_jax.errors import DataError, printable
from glcic_jax.files import check_writable, expand_home

_SHARED_OPTIONS = [
    click.option("--masks", default="paper:seed=0", show_default=True, help="A mask set; see glcic masks --help."),
    click.option("--size", help="Side of the squares in pixels, or 'original'.  [default: the training size]"),
    click.option("--count", type=click.IntRange(1), help="At most this many images, spread evenly."),
    click.option(
        "--split",
        default="",
        help="Folder: all, train or validation; listing: train, validation or test; samples: train or validation; "
        "TFDS: any split.  [default: all of a folder, otherwise validation]",
    ),
    click.option(
        "--validation-fraction",
        type=FiniteFloat(0, 1),
        default=0.02,
        show_default=True,
        help="Fraction of a folder held out for validation.",
    ),
    click.option(
        "--listing", default="", help="A CSV that selects files of a folder; see glcic_jax/data/README.md."
    ),
    click.option(
        "--tfds-dir",
        default="",
        help="TFDS's data directory.  [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]",
    ),
    click.option(
        "--strategy",
        type=click.Choice(["auto", "original", "resize", "crop"]),
        default="auto",
        show_default=True,
        help="What the network sees, as in glcic complete.",
    ),
    click.option("--max-side", type=int, help="Longest side of the network's input.  [default: 600]"),
    click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images at a time."),
    click.option("--device", help="cpu, gpu, gpu:1 ...  [default: JAX's first]"),
    click.option("--lpips", metavar="FILE[,FILE]", help="Weights of LPIPS: the backbone and the linear heads."),
    click.option(
        "--judge",
        is_flag=True,
        help="Train a network for each method to tell its completions from the originals; needs 20 images.",
    ),
]


def _shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SHARED_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("subjects", nargs=-1, required=True, metavar="WEIGHTS_OR_RUN_OR_DIR...")
@click.option("--data", required=True, help="A folder, tfds:NAME[:VERSION] or samples.")
@click.option("--report", type=UserPath(), required=True, help="The folder of the report.")
@click.option("--overwrite", is_flag=True, help="Replace a finished report.")
@_shared_options
@click.option(
    "--baselines",
    help="Classical fills to compare with: mean,telea,navier-stokes; '': none.  [default: all]",
)
@click.option("--no-blending", is_flag=True, help="Leave out the rows with blending.")
@click.option("--fid", type=UserPath(), help="Weights of FID's Inception network.")
@click.option("--save", type=UserPath(), help="A folder to write images, masks and completions to as PNG.")
def evaluate(subjects: tuple[str, ...], report: Path, overwrite: bool, **options: Any) -> None:
    """Measure completions on fixed images with fixed masks.

    A subject is what 'glcic complete --weights' takes; a folder of images that another program completed, named
    like the originals; or mean, telea or navier-stokes. The report describes the first; the others are rows in its
    tables.

    \b
    glcic evaluate runs/joint --data photos --report out
    glcic evaluate runs/joint other.t7 --data tfds:places365_small --masks box:seed=0 --size 256 --report out
    glcic evaluate their_results --data their_images --masks folder:their_masks --report out

    Writes report.html, table.md, images.csv and evaluation.json at the end; an interrupted evaluation starts
    over.
    """  # noqa: D301 - click reads the \\b.
    from glcic_jax.evaluation import evaluate as room
    from glcic_jax.evaluation.tables import text_results

    if options["baselines"] is None:
        baselines = tuple(room.BASELINES)
    else:
        baselines = tuple(filter(None, options["baselines"].split(",")))
    request = _request(
        subjects,
        options,
        baselines=baselines,
        with_blending=not options["no_blending"],
        fid=options["fid"],
        save=options["save"],
    )
    try:
        evaluation = room.evaluate(request, report, overwrite, _log)
    except KeyboardInterrupt:
        again = ", with another or an emptied --save" if options["save"] else ""
        click.echo(f"\nstopped before the end: no report; the same command starts over{again}", err=True)
        sys.exit(130)
    click.echo(text_results(evaluation))
    for note in evaluation.notes:
        _log(note)
    _log(f"the report: {report / 'report.html'}")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@click.option(
    "-o",
    "--output",
    type=UserPath(),
    required=True,
    help="The page to write, such as compare.html.",
)
@click.option("--data", default="", help="As in 'glcic evaluate'.  [default: what the runs validate on]")
@_shared_options
@click.option("--overwrite", is_flag=True, help="Replace an existing page.")
def compare(runs: tuple[str, ...], output: Path, overwrite: bool, **options: Any) -> None:
    """Compare runs: curves, configurations, the same images, and paired differences from the first run.

    \b
    glcic compare runs/mse runs/joint -o compare.html
    glcic compare runs/mse runs/joint --data photos --size 256 -o compare.html
    """  # noqa: D301 - click reads the \\b.
    from glcic_jax.evaluation import compare as room

    if output.exists() and not overwrite:
        raise DataError(f"{output} exists: name another file, or give --overwrite")
    check_writable(output)
    room.compare(_request(runs, options, baselines=(), with_blending=False), output, _log)
    _log(f"the comparison: {output}")


def _request(subjects: tuple[str, ...], options: dict[str, Any], **more: Any) -> Any:
    from glcic_jax.completion import MAX_SIDE
    from glcic_jax.evaluation.evaluate import Request
    from glcic_jax.evaluation.images import Selection

    selection = ("split", "count", "validation_fraction", "tfds_dir", "listing")
    same = ("data", "masks", "strategy", "batch_size", "device", "judge")
    return Request(
        subjects,
        selection=Selection(**{name: options[name] for name in selection}),
        side=_side(options["size"]),
        max_side=MAX_SIDE if options["max_side"] is None else options["max_side"],
        lpips=[expand_home(path) for path in (options["lpips"] or "").split(",") if path],
        **{name: options[name] for name in same},
        **more,
    )


def _side(size: str | None) -> int | None:
    if size is None or size == "original":
        return None if size is None else 0
    if not re.fullmatch("[1-9][0-9]{0,3}", size):
        raise click.BadParameter(f"{size!r} is neither 1 to 9999 pixels nor 'original'", param_hint="--size")
    return int(size)


def _log(line: str) -> None:
    click.echo(printable(line), err=True)

"""`glcic evaluate` and `glcic compare`: what their arguments mean. JAX is imported when it is needed."""

import re
import sys
from pathlib import Path
from typing import Any

import click

from glcic_jax.errors import printable

_COMMON = [
    click.option("--masks", default="paper:seed=0", show_default=True, help="A mask set: glcic masks --help."),
    click.option("--size", help="Squares of so many pixels, or 'original'.  [default: that trained on]"),
    click.option("--count", type=click.IntRange(1), help="Only so many images, spread evenly."),
    click.option(
        "--split",
        default="",
        help="all, train or validation of a folder; train, validation or test of a listing; train or validation "
        "of the samples; any of a TFDS data set.  [default: all of a folder, else validation]",
    ),
    click.option("--validation-fraction", type=click.FloatRange(0, 1), default=0.02, show_default=True),
    click.option("--listing", default="", help="Of a folder: a CSV of the files to use (README, Data)."),
    click.option("--tfds-dir", default="", help="TFDS's data directory."),
    click.option(
        "--strategy", type=click.Choice(["auto", "original", "resize", "crop"]), default="auto", show_default=True
    ),
    click.option("--max-side", type=int, help="Longest side that the network is run on at once.  [default: 600]"),
    click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images at a time."),
    click.option("--device", help="cpu, gpu, gpu:1 ...  [default: JAX's first]"),
    click.option("--lpips", metavar="FILE[,FILE]", help="Weights of LPIPS: the backbone and the linear heads."),
]


def _common(command: Any) -> Any:
    for option in reversed(_COMMON):
        command = option(command)
    return command


@click.command()
@click.argument("subjects", nargs=-1, required=True, metavar="WEIGHTS_OR_RUN_OR_DIR...")
@click.option("--data", required=True, help="folder:PATH, tfds:NAME[:VERSION] or samples.")
@click.option("--report", type=click.Path(path_type=Path), required=True, help="The folder to write to.")
@_common
@click.option(
    "--baselines",
    help="Fills without a network to compare with: mean,telea,navier-stokes; '': none.  [default: all]",
)
@click.option("--no-blending", is_flag=True, help="Leave out the rows with blending.")
@click.option("--fid", type=click.Path(path_type=Path), help="Weights of FID's Inception network.")
@click.option("--save", type=click.Path(path_type=Path), help="Write images, masks and completions there, as PNG.")
@click.option("--restart", is_flag=True, help="Forget what --report holds of a stopped evaluation.")
def evaluate(subjects: tuple[str, ...], report: Path, restart: bool, **options: Any) -> None:
    """Measure completions on fixed images with fixed masks.

    A subject is what 'glcic complete --weights' takes; a folder of pictures that anything completed, called as the
    images are; or mean, telea or navier-stokes. The report is about the first; the others are rows of it.

    \b
    glcic evaluate runs/joint --data folder:photos --report out
    glcic evaluate runs/joint other.t7 --data tfds:places365_small --masks box:seed=0 --size 256 --report out
    glcic evaluate their_results --data folder:their_images --masks folder:their_masks --report out

    Writes report.html, table.md, images.csv and evaluation.json. The same command goes on after it was stopped.
    """  # noqa: D301 - click reads the \\b.
    from glcic_jax.evaluation.evaluate import evaluate as run
    from glcic_jax.evaluation.tables import markdown_table

    request = _request(
        subjects,
        options,
        **_baselines(options["baselines"]),
        with_blending=not options["no_blending"],
        fid=options["fid"],
        save=options["save"],
    )
    try:
        found = run(request, report, restart, _tell)
    except KeyboardInterrupt:
        click.echo("\nstopped; the same command goes on", err=True)
        sys.exit(130)
    click.echo(markdown_table(found))
    for note in found.notes:
        _tell(note)
    _tell(f"the report: {report / 'report.html'}")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The page, as compare.html.")
@click.option("--data", help="As of 'glcic evaluate'.  [default: what the runs validate on]")
@_common
@click.option("--overwrite", is_flag=True, help="Replace the page where it is there.")
def compare(runs: tuple[str, ...], output: Path, overwrite: bool, **options: Any) -> None:
    """Compare runs: curves, configurations, the same images, and paired differences.

    The differences are those from the first run, on the same images with the same masks.

    \b
    glcic compare runs/mse runs/joint -o compare.html
    glcic compare runs/mse runs/joint --data folder:photos --size 256 -o compare.html
    """  # noqa: D301 - click reads the \\b.
    from glcic_jax.errors import DataError
    from glcic_jax.evaluation.compare import compare as run
    from glcic_jax.files import check_writable

    if output.exists() and not overwrite:
        raise DataError(f"{output}: is there already: give --overwrite or another name")
    check_writable(output)
    request = _request(runs, options, baselines=(), with_blending=False)
    try:
        run(request, output, _tell)
    except KeyboardInterrupt:
        click.echo("\nstopped", err=True)
        sys.exit(130)
    _tell(f"the comparison: {output}")


def _request(subjects: tuple[str, ...], options: dict[str, Any], **more: Any) -> Any:
    from glcic_jax.completion.windows import MAX_SIDE
    from glcic_jax.evaluation.evaluate import Request
    from glcic_jax.evaluation.examples import Part

    names = ("split", "count", "validation_fraction", "tfds_dir", "listing")
    part = Part(*(options[name] for name in names))
    return Request(
        subjects,
        options["data"] or "",
        part,
        options["masks"],
        _side(options["size"]),
        strategy=options["strategy"],
        max_side=MAX_SIDE if options["max_side"] is None else options["max_side"],
        batch_size=options["batch_size"],
        device=options["device"],
        lpips=[Path(path) for path in (options["lpips"] or "").split(",") if path],
        **more,
    )


def _baselines(names: str | None) -> dict[str, Any]:
    return {} if names is None else {"baselines": [name for name in names.split(",") if name]}


def _side(size: str | None) -> int | None:
    if size is None or size == "original":
        return None if size is None else 0
    if not re.fullmatch("[1-9][0-9]{0,3}", size):
        raise click.BadParameter(f"{size!r} is neither 1 to 9999 pixels nor 'original'", param_hint="--size")
    return int(size)


def _tell(line: str) -> None:
    click.echo(printable(line), err=True)

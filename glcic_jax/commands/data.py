"""`glcic data`: checks a data set, prepares a TFDS data set."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from glcic_jax.command_line import FiniteFloat, UserPath

_FRACTION = FiniteFloat(0, 1, max_open=True)


@click.group()
def data() -> None:
    """Check and prepare training data."""


@data.command()
@click.argument("path", type=UserPath())
@click.option("--processes", type=click.IntRange(1), help="Reading processes.  [default: one per core]")
@click.option(
    "--list",
    "list_file",
    type=UserPath(),
    help="Write all unreadable images to this file; -: stdout.",
)
@click.option("--json", "json_file", type=UserPath(), help="Write the report to this file; -: stdout.")
@click.option(
    "--image-size",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Side of the training crops in pixels.",
)
@click.option(
    "--validation-fraction",
    type=_FRACTION,
    default=0.02,
    show_default=True,
    help="Fraction of a folder held out for validation.",
)
@click.option(
    "--max-skipped-fraction",
    type=_FRACTION,
    default=0.01,
    show_default=True,
    help="Training stops beyond this fraction of unreadable images.",
)
def check(path: Path, **options: Any) -> None:
    """Read every image of a folder or of a prepared TFDS data set, as training does.

    PATH is a folder of images, the directory of a prepared version, or a directory with one prepared data set.

    Reports counts, sizes, unreadable images with the reason, and the mean pixel. The last three options mean the
    same as in config.data. Exit code: 0 if all images can be read, 1 if some cannot, 2 if there are none.
    """
    from glcic_jax.data.check import check_data

    sys.exit(0 if check_data(path, **options) else 1)


@data.command()
@click.argument("name")
@click.option(
    "--from",
    "source",
    type=UserPath(),
    help="A folder with downloaded archives, or with the data set prepared as TFRecord.",
)
@click.option(
    "--data-dir", default="", help="TFDS's data directory.  [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]"
)
def prepare(name: str, source: Path | None, data_dir: str) -> None:
    """Prepare a TFDS data set as array_record; needs TensorFlow (pip install 'glcic-jax[prepare]').

    NAME is places365_small, celeb_a, cycle_gan/facades or any other data set of TFDS, optionally with :VERSION.
    Missing archives are downloaded. A data set prepared as TFRecord is converted.
    """
    from glcic_jax.data.prepare import prepare as prepare_data_set
    from glcic_jax.data.prepare import training_command

    try:
        directory = prepare_data_set(name, data_dir, source, click.echo)
    except KeyboardInterrupt:
        click.echo("\nstopped; the same command continues with the finished downloads", err=True)
        os._exit(130)  # sys.exit waits for TFDS's threads, which finish their downloads.
    click.echo(f"{directory} is ready. To train on it:")
    click.echo(training_command(name, directory, data_dir))

"""`glcic data`: check a data set, prepare one from TFDS."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

_FRACTION = click.FloatRange(0, 1, max_open=True)


@click.group()
def data() -> None:
    """Check and prepare training data."""


@data.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--processes", type=click.IntRange(1), help="How many read at a time; by default one for each core.")
@click.option(
    "--list", "list_file", type=click.Path(path_type=Path), help="Write all unreadable images here; -: stdout."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the report here too; -: stdout.")
@click.option(
    "--image-size",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Side of training's crops, in pixels.",
)
@click.option(
    "--validation-fraction",
    type=_FRACTION,
    default=0.02,
    show_default=True,
    help="Share of a folder to be held out.",
)
@click.option(
    "--max-skipped-fraction", type=_FRACTION, default=0.01, show_default=True, help="Beyond it training stops."
)
def check(path: Path, **options: Any) -> None:
    """Read every image of a folder, or of a prepared TFDS data set, as training does.

    PATH of a data set is its version's directory, or one above where that holds no other.

    Shows counts, sizes, what cannot be read and why, and the mean pixel. The last three options are training's
    --config.data.image_size, validation_fraction and max_skipped_fraction. Exits with 0 where all images can be
    read, with 1 where some cannot, with 2 where there are none.
    """
    with _stoppable("stopped"):
        from glcic_jax.data.check import check_data

        everything_read = check_data(path.expanduser(), **options)
    sys.exit(0 if everything_read else 1)


@data.command()
@click.argument("name")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="A directory with downloaded archives, or with the data set as TFDS prepared it (TFRecord).",
)
@click.option(
    "--data-dir", default="", help="TFDS's data directory.  [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]"
)
def prepare(name: str, source: Path | None, data_dir: str) -> None:
    """Prepare a TFDS data set as array_record, without TensorFlow.

    NAME is places365_small, celeb_a, cycle_gan/facades, ..., or one of them with :VERSION. What is missing is
    downloaded; an interrupted preparation goes on with the same command.
    """
    with _stoppable("stopped; the same command goes on"):
        from glcic_jax.data.preparation.prepare import prepare as prepare_data_set
        from glcic_jax.data.preparation.prepare import training_command
        from glcic_jax.data.tfds import tfds_root

        source = source.expanduser() if source is not None else None
        directory = prepare_data_set(name, tfds_root(data_dir), source, click.echo)
        click.echo(f"{directory} is ready. To train on it:")
        click.echo(training_command(name, directory, data_dir))


@contextlib.contextmanager
def _stoppable(line: str) -> Iterator[None]:
    """Ends with a line and exit code 130 where Ctrl-C is pressed inside."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"\n{line}", err=True)
        sys.exit(130)

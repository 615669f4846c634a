"""The command `glcic generate`. JAX is imported inside it."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import click

from glcic_jax.command_line import UserPath
from glcic_jax.errors import DataError, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

_MOST = 100_000  # Images.
_BATCH = 50  # Images whose features are computed together.


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--count", type=click.IntRange(1, _MOST), default=64, show_default=True, help="Number of images.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of the latents.")
@click.option("-o", "--output", metavar="OUT", type=UserPath(), required=True, help="The file to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["grid", "npy"]),
    default="grid",
    show_default=True,
    help="One picture of all images, or their array [N, S, S, C] uint8.",
)
@click.option(
    "--walk",
    "points",
    metavar="N",
    type=click.IntRange(2, 1_000),
    help="Instead: N images along each line from one of COUNT latents to the next.",
)
@click.option("--fid", metavar="FILE", type=UserPath(), help="Also show the FID from --data, by this network.")
@click.option(
    "--data", metavar="DATA", help="Real images, as those of 'glcic evaluate'; IDX: the validation part."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def generate(
    run: str,
    count: int,
    seed: int,
    output: Path,
    form: str,
    points: int | None,
    fid: Path | None,
    data: str | None,
    overwrite: bool,
) -> None:
    """Draw images with a trained GAN.

    RUN is the workdir of a run, one of its checkpoints, or a file that 'glcic weights export' wrote. The same seed
    gives the same latents, the first ones for any COUNT.
    """
    if output.is_dir():
        raise DataError(f"{printable(str(output))} is a folder: name a file in it")
    if output.exists() and not overwrite:
        raise DataError(f"{printable(str(output))} exists: name another file, or give --overwrite")
    if points is not None and count < 2:
        raise DataError("--walk needs the latents of at least two images: give --count 2 or more")
    if points is not None and (count - 1) * points > _MOST:
        raise DataError(
            f"{count - 1:,} lines of {points:,} images are more than {_MOST:,}: lower --count or --walk"
        )
    if (fid is None) != (data is None) or (fid is not None and points is not None):
        raise DataError("FID needs --fid and --data, and no --walk")
    import jax
    import numpy as np

    from glcic_jax.files import write_atomically
    from glcic_jax.model import gans
    from glcic_jax.pictures import save_image, tile, tile_all
    from glcic_jax.weights import find_generator

    network, variables, _ = find_generator(run).weights
    distance = None if fid is None or data is None else _distance_from(fid, data)  # Fails before the work.
    latents = gans.draw_latents(network, jax.random.key(seed), count)
    if points is None:
        images = gans.generate(network, variables, latents)
    else:
        images = gans.generate_walks(network, variables, latents, points)
    if form == "npy":
        content = io.BytesIO()
        np.save(content, images)
        write_atomically(output, content.getvalue())
    else:
        save_image(tile_all(images) if points is None else tile(list(images.swapaxes(0, 1))), output)
    click.echo(f"written {printable(str(output))}: {' x '.join(map(str, images.shape))}")
    if distance is not None:
        click.echo(distance(images))


def _distance_from(fid: Path, data: str) -> "Callable[[np.ndarray], str]":
    """Opens FID's network and real images; returns a function from images [N, S, S, C] uint8 to a line of text."""
    import numpy as np

    from glcic_jax.data import open_images
    from glcic_jax.evaluation.cropping import centre_square
    from glcic_jax.evaluation.perceptual import fid as room
    from glcic_jax.pictures import load_image

    inception, source = room.load(fid), open_images(data, option="--data ").source

    def show(images: np.ndarray) -> str:
        statistics = [room.Statistics(), room.Statistics()]
        for start in range(0, len(images), _BATCH):
            colour = np.broadcast_to(
                images[start : start + _BATCH], (*images[start : start + _BATCH].shape[:3], 3)
            )
            statistics[0].add(inception.features(colour))
        for start in range(0, len(source), _BATCH):
            real = (
                load_image(source.read(index), source.name(index))
                for index in range(start, min(start + _BATCH, len(source)))
            )
            squares = np.stack([centre_square(image, images.shape[1]) for image in real])
            statistics[1].add(inception.features(squares))
        distance = room.frechet_distance(*statistics)
        note = room.bias_note(min(len(images), len(source)))
        return f"FID from {len(source):,} images of {data}: {distance:.2f}" + (f" ({note})" if note else "")

    return show

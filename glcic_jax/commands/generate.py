"""The command `glcic generate`. JAX is imported inside it."""

import io
from pathlib import Path

import click

from glcic_jax.command_line import UserPath
from glcic_jax.errors import DataError, printable

_MOST = 100_000  # Images.


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
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def generate(
    run: str, count: int, seed: int, output: Path, form: str, points: int | None, overwrite: bool
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
    import jax
    import numpy as np

    from glcic_jax.files import write_atomically
    from glcic_jax.model import gans
    from glcic_jax.pictures import save_image, tile, tile_all
    from glcic_jax.weights import find_generator

    network, variables, _ = find_generator(run).weights
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

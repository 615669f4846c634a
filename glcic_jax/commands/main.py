"""The `glcic` command. JAX is imported inside the commands to keep `glcic --help` fast."""

from pathlib import Path

import click

from glcic_jax import __version__
from glcic_jax.command_line import UserPath, run
from glcic_jax.commands.complete import complete
from glcic_jax.commands.data import data
from glcic_jax.commands.doctor import doctor
from glcic_jax.commands.evaluate import compare, evaluate
from glcic_jax.commands.generate import generate
from glcic_jax.commands.masks import masks
from glcic_jax.commands.serve import serve
from glcic_jax.commands.train import train
from glcic_jax.commands.weights import export, weights


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="glcic")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Image completion with GLCIC."""
    del debug  # `command_line.run` reads it from sys.argv, because errors propagate out of click.


for command in (complete, data, weights, export, generate, masks, evaluate, compare, serve, train, doctor):
    cli.add_command(command)


@cli.command()
@click.argument("workdir", type=UserPath())
def inspect(workdir: Path) -> None:
    """Show a run's newest checkpoint: step, data, sizes, metrics, versions."""
    import jax

    from glcic_jax.weights.from_run import restore_network

    variables, meta = restore_network(workdir)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    click.echo(f"step        {meta['step']}")
    click.echo(f"data        {meta['config']['data']['source']}")
    click.echo(f"image size  {meta['config']['data']['image_size']}")
    click.echo(f"parameters  {parameters}")
    if "mean_pixel" in meta:
        click.echo(f"mean pixel  {', '.join(f'{value:.4f}' for value in meta['mean_pixel'])}")
    for name, value in meta["metrics"].items():
        click.echo(f"{name:11} {value:.4f}")
    for name, version in meta["versions"].items():
        click.echo(f"{name:16} {version}")


def main() -> None:
    """Entry point of `glcic`."""
    run(cli)

"""How fast it is: `python -m glcic_jax.benchmark --help`. Figures for the README come from here.

Every command prints what it ran on, and a Markdown table. JAX is imported inside the commands.
"""

import math
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from glcic_jax.benchmark.common import ARGUMENTS
from glcic_jax.errors import UserError, one_line, printable

_COUNT = click.IntRange(1)


class _Positive(click.FloatRange):
    """Finite numbers above 0: to a range alone, "nan" is one."""

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


class _OneLineErrors(click.Group):
    """A group whose errors are one line on stderr, and which remembers the command line."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        given = list(args)
        context = super().make_context(info_name, args, *rest, **extra)
        context.meta[ARGUMENTS] = given
        return context

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            return self._end(ctx, error.format_message(), error.exit_code)
        except UserError as error:
            return self._end(ctx, str(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            click.echo("\nstopped", err=True)
            ctx.exit(130)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            return self._end(
                ctx, f"{type(error).__name__}: {one_line(error)} (unexpected: --debug shows where)", 1
            )

    @staticmethod
    def _end(context: click.Context, message: str, code: int) -> None:
        click.echo(f"error: {printable(message)}", err=True)
        context.exit(code)


@click.group(cls=_OneLineErrors, context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show where an unexpected error comes from.")
def cli(debug: bool) -> None:
    """How fast it is, as Markdown tables."""
    del debug  # The group itself looks for it.


@cli.command()
@click.option("--config", "config_path", default="configs/joint.py", help="Whose sizes are taken.")
@click.option(
    "--batch-size", type=_COUNT, help="Images per step over all devices; the configuration's if not given."
)
@click.option("--dtypes", default="float32,bfloat16", help="Types of the arithmetic, joined by commas.")
@click.option("--steps", type=_COUNT, default=20, help="Updates timed, after two that are not.")
@click.option("--agree/--no-agree", default=True, help="First compare a float32 update with the CPU's.")
@click.option(
    "--trace", type=click.Path(path_type=Path), help="Write a profile of a few steps into this directory."
)
@click.option(
    "--matrix-side",
    type=_COUNT,
    help="Side of the matrices to compare with; 8192, and none on a CPU, if not given.",
)
def phases(**options: Any) -> None:
    """One update of each phase: images/s, time, TFLOP/s, memory."""
    from glcic_jax.benchmark.phases import print_phases

    print_phases(**options)


@cli.command()
@click.option(
    "--config", "config_path", default="configs/joint.py", help="Whose options are taken, but for sizes."
)
@click.option("--size", type=_COUNT, default=256, help="Side of the images in the rows of C alone.")
@click.option("--batch-size", type=_COUNT, default=2, help="How many of them.")
@click.option("--joint-size", type=_COUNT, default=128, help="Side of the images of the joint step.")
@click.option("--joint-batch-size", type=_COUNT, default=4, help="How many of them.")
@click.option("--picture", type=_COUNT, default=512, help="Side of the picture to complete.")
@click.option("--width", type=_Positive(), default=1.0, help="Of the networks.")
@click.option("--rounds", type=_COUNT, default=7, help="How often each is run; medians are printed.")
@click.option(
    "--torch/--no-torch", "with_torch", default=True, help="Compare with PyTorch, which has to be there."
)
def cpu(config_path: str, rounds: int, with_torch: bool, **sizes: Any) -> None:
    """The networks on a CPU, beside the same in PyTorch."""
    from glcic_jax.benchmark.cpu.compare import Sizes, print_cpu

    print_cpu(config_path, Sizes(**sizes), rounds, with_torch)


@cli.command("input")
@click.option("--config", "config_path", default="configs/joint.py", help="Whose crops are made.")
@click.option(
    "--source", type=click.Path(path_type=Path), help="A folder of photographs; made from samples if not given."
)
@click.option("--files", type=_COUNT, default=300, help="How many JPEG files are made.")
@click.option("--images", type=_COUNT, default=2000, help="How many are timed with each number of threads.")
@click.option(
    "--threads", default="", help="Numbers of threads, joined by commas; 1, 2, 4 ... cores if not given."
)
@click.option("--batch-size", type=_COUNT, help="Images of a batch; the configuration's if not given.")
def input_(**options: Any) -> None:
    """The input pipeline alone, from JPEG files to batches."""
    from glcic_jax.benchmark.input import print_input

    print_input(**options)


@cli.command()
@click.option("--config", "config_path", default="configs/quickstart.py", help="Whose sizes are taken.")
@click.option("--batch-size", type=_COUNT, default=4, help="Images per step on each device.")
@click.option("--devices", default="1,2,4", help="Numbers of simulated devices, joined by commas.")
@click.option("--steps", type=_COUNT, default=10, help="Updates timed, after two that are not.")
@click.option(
    "--step-ms",
    type=_Positive(),
    default=86.0,
    help="Of a step beside the communication's.",
)
def scale(**options: Any) -> None:
    """Several devices: time, copies, compilations, and a calculation of what they exchange."""
    from glcic_jax.benchmark.scale import print_scale

    print_scale(**options)


@cli.command()
@click.option("--config", "config_path", default="configs/quickstart.py", help="Whose first joint step is made.")
@click.option("--weights", type=click.Path(path_type=Path), help="A safetensors file; new weights if not given.")
@click.option("--size", type=_COUNT, default=512, help="Side of the picture to complete.")
@click.option(
    "--rounds", type=_COUNT, default=5, help="How often each is run, but for cold starts; medians are printed."
)
def start(**options: Any) -> None:
    """From a new process to the help, the first step, the first picture."""
    from glcic_jax.benchmark.start import print_start

    print_start(**options)


@cli.command()
@click.option("--config", "config_path", default="configs/joint.py", help="Whose sizes are taken.")
@click.option("--image-size", type=click.IntRange(min=12), help="Side of the crops; holes follow.")
@click.option("--width", type=_Positive(), help="Of both networks.")
@click.option("--dtypes", default="float32,bfloat16", help="Types of the arithmetic, joined by commas.")
@click.option("--remats", default="none,activations,stages", help="Values of config.remat, joined by commas.")
@click.option("--phases", default="completion,discriminator,joint", help="Phases, joined by commas.")
@click.option("--batches", default="2,6", help="The two batch sizes that the line is drawn through.")
@click.option("--trial", is_flag=True, help="Also find the largest batch that runs on the GPU at hand.")
def memory(**options: Any) -> None:
    """The memory of one update of each phase, and the largest batch on cards of 16 to 141 GB."""
    from glcic_jax.benchmark.memory import print_memory

    print_memory(**options)


if __name__ == "__main__":
    sys.exit(cli(prog_name="python -m glcic_jax.benchmark"))

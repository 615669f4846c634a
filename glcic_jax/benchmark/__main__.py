"""`python -m glcic_jax.benchmark`: its commands and options. JAX is imported when a command runs."""

from pathlib import Path
from typing import Any

import click

from glcic_jax.command_line import FiniteFloat, run

_COUNT = click.IntRange(1)
_POSITIVE = FiniteFloat(0, min_open=True)
_FILE = click.Path(path_type=Path, dir_okay=False)
_SIZES_HELP = "Configuration that gives the sizes."
_BATCH_HELP = "Images per step over all devices.  [default: configured]"
_DTYPES_HELP = "Types of the arithmetic, comma-separated."


class _Counts(click.ParamType):
    """Comma-separated whole numbers above 0."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = value.split(",")
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a list of whole numbers above 0, such as 2,6", param, ctx)
        return tuple(map(int, parts))


@click.group(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Measure speed and memory. Each command prints hardware, versions, date and a Markdown table."""
    del debug  # `command_line.run` looks for it: errors leave click behind.


@cli.command()
@click.option("--config", "config_path", default="configs/joint.py", help=_SIZES_HELP)
@click.option("--batch-size", type=_COUNT, help=_BATCH_HELP)
@click.option("--dtypes", default="float32,bfloat16", help=_DTYPES_HELP)
@click.option("--phases", help="Phases in the order to time them, comma-separated.  [default: all configured]")
@click.option("--seconds", type=_POSITIVE, default=10, help="About as long are updates of each phase timed.")
@click.option("--agree/--no-agree", default=True, help="First compare a float32 update with the CPU's.")
@click.option(
    "--trace", type=click.Path(path_type=Path, file_okay=False), help="Write a profile into this directory."
)
@click.option(
    "--matrix-side",
    type=_COUNT,
    help="Side of the matrices whose product is the reference rate.  [default: 8192; on a CPU none]",
)
def phases(**options: Any) -> None:
    """One update of each phase: images/s, time, TFLOP/s, memory."""
    from glcic_jax.benchmark.phases import print_phases

    print_phases(**options)


@cli.command()
@click.option("--matrix-side", type=_COUNT, help="Side of the matrices.  [default: 8192; on a CPU 1024]")
@click.option("--copy-mib", type=_COUNT, help="Size of the array to copy.  [default: 4096; on a CPU 128]")
def ceilings(**options: Any) -> None:
    """The rates of a matrix product and of a copy."""
    from glcic_jax.benchmark.ceilings import print_ceilings

    print_ceilings(**options)


@cli.command()
@click.option("--config", "config_path", default="configs/joint.py", help=_SIZES_HELP)
@click.option("--batch-size", type=_COUNT, help=_BATCH_HELP)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="bfloat16", help="Type to time.")
@click.option("--layers", help="Layers, comma-separated, such as C.conv1,D.conv6.  [default: all]")
@click.option("--way", help="plain: XLA's own convolutions and gradients.  [default: the device's way]")
@click.option("--references", type=_FILE, help="Compare with these references instead of timing.")
@click.option("--make-references", type=_FILE, help="Compute references, best on a CPU, and write them.")
def layers(**options: Any) -> None:
    """Each kind of convolution, forward and both gradients: time and TFLOP/s, or agreement with references."""
    from glcic_jax.benchmark.layers import print_layers

    print_layers(**options)


@cli.command("first-gpu")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New directory of the results.")
@click.option("--seconds", type=_POSITIVE, default=570, help="Limit of everything.")
@click.option("--patience", type=_POSITIVE, default=1, help="Factor on the limits of parts and rows.")
@click.option(
    "--parts",
    default="ceilings,layers,agreement,phases,traces,deterministic,plain layers,training",
    help="Parts, comma-separated, in the order to run them.",
)
@click.option("--config", "config_path", default="configs/joint.py", help=_SIZES_HELP)
@click.option("--batch-size", type=_COUNT, help=_BATCH_HELP)
@click.option("--references", type=_FILE, help="File of layers --make-references, for the agreement.")
@click.argument("training", nargs=-1, type=click.UNPROCESSED)
def first_gpu(**options: Any) -> None:
    """All that is to be measured on a new device, in limited time; results are on the disk as they come.

    TRAINING: arguments of main.py, after --, for a training that is stopped and resumed.
    """
    from glcic_jax.benchmark.first_gpu import print_first_gpu

    print_first_gpu(**options)


@cli.command()
@click.option(
    "--config", "config_path", default="configs/joint.py", help="Configuration that gives all but the sizes."
)
@click.option("--size", type=_COUNT, default=256, help="Side of the images in the rows of C alone.")
@click.option("--batch-size", type=_COUNT, default=2, help="Batch size in the rows of C alone.")
@click.option("--joint-size", type=_COUNT, default=128, help="Side of the images of the joint step.")
@click.option("--joint-batch-size", type=_COUNT, default=4, help="Batch size of the joint step.")
@click.option("--picture", type=_COUNT, default=512, help="Side of the picture to complete.")
@click.option("--width", type=_POSITIVE, default=1.0, help="Multiplies the features of both networks.")
@click.option("--rounds", type=_COUNT, default=7, help="Runs of each row; medians are printed.")
@click.option("--torch/--no-torch", "with_torch", default=True, help="Compare with PyTorch (must be installed).")
def cpu(config_path: str, rounds: int, with_torch: bool, **sizes: Any) -> None:
    """The networks on a CPU, beside the same networks in PyTorch."""
    from glcic_jax.benchmark.cpu.compare import print_cpu

    print_cpu(config_path, sizes, rounds, with_torch)


@cli.command("input")
@click.option("--config", "config_path", default="configs/joint.py", help="Configuration that gives the crops.")
@click.option(
    "--source", type=click.Path(path_type=Path), help="Folder of photographs.  [default: generated JPEG files]"
)
@click.option("--files", type=_COUNT, default=300, help="Number of generated JPEG files.")
@click.option("--images", type=_COUNT, default=2000, help="Images timed with each number of threads.")
@click.option("--threads", type=_Counts(), help="Numbers of threads, comma-separated.  [default: 1,2,4...cores]")
@click.option("--batch-size", type=_COUNT, help="Images per batch.  [default: configured]")
def input_(**options: Any) -> None:
    """The input pipeline alone, from JPEG files to batches."""
    from glcic_jax.benchmark.input import print_input

    print_input(**options)


@cli.command()
@click.option("--target", default="h100", help="h100 or h200, v5e or v6e, and their number: h100:8, v5e:4.")
@click.option("--config", "config_path", default="configs/joint.py", help=_SIZES_HELP)
@click.option("--batch-size", type=_COUNT, help=_BATCH_HELP)
@click.option("--image-size", type=click.IntRange(min=12), help="Side of the crops.  [default: configured]")
@click.option("--dtypes", default="float32,bfloat16", help=_DTYPES_HELP)
@click.option("--remats", default="none", help="Values of config.remat, comma-separated.")
@click.option("--phases", default="completion,discriminator,joint", help="Phases, comma-separated.")
@click.pass_context
def ahead(context: click.Context, **options: Any) -> None:
    """Compile for an accelerator that is not there: memory, and what would make the program slow.

    Exits with 1 if something would.
    """
    from glcic_jax.benchmark.ahead import print_ahead

    context.exit(0 if print_ahead(**options) else 1)


@cli.command()
@click.option("--config", "config_path", default="configs/joint.py", help=_SIZES_HELP)
@click.option("--image-size", type=click.IntRange(min=12), help="Side of the crops; holes scale with it.")
@click.option("--width", type=_POSITIVE, help="Multiplies the features of both networks.")
@click.option("--dtypes", default="float32,bfloat16", help=_DTYPES_HELP)
@click.option("--remats", default="none,activations,stages", help="Values of config.remat, comma-separated.")
@click.option("--phases", default="completion,discriminator,joint", help="Phases, comma-separated.")
@click.option("--batches", type=_Counts(), default="16,32", help="Two batch sizes to extrapolate from.")
@click.option("--trial", is_flag=True, help="Also search for the largest batch that runs on this GPU.")
def memory(**options: Any) -> None:
    """The memory of one update of each phase, and the largest batch on cards of 16 to 141 GB."""
    from glcic_jax.benchmark.memory import print_memory

    print_memory(**options)


if __name__ == "__main__":
    run(cli)

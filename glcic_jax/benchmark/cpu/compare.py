"""Compares the networks on a CPU with the same networks in PyTorch; the two sides take turns."""

import contextlib
import importlib.util
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from glcic_jax.benchmark.common import load_config, print_heading, print_table
from glcic_jax.benchmark.cpu.turns import Worker
from glcic_jax.errors import ConfigError, DataError
from glcic_jax.runtime import core_count

_ON_CPU = {"JAX_PLATFORMS": "cpu"}


def print_cpu(config_path: str, sizes: Mapping[str, float], rounds: int, with_torch: bool) -> None:
    """Prints the seconds of each row on both sides and their ratio.

    The ratio is the median over the rounds. In each round one side runs right after the other; which one is first
    alternates.

    Args:
      config_path: Configuration that gives all but the sizes.
      sizes: `size` and `batch_size` of the images in the rows of C alone; `joint_size` and `joint_batch_size` of
        the joint step's, whose local patches are half as large; `picture`, the side of the completed picture;
        `width`, which multiplies the features of both networks.
      rounds: Runs of each row on each side.
      with_torch: Whether PyTorch takes part.

    Raises:
      ConfigError, DataError: Sizes do not fit, or PyTorch is missing (nothing has been printed then); or a side's
        process ended, for example because memory ran out.
    """
    load_config(config_path)
    if sizes["size"] % 4 or sizes["joint_size"] % 16:
        raise ConfigError(
            f"--size {sizes['size']} must be a multiple of 4, --joint-size {sizes['joint_size']} of 16"
        )
    if with_torch and importlib.util.find_spec("torch") is None:
        raise DataError(
            "PyTorch is not installed: pip install 'glcic-jax[benchmark]', or for CPUs alone pip install torch "
            "--index-url https://download.pytorch.org/whl/cpu; --no-torch prints our rows alone"
        )
    alone = f"{sizes['size']} px, batch {sizes['batch_size']}"
    joint = f"{sizes['joint_size']} px, batch {sizes['joint_batch_size']}"
    names = {
        "forward": f"C forward, {alone}",
        "gradient": f"C forward + backward, {alone}",
        "joint": f"joint step, {joint}",
        "picture": f"completing {sizes['picture']} x {sizes['picture']} px",
    }
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        task = json.dumps({"config": config_path, "folder": str(folder), **sizes})
        ours = stack.enter_context(Worker("benchmark.cpu.ours", [task], _ON_CPU))
        ours.ask("ready")
        print_heading("no accelerator", ["torch"] if with_torch else [])
        if not with_torch:
            medians = ((work, statistics.median(ours.timed(work) for _ in range(rounds))) for work in names)
            print_table(["work", "glcic_jax s"], ([names[work], f"{seconds:.4g}"] for work, seconds in medians))
            return
        theirs = stack.enter_context(Worker("benchmark.cpu.pytorch", [str(folder), str(core_count())], {}))
        columns = ["work", "glcic_jax s", "PyTorch s", "ratio", "lowest to highest"]
        columns += ["largest difference", "PyTorch's setting"]
        print_table(columns, _rows(ours, theirs, folder, names, rounds))
    click.echo(
        "\nRatio: our time over PyTorch's. Differences: for pictures in [0, 1] the largest one; for gradients "
        "and losses the relative L2 norm."
    )


def _rows(
    ours: Worker, theirs: Worker, folder: Path, names: Mapping[str, str], rounds: int
) -> Iterator[list[str]]:
    for work, name in names.items():
        setting = theirs.ask("choose_setting", work=work)
        ours.timed(work)  # Both sides have run just before the first round.
        pairs = [_one_round(number, ours, theirs, work) for number in range(rounds)]
        ratios = [mine / other for mine, other in pairs]
        yield [
            name,
            *(f"{statistics.median(times):.4g}" for times in zip(*pairs, strict=True)),
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            f"{_difference(folder, work):.1e}",
            setting,
        ]


def _one_round(number: int, ours: Worker, theirs: Worker, work: str) -> tuple[float, float]:
    """Returns our seconds and theirs; which side is first alternates, so that the order favours neither."""
    if number % 2:
        other = theirs.timed(work)
        return ours.timed(work), other
    return ours.timed(work), theirs.timed(work)


def _difference(folder: Path, work: str) -> float:
    """Returns the largest difference of the two sides' outputs: absolute for pictures, else relative L2 norms.

    Gradients pass 17 normalisations and ReLUs: a single one differs by a thousandth of the largest even between
    float32 and float64.
    """
    import numpy as np

    ours, theirs = (np.load(folder / f"{side}_{work}.npz") for side in ("ours", "theirs"))
    found: list[float] = []
    for name, array in ours.items():
        difference = array - theirs[name]
        if name in ("output", "completed"):
            found.append(float(np.abs(difference).max()))
        else:
            found.append(float(np.linalg.norm(difference) / np.linalg.norm(array)))
    return max(found)

"""Compares the networks on a CPU with the same networks in PyTorch, in one run and by turns."""

import contextlib
import importlib.util
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from glcic_jax.benchmark.common import core_count, load_config, print_heading, print_table
from glcic_jax.benchmark.cpu.turns import Worker
from glcic_jax.errors import ConfigError, DataError

# An accelerator that is there has no part in this.
_ON_CPU = {"JAX_PLATFORMS": "cpu"}


class Sizes(NamedTuple):
    """What is run.

    Attributes:
      size, batch_size: Of the images in the rows of C alone.
      joint_size, joint_batch_size: Of those of the joint step; its local patches are half as large.
      picture: Side of the picture that is completed.
      width: Multiplies the features of both networks; 1: the paper's.
    """

    size: int
    batch_size: int
    joint_size: int
    joint_batch_size: int
    picture: int
    width: float

    def words(self) -> dict[str, str]:
        """The rows, by the name of their work."""
        alone = f"{self.size} px, batch {self.batch_size}"
        return {
            "forward": f"C forward, {alone}",
            "gradient": f"C forward + backward, {alone}",
            "joint": f"joint step between measurements, {self.joint_size} px, batch {self.joint_batch_size}",
            "picture": f"completing {self.picture} x {self.picture} px",
        }


def print_cpu(config_path: str, sizes: Sizes, rounds: int, with_torch: bool) -> None:
    """Prints seconds of each row, of both where PyTorch takes part, and their ratio.

    The ratio is the median of those of the rounds, in each of which one side runs right after the other; which is
    the first alternates.

    Args:
      config_path: Whose options are taken, but for the sizes.
      sizes: What is run.
      rounds: How often each row is run by each side.
      with_torch: Whether PyTorch takes part.

    Raises:
      ConfigError, DataError: Sizes do not fit, or PyTorch is not there; nothing has been printed then.
      DataError: A side's process has ended, for want of memory for example.
    """
    load_config(config_path)
    if sizes.size % 4 or sizes.joint_size % 16:
        raise ConfigError(f"--size {sizes.size} has to be a multiple of 4, --joint-size {sizes.joint_size} of 16")
    if with_torch and importlib.util.find_spec("torch") is None:
        raise DataError(
            "PyTorch is not installed: pip install 'glcic-jax[benchmark]', or for CPUs alone pip install torch "
            "--index-url https://download.pytorch.org/whl/cpu; --no-torch prints our rows alone"
        )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        task = {"config": config_path, "folder": str(folder), **sizes._asdict()}
        ours = stack.enter_context(Worker("benchmark.cpu.ours", [json.dumps(task)], _ON_CPU))
        ours.ask("ready")
        print_heading("no device but these", ["torch"] if with_torch else [])
        if not with_torch:
            print_table(["work", "glcic_jax s"], _our_rows(ours, sizes, rounds))
            return
        theirs = stack.enter_context(Worker("benchmark.cpu.pytorch", [str(folder), str(core_count())], {}))
        columns = [
            "work",
            "glcic_jax s",
            "PyTorch s",
            "ratio",
            "of the rounds",
            "largest difference",
            "PyTorch's setting",
        ]
        print_table(columns, _rows(ours, theirs, folder, sizes, rounds))
    click.echo(
        "\nRatio: our time over PyTorch's. Differences: the largest of pictures in [0, 1]; of gradients and "
        "losses relative L2 norms."
    )


def _our_rows(ours: Worker, sizes: Sizes, rounds: int) -> Iterator[list[str]]:
    for work, words in sizes.words().items():
        yield [words, f"{statistics.median(ours.timed(work) for _ in range(rounds)):.4g}"]


def _rows(ours: Worker, theirs: Worker, folder: Path, sizes: Sizes, rounds: int) -> Iterator[list[str]]:
    for work, words in sizes.words().items():
        setting = theirs.ask("settle", work=work)
        ours.timed(work)  # Both have just run once.
        pairs = [_one_round(number, ours, theirs, work) for number in range(rounds)]
        ratios = [mine / other for mine, other in pairs]
        yield [
            words,
            *(f"{statistics.median(times):.4g}" for times in zip(*pairs, strict=True)),
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            f"{_difference(folder, work):.1e}",
            setting,
        ]


def _one_round(number: int, ours: Worker, theirs: Worker, work: str) -> tuple[float, float]:
    """Seconds of ours and of theirs; the first alternates, so that its place favours neither."""
    if number % 2:
        other = theirs.timed(work)
        return ours.timed(work), other
    return ours.timed(work), theirs.timed(work)


def _difference(folder: Path, work: str) -> float:
    """The largest difference of the two sides' outputs: of pictures in [0, 1], of all else relative, by L2 norms.

    Gradients have passed 17 normalisations and ReLUs: a single one of them is off by a thousandth of the largest
    between float32 and float64 already.
    """
    import numpy as np

    ours, theirs = (np.load(folder / f"{side}_{work}.npz") for side in ("ours", "theirs"))
    found: list[float] = []
    for name, array in ours.items():
        apart = array - theirs[name]
        if name in ("output", "completed"):
            found.append(float(np.abs(apart).max()))
        else:
            found.append(float(np.linalg.norm(apart) / np.linalg.norm(array)))
    return max(found)

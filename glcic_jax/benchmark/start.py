"""Times what a person waits for first: help, the first step of a training, the first picture.

Each is a process of its own, from its start to its end; the work of two of them is in this file too.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from glcic_jax.benchmark.common import (
    devices_here,
    fresh_state,
    load_config,
    noise,
    print_heading,
    print_table,
    run_module,
)
from glcic_jax.errors import ConfigError

_HELP = "from glcic_jax.commands.main import main; main()"


def print_start(config_path: str, weights: Path | None, size: int, rounds: int) -> None:
    """Prints how long each start takes, with an empty and with a full compile cache.

    Args:
      config_path: Whose first joint step is timed.
      weights: Of the network that completes the picture; None: new ones of a quarter of the width.
      size: Side of the picture, in pixels.
      rounds: How often all but the cold starts are timed; the median counts.

    Raises:
      ConfigError, WeightsError: They cannot be used; nothing has been printed then.
    """
    config = load_config(config_path)
    if not config.discriminator.branches:
        raise ConfigError(
            f"{config_path}: trains no discriminator, and so has no joint step: give another --config"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = weights or _make_weights(Path(folder) / "new.safetensors")
        if weights is not None:
            from glcic_jax.weights.file import load_weights

            load_weights(weights)
        step = "first joint step"
        if config.balance.measure_every > 1:  # A training compiles another program for its second joint step.
            step += " (the program that measures, not the one between)"
        tasks: dict[str, dict[str, Any]] = {
            f"{step}, {Path(config_path).stem}": {"work": "step", "config": config_path},
            f"first picture, {size} x {size} px": {"work": "picture", "weights": str(path), "size": size},
        }
        print_heading(run_module("benchmark.start", {"work": "devices"}, {})["devices"], ["click"])
        print_table(["from a new process", "compile cache", "s"], _rows(tasks, Path(folder), rounds))


def _rows(tasks: dict[str, dict[str, Any]], folder: Path, rounds: int) -> Iterator[list[str]]:
    seconds = [_timed_help() for _ in range(rounds)]
    yield ["`glcic --help`", "none needed", f"{statistics.median(seconds):.2f}"]
    for number, (name, task) in enumerate(tasks.items()):
        environment = {"JAX_COMPILATION_CACHE_DIR": str(folder / f"cache{number}")}
        for state, times in (("cold", 1), ("warm", rounds)):
            seconds = []
            for _ in range(times):
                begun = time.perf_counter()
                run_module("benchmark.start", task, environment)
                seconds.append(time.perf_counter() - begun)
            yield [name, state, f"{statistics.median(seconds):.2f}"]


def _timed_help() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", _HELP, "--help"], env=os.environ, capture_output=True, check=True)
    return time.perf_counter() - begun


def _make_weights(path: Path) -> Path:
    """Writes untrained weights of a quarter of the width; arithmetic takes as long on them."""
    import jax
    import jax.numpy as jnp

    from glcic_jax.model.networks import CompletionNetwork
    from glcic_jax.weights.file import Description, Weights, save_weights

    network = CompletionNetwork(width=0.25)
    variables = jax.device_get(jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 4))))
    description = Description("mean_subtracted", (0.45, 0.45, 0.45), 64, (16, 28), "made for a benchmark")
    save_weights(Weights(network, variables, description), path)
    return path


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Does what the process is timed at.

    Args:
      task: `work`: "devices", "step" (with `config`) or "picture" (with `weights` and `size`).
    """
    if task["work"] == "step":
        return _first_step(task["config"])
    if task["work"] == "picture":
        return _first_picture(Path(task["weights"]), task["size"])
    return {"devices": devices_here()}


def _first_step(config_path: str) -> dict[str, Any]:
    import jax

    from glcic_jax.training.distributed import AXIS, pmap_step, replicate, shard_batch
    from glcic_jax.training.steps import joint_step

    config = load_config(config_path)
    state = replicate(fresh_state(config, AXIS))
    _, metrics = pmap_step(joint_step)(state, shard_batch(noise(config)), jax.random.key(1))
    return {"loss": float(metrics.reconstruction_loss)}


def _first_picture(weights: Path, size: int) -> dict[str, Any]:
    import numpy as np

    from glcic_jax.completion.completer import Completer

    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    hole = np.zeros((size, size), bool)
    hole[size // 4 : size // 2, size // 4 : size // 2] = True
    filling = Completer.load(weights).fill(pixels, hole)
    return {"mean": float(filling.pixels.mean())}


if __name__ == "__main__":
    click.echo(json.dumps(work(json.loads(sys.argv[1]))))

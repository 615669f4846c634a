"""What all benchmarks share: the configuration, noise to work on, the first line, and tables."""

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from glcic_jax.errors import ConfigError, DataError, last_error_line, one_line, printable
from glcic_jax.runtime import is_out_of_device_memory

ARGUMENTS = "glcic_jax.benchmark.__main__.arguments"  # Where click's context keeps the command line.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

MEASURING = "joint, measuring"


def load_config(path: str, batch_size: int | None = None) -> Any:
    """Runs a configuration file.

    Args:
      path: A file as those in configs/.
      batch_size: Put in place of the configuration's; None: its own.

    Raises:
      ConfigError: It is not there, or fails.
    """
    spec = importlib.util.spec_from_file_location("benchmark_config", Path(path))
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ConfigError(
            f"{printable(path)}: no such configuration; run this where configs/ is, or give --config"
        )
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except SystemExit as error:
        raise ConfigError(f"{printable(path)}: the configuration ends the program ({error})") from error
    except Exception as error:  # A configuration is a program: it can fail in any way.
        raise ConfigError(f"{printable(path)}: the configuration fails ({one_line(error)})") from error
    if not isinstance(getattr(config, "batch_size", None), int):
        raise ConfigError(
            f"{printable(path)}: get_config() does not return a configuration as configs/common.py does"
        )
    config.batch_size = batch_size or config.batch_size
    if config.batch_size < 1:
        raise ConfigError(f"{printable(path)}: batch_size is {config.batch_size}: give --batch-size, at least 1")
    return config


def check_batch_size(batch_size: int, devices: int) -> None:
    """Raises ConfigError where a batch cannot be dealt out evenly."""
    if batch_size % devices:
        raise ConfigError(
            f"a batch of {batch_size} cannot be shared by {devices} devices: "
            f"give --batch-size {devices * max(1, batch_size // devices)}"
        )


def fresh_state(config: Any, axis_name: str | None) -> Any:
    """A state at step 0, as training begins with; `axis_name` as in `state.create_spec`."""
    import jax
    import jax.numpy as jnp

    from glcic_jax.training.state import create_spec, create_state

    spec = create_spec(config, axis_name)
    return create_state(spec, jax.random.key(0), config.data.image_size, jnp.full((3,), 0.45))


def noise(config: Any) -> dict[str, Any]:
    """A batch of noise, as `devices.share` takes it: arithmetic takes as long on noise."""
    import numpy as np

    size = config.data.image_size
    shape = (config.batch_size, size, size, 3)
    return {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}


def trained_steps(config: Any) -> dict[str, Callable[..., Any]]:
    """The steps that a configuration's networks can train with, by name.

    Those of a phase begin with its name; `MEASURING` is the joint step that measures the gradients' norms.
    """
    from glcic_jax.training.steps import STEPS, STEPS_BETWEEN

    if not config.discriminator.branches:
        return {"completion": STEPS["completion"]}
    if config.balance.measure_every == 1:
        return STEPS
    # The measuring one first: the other takes its norms from it.
    *others, joint = STEPS
    return {**{name: STEPS[name] for name in others}, MEASURING: STEPS[joint], joint: STEPS_BETWEEN[joint]}


def with_norms(state: Any) -> Any:
    """A state whose balance remembers norms of 1, so that the adversarial gradient has a weight of 1."""
    import jax.numpy as jnp

    from glcic_jax.model.gradient_balance import BalanceState

    # Two arrays: one and the same could not be handed over to a step twice.
    norms = {name: jnp.ones((), jnp.float32) for name in ("reconstruction_norm", "adversarial_norm")}
    chain = tuple(
        part._replace(**norms) if isinstance(part, BalanceState) else part
        for part in state.completion.optimizer_state
    )
    return state.replace(completion=state.completion.replace(optimizer_state=chain))


@contextlib.contextmanager
def device_memory_for(what: str, remedy: str) -> Iterator[None]:
    """Says what did not fit the devices' memory, and how to mend it.

    Raises:
      ConfigError: XLA found too little memory inside.
    """
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_device_memory(error):
            raise
        raise ConfigError(f"too little memory on the device for {what}: {remedy} ({one_line(error)})") from error


def core_count() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Only Linux tells.
        return os.cpu_count() or 1


def devices_here() -> str:
    """JAX's devices in words, as "2 x NVIDIA H200"; begins to use them."""
    import jax

    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def print_heading(devices: str, packages: Sequence[str] = ()) -> None:
    """Prints the first line: hardware, versions, date, command.

    Args:
      devices: In words, as `devices_here` has them.
      packages: Whose versions count here beside those that always do.
    """
    versions = [f"Python {platform.python_version()}"]
    for package in (*_PACKAGES, *packages):
        versions.append(f"{package} {importlib.metadata.version(package)}")
    arguments = click.get_current_context().meta.get(ARGUMENTS, sys.argv[1:])
    command = printable(shlex.join(["python", "-m", "glcic_jax.benchmark", *arguments]))
    today = datetime.datetime.now(datetime.UTC).date()
    click.echo(f"{_processor()}, {core_count()} cores, {devices}; {', '.join(versions)}; {today}; `{command}`\n")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a Markdown table, each row as soon as it is there."""
    click.echo(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        click.echo(f"| {' | '.join(row)} |")


def run_module(module: str, task: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Runs one of the package's modules in a process of its own.

    Args:
      module: Its name, as "benchmark.scale". Called with the task as JSON, it prints JSON on its last line.
      task: What it is to do.
      environment: Set beside this process's.

    Raises:
      DataError: It fails.
    """
    command = [sys.executable, "-m", f"glcic_jax.{module}", json.dumps(task)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(
            f"a process of the benchmark ended with code {done.returncode}: {last_error_line(done.stderr)}"
        )
    return json.loads(done.stdout.splitlines()[-1])

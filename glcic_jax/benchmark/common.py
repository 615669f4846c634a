"""Shared by the benchmarks: configuration, state, a batch of noise, the heading and the table."""

import datetime
import importlib.metadata
import importlib.util
import itertools
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from glcic_jax.errors import ConfigError, lookup, one_line, printable
from glcic_jax.runtime import core_count

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def load_config(path: str, batch_size: int | None = None) -> Any:
    """Runs a configuration file such as those in configs/.

    Args:
      path: The file.
      batch_size: Replaces the configuration's unless None.

    Raises:
      ConfigError: The file does not exist or does not return a configuration.
    """
    name = printable(path)
    spec = importlib.util.spec_from_file_location("benchmark_config", Path(path))
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ConfigError(f"{name}: no such configuration: run this where configs/ is, or give --config")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except SystemExit as error:
        raise ConfigError(f"{name}: the configuration ends the program ({error})") from error
    except Exception as error:  # A configuration is a program and may raise anything.
        raise ConfigError(f"{name}: the configuration fails ({one_line(error)})") from error
    if not isinstance(getattr(config, "batch_size", None), int):
        raise ConfigError(f"{name}: get_config() does not return a configuration as configs/common.py does")
    config.batch_size = batch_size or config.batch_size
    if config.batch_size < 1:
        raise ConfigError(f"{name}: batch_size is {config.batch_size}: give --batch-size, at least 1")
    return config


def update_cases(
    config: Any, phases: str, dtypes: str, remats: str, axis_name: str | None = None
) -> Iterator[tuple[str, str, str, Any]]:
    """Yields phase, type of the arithmetic, remat and `TrainingSpec` of each update to compile.

    Phase 2, which does not train C, comes once for each type, without a remat.

    Args:
      config: The configuration; its type and remat are replaced.
      phases, dtypes, remats: Comma-separated names.
      axis_name: As in `state.create_spec`.

    Raises:
      ConfigError: A name is unknown, or the configuration has no discriminator to train.
    """
    from glcic_jax.training.tasks.completion import STEPS, create_spec

    first_remat = remats.split(",", maxsplit=1)[0]
    for config.compute_dtype, config.remat in itertools.product(dtypes.split(","), remats.split(",")):
        spec = create_spec(config, axis_name)
        for phase in phases.split(","):
            lookup(STEPS, phase, "phase")
            if phase != "completion" and spec.context_discriminator is None:
                raise ConfigError(f"the configuration has no discriminator, so there is no {phase} phase")
            if phase != "discriminator":
                yield phase, config.compute_dtype, config.remat, spec
            elif config.remat == first_remat:
                yield phase, config.compute_dtype, "", spec


def fresh_state(config: Any, axis_name: str | None) -> Any:
    """Returns the `TrainState` of step 0; `axis_name` is as in `state.create_spec`."""
    import jax
    import jax.numpy as jnp

    from glcic_jax.training.tasks.completion import create_spec, create_state

    spec = create_spec(config, axis_name)
    return create_state(spec, jax.random.key(0), config.data.image_size, jnp.full((3,), 0.45))


def noise_batch(config: Any) -> dict[str, Any]:
    """Returns a batch of noise, {"image": [N, H, W, 3] uint8}."""
    import numpy as np

    shape = (config.batch_size, config.data.image_size, config.data.image_size, 3)
    return {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}


def batch_shapes(batch_size: int, image_size: int) -> dict[str, Any]:
    """Returns the shapes of a batch that a step takes on one device."""
    import jax
    import numpy as np

    return {
        "image": jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), np.uint8),
        "place": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }


def peak_bytes(plan: Any) -> int:
    """Returns the peak memory of a compiled program, from `compiled.memory_analysis()`."""
    # Aliased: outputs that reuse the memory of donated arguments.
    return (
        plan.argument_size_in_bytes
        + plan.output_size_in_bytes
        + plan.temp_size_in_bytes
        - plan.alias_size_in_bytes
    )


def devices_here() -> str:
    """Describes JAX's devices, e.g. "2 x NVIDIA H200"."""
    import jax

    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def print_heading(devices: str, packages: Sequence[str] = ()) -> None:
    """Prints hardware, versions, date and command on one line.

    Args:
      devices: As `devices_here` describes them.
      packages: Packages whose versions matter in addition to the usual ones.
    """
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{package} {importlib.metadata.version(package)}" for package in (*_PACKAGES, *packages)]
    command = printable(shlex.join(["python", "-m", "glcic_jax.benchmark", *sys.argv[1:]]))
    today = datetime.datetime.now(datetime.UTC).date()
    click.echo(f"{_processor()}, {core_count()} cores, {devices}; {', '.join(versions)}; {today}; `{command}`\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a Markdown table, each row as soon as it is measured."""
    click.echo(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        click.echo(f"| {' | '.join(row)} |")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""Times one update of each phase on JAX's devices, on images of noise."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from glcic_jax.benchmark.ceilings import matrix_rate
from glcic_jax.benchmark.common import (
    batch_shapes,
    devices_here,
    fresh_state,
    load_config,
    noise_batch,
    peak_bytes,
    print_heading,
    print_table,
)
from glcic_jax.errors import ConfigError, lookup, one_line
from glcic_jax.runtime import is_out_of_device_memory

# Steps of each phase and the batch size [Iizuka et al. 2017, Section 4, Algorithm 1].
PAPER_STEPS = {"completion": 90_000, "discriminator": 10_000, "joint": 400_000}
PAPER_BATCH = 96
_MATRIX_SIDE = 8192
_TRACED_STEPS = 3
_REMEDY = "lower --batch-size, or use a configuration with remat = 'activations' or a higher accumulation_steps"


def print_phases(
    config_path: str,
    batch_size: int | None,
    dtypes: str,
    phases: str | None,
    seconds: float,
    agree: bool,
    trace: Path | None,
    matrix_side: int | None,
) -> None:
    """Prints images/s, time, TFLOP/s and memory of one update of each phase.

    Args:
      config_path: Configuration that gives the sizes.
      batch_size: Images per step over all devices; None takes the configuration's.
      dtypes: Types of the arithmetic, comma-separated.
      phases: Phases in the order to time them, comma-separated; None for all that the configuration trains.
      seconds: Approximate time of the timed updates of each phase; a few untimed ones come first.
      agree: Whether to compare a float32 update with the CPU's first.
      trace: Directory for a profile of a few steps of each phase, or None.
      matrix_side: Side of the matrices whose product is the reference rate; None: 8192 on an accelerator, no
        reference on a CPU.

    Raises:
      ConfigError: Sizes or names do not fit (nothing has been printed then), or the devices have too little
        memory (the rows before have been printed then).
    """
    import jax

    from glcic_jax.training.tasks.completion import create_spec
    from glcic_jax.training.updates import COMPUTE_DTYPES

    config, names = load_config(config_path, batch_size), dtypes.split(",")
    for name in names:
        lookup(COMPUTE_DTYPES, name, "type of arithmetic")
    create_spec(config)
    steps = trained_steps(config)
    steps = {name: lookup(steps, name, "phase") for name in (phases.split(",") if phases else steps)}
    devices = jax.device_count()
    if config.batch_size % devices:
        raise ConfigError(
            f"a batch of {config.batch_size} cannot be split over {devices} devices: "
            f"give --batch-size {devices * max(1, config.batch_size // devices)}"
        )
    on_cpu = jax.default_backend() == "cpu"
    matrix_side = matrix_side or (None if on_cpu else _MATRIX_SIDE)
    print_heading(devices_here())
    if agree and not on_cpu:
        _print_agreement(config.copy_and_resolve_references())
    columns = ["phase", "type", "compile s", "ms/step", "images/s", "TFLOP/s", "GiB planned"]
    if matrix_side:
        columns += ["product TFLOP/s", "share"]
    rates: dict[str, dict[str, float]] = {}
    print_table(columns, _rows(config, names, steps, seconds, trace, matrix_side, rates))
    if set(steps) == set(PAPER_STEPS):
        click.echo("")
        columns = ["paper's schedule", "images/s", f"hours for 500,000 x {PAPER_BATCH} images"]
        averages = {name: scheduled_rate(rates[name]) for name in names}
        images = sum(PAPER_STEPS.values()) * PAPER_BATCH
        rows = ([name, f"{rate:.1f}", f"{images / rate / 3600:.1f}"] for name, rate in averages.items())
        print_table(columns, rows)


def scheduled_rate(rates: dict[str, float]) -> float:
    """Returns the average images/s over the paper's schedule, from the images/s of each phase."""
    return sum(PAPER_STEPS.values()) / sum(count / rates[name] for name, count in PAPER_STEPS.items())


def trained_steps(config: Any) -> dict[str, Callable[..., Any]]:
    """Returns the steps that a configuration trains with, by phase."""
    from glcic_jax.training.tasks.completion import STEPS

    return STEPS if config.discriminator.branches else {"completion": STEPS["completion"]}


def phase_flops(config: Any, phase: str, state: Any) -> int:
    """Counts the nominal operations of one update over the whole batch, without computing it.

    Args:
      config: The configuration.
      phase: A name of `trained_steps`.
      state: A state of that configuration, or its shapes.
    """
    import jax

    from glcic_jax.benchmark.operation_counts import nominal_flops
    from glcic_jax.training.tasks.completion import create_spec

    state = state.replace(spec=create_spec(config))  # Without the axis name, which exists under pmap alone.
    batch = batch_shapes(config.batch_size, config.data.image_size)
    return nominal_flops(trained_steps(config)[phase], state, batch, jax.random.key(1))


def _rows(
    config: Any,
    dtypes: list[str],
    steps: dict[str, Callable[..., Any]],
    duration: float,
    trace: Path | None,
    matrix_side: int | None,
    rates: dict[str, dict[str, float]],
) -> Iterator[list[str]]:
    """Yields the rows of the table; fills `rates`, the images/s by type and step."""
    import jax

    from glcic_jax.training.distributed import AXIS, pmap_step, replicate, shard_batch

    for dtype in dtypes:
        config.compute_dtype = dtype
        with _device_memory_for(f"products of matrices of side {matrix_side}", "lower --matrix-side"):
            reference = matrix_rate(matrix_side, dtype) if matrix_side else None
        with _device_memory_for("the networks and their optimisers", "take smaller ones, by --config"):
            state, key = replicate(fresh_state(config, AXIS)), replicate(jax.random.key(1))
        batch = shard_batch(noise_batch(config))
        rates[dtype] = {}
        for phase, step in steps.items():
            what = f"phase {phase} in {dtype} with a batch of {config.batch_size}"
            with _device_memory_for(what, _REMEDY):
                begin = time.perf_counter()
                update = pmap_step(step).lower(state, batch, key).compile()
                compile_seconds = time.perf_counter() - begin
                seconds = duration
                for most in (1, 3, math.inf):  # The first update is slow; the next ones show how many fit.
                    count = max(1, round(min(most, duration / seconds)))
                    state, seconds = _timed(update, state, batch, key, count)
                if trace is not None:
                    with jax.profiler.trace(str(trace / f"{phase}-{dtype}")):
                        state, _ = _timed(update, state, batch, key, _TRACED_STEPS)
            rates[dtype][phase] = config.batch_size / seconds
            achieved = phase_flops(config, phase, state) / seconds / 1e12
            row = [phase, dtype, f"{compile_seconds:.1f}", f"{1e3 * seconds:.1f}", f"{rates[dtype][phase]:.1f}"]
            row += [f"{achieved:.4g}", f"{peak_bytes(update.memory_analysis()) / 2**30:.2f}"]
            yield row if reference is None else [*row, f"{reference:.4g}", f"{100 * achieved / reference:.1f} %"]


def _timed(update: Any, state: Any, batch: Any, key: Any, count: int) -> tuple[Any, float]:
    """Returns the state after `count` updates, and the seconds per update."""
    import jax

    begin = time.perf_counter()
    for _ in range(count):
        state, metrics = update(state, batch, key)
    jax.block_until_ready((state, metrics))
    return state, (time.perf_counter() - begin) / count


@contextlib.contextmanager
def _device_memory_for(what: str, remedy: str) -> Iterator[None]:
    """Turns XLA's out-of-memory error into a ConfigError with a remedy."""
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_device_memory(error):
            raise
        raise ConfigError(f"too little memory on the device for {what}: {remedy} ({one_line(error)})") from error


def _print_agreement(config: Any) -> None:
    """Runs one float32 update of each phase here and on the CPU, and prints how far the metrics differ."""
    import jax
    import numpy as np

    config.compute_dtype = "float32"
    config.batch_size = 4
    batch = {**noise_batch(config), "place": np.arange(config.batch_size, dtype=np.int32)}
    state = fresh_state(config, None)
    for phase, step in trained_steps(config).items():
        results = []
        for device in (jax.local_devices()[0], jax.local_devices(backend="cpu")[0]):
            arguments = jax.device_put((state, batch, jax.random.key(1)), device)
            with jax.default_matmul_precision("highest"):  # Without TF32, which differs by 1e-3 by design.
                results.append(vars(jax.device_get(jax.jit(step)(*arguments)[1])))
        here, cpu = results
        difference = {
            name: abs(float(here[name]) - float(cpu[name])) / (abs(float(cpu[name])) + 1e-12) for name in cpu
        }
        worst = max(difference, key=lambda name: difference[name])
        click.echo(f"agreement with the CPU, {phase}: metrics within {difference[worst]:.1e} ({worst})")
    click.echo("")

"""Times one update of each phase on the devices at hand; images are noise."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from glcic_jax.benchmark.common import (
    MEASURING,
    check_batch_size,
    device_memory_for,
    devices_here,
    fresh_state,
    load_config,
    noise,
    print_heading,
    print_table,
    trained_steps,
    with_norms,
)
from glcic_jax.errors import ConfigError, lookup

# Steps of each phase and the batch of the paper [Section 4, Algorithm 1].
PAPER_STEPS = {"completion": 90_000, "discriminator": 10_000, "joint": 400_000}
PAPER_BATCH = 96
_MATRIX_SIDE = 8192
_PRODUCTS = 20
_TRACED_STEPS = 3
_REMEDY = "lower --batch-size, or take a configuration with remat = 'activations' or a higher accumulation_steps"


class Timing(NamedTuple):
    """One phase in one type.

    Attributes:
      phase: The name of the step, see `trained_steps`.
      compile_seconds: What compiling took; little where the compile cache had it.
      seconds: One update.
      flops: Nominal operations of an update over all devices.
      planned_bytes: What XLA planned for one device: state, batch, and the activations between them.
    """

    phase: str
    compile_seconds: float
    seconds: float
    flops: int
    planned_bytes: int


def print_phases(
    config_path: str,
    batch_size: int | None,
    dtypes: str,
    steps: int,
    agree: bool,
    trace: Path | None,
    matrix_side: int | None,
) -> None:
    """Prints images/s, time, TFLOP/s and memory of one update of each phase.

    Args:
      config_path: Whose sizes are taken.
      batch_size: Images of a step over all devices; None: the configuration's.
      dtypes: Types of the arithmetic, joined by commas.
      steps: Updates timed, after two that are not.
      agree: Whether a float32 update is compared with the CPU's first.
      trace: Where a profile of a few steps of each phase is written; None: nowhere.
      matrix_side: Of the matrices whose product's rate is the measure of the others; None: 8192 on an
        accelerator, and no such measure on a CPU.

    Raises:
      ConfigError: Sizes or names do not fit; nothing has been printed then. Or the devices' memory is too small;
        the rows before have been printed then.
    """
    config = load_config(config_path, batch_size)
    _check(config, dtypes.split(","), trace)
    import jax

    on_cpu = jax.default_backend() == "cpu"
    matrix_side = matrix_side or (None if on_cpu else _MATRIX_SIDE)
    print_heading(devices_here())
    if agree and not on_cpu:
        _print_agreement(config.copy_and_resolve_references())
    timings: dict[str, list[Timing]] = {}
    columns = ["phase", "type", "compile s", "ms/step", "images/s", "TFLOP/s", "GiB planned"]
    if matrix_side:
        columns += ["product TFLOP/s", "share"]
    print_table(columns, _rows(config, dtypes.split(","), steps, trace, matrix_side, timings))
    if config.discriminator.branches:
        click.echo("")
        columns = ["paper's schedule", "images/s", f"hours for 500,000 x {PAPER_BATCH} images"]
        print_table(columns, _schedule_rows(config, timings))


def scheduled_rate(rates: dict[str, float], measure_every: int = 1) -> float:
    """Images/s over the paper's schedule: all its images by all its time.

    Args:
      rates: Images/s of each step, by the names of `trained_steps`.
      measure_every: As in `config.balance`: every so many joint steps one measures.
    """
    steps: dict[str, float] = dict(PAPER_STEPS)
    if MEASURING in rates:
        steps[MEASURING] = steps["joint"] / measure_every
        steps["joint"] -= steps[MEASURING]
    return sum(steps.values()) / sum(count / rates[name] for name, count in steps.items())


def _check(config: Any, dtypes: list[str], trace: Path | None) -> None:
    import jax

    from glcic_jax.training.state import COMPUTE_DTYPES, create_spec

    for dtype in dtypes:
        lookup(COMPUTE_DTYPES, dtype, "type of arithmetic")
    create_spec(config)
    check_batch_size(config.batch_size, jax.device_count())
    if trace is not None and trace.exists() and not trace.is_dir():
        raise ConfigError(f"--trace {trace}: is a file: name a directory")


def _rows(
    config: Any,
    dtypes: list[str],
    steps: int,
    trace: Path | None,
    matrix_side: int | None,
    timings: dict[str, list[Timing]],
) -> Iterator[list[str]]:
    """Rows of the table; `timings` is filled on the way."""
    for dtype in dtypes:
        config.compute_dtype = dtype
        with device_memory_for(f"products of matrices of side {matrix_side}", "lower --matrix-side"):
            rate = matrix_rate(matrix_side, dtype) if matrix_side else None
        timings[dtype] = []
        for timing in _time_phases(config, steps, trace):
            timings[dtype].append(timing)
            achieved = timing.flops / timing.seconds / 1e12
            row = [
                timing.phase,
                dtype,
                f"{timing.compile_seconds:.1f}",
                f"{1e3 * timing.seconds:.1f}",
                f"{config.batch_size / timing.seconds:.1f}",
                f"{achieved:.4g}",
                f"{timing.planned_bytes / 2**30:.2f}",
            ]
            yield row if rate is None else row + [f"{rate:.4g}", f"{100 * achieved / rate:.1f} %"]


def _schedule_rows(config: Any, timings: dict[str, list[Timing]]) -> Iterator[list[str]]:
    for dtype, phases in timings.items():
        rates = {timing.phase: config.batch_size / timing.seconds for timing in phases}
        rate = scheduled_rate(rates, config.balance.measure_every)
        hours = sum(PAPER_STEPS.values()) * PAPER_BATCH / rate / 3600
        yield [dtype, f"{rate:.1f}", f"{hours:.1f}"]


def matrix_rate(side: int, dtype: str) -> float:
    """TFLOP/s, over all devices, of the product of two square matrices in a type, at JAX's default precision.

    Args:
      side: Of the matrices. Their numbers are random: constant ones draw less power, and are multiplied faster.
      dtype: "float32" (TF32 where the device and JAX's settings say so) or "bfloat16".
    """
    import jax

    left, right = (jax.random.normal(jax.random.key(seed), (side, side), dtype) for seed in (0, 1))
    product = jax.jit(lambda left, right: left @ right)
    for _ in range(2):
        product(left, right).block_until_ready()
    begun = time.perf_counter()
    for _ in range(_PRODUCTS):
        last = product(left, right)
    last.block_until_ready()
    return jax.device_count() * 2 * side**3 * _PRODUCTS / (time.perf_counter() - begun) / 1e12


def _time_phases(config: Any, steps: int, trace: Path | None) -> Iterator[Timing]:
    import jax

    from glcic_jax.training.distributed import AXIS, pmap_step, replicate, shard_batch

    with device_memory_for("the networks and their optimisers", "take smaller ones, by --config"):
        state, key = replicate(fresh_state(config, AXIS)), replicate(jax.random.key(1))
    batch = shard_batch(noise(config))
    for phase, step in trained_steps(config).items():
        what = f"phase {phase} in {config.compute_dtype} with a batch of {config.batch_size}"
        with device_memory_for(what, _REMEDY):
            begun = time.perf_counter()
            update = pmap_step(step).lower(state, batch, key).compile()
            compiled = time.perf_counter() - begun
            for timed in (2, steps):
                state, seconds = _timed(update, state, batch, key, timed)
            if trace is not None:
                with jax.profiler.trace(str(trace / f"{phase}-{config.compute_dtype}")):
                    state, _ = _timed(update, state, batch, key, _TRACED_STEPS)
        plan: Any = update.memory_analysis()
        planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
        yield Timing(
            phase, compiled, seconds, phase_flops(config, phase, state), planned - plan.alias_size_in_bytes
        )


def _timed(update: Any, state: Any, batch: Any, key: Any, count: int) -> tuple[Any, float]:
    """The state after so many updates, and the seconds that each took."""
    import jax

    begun = time.perf_counter()
    for _ in range(count):
        state, metrics = update(state, batch, key)
    jax.block_until_ready((state, metrics))
    return state, (time.perf_counter() - begun) / count


def phase_flops(config: Any, phase: str, state: Any) -> int:
    """Nominal operations of one update of a phase over the whole batch; computes no update.

    Args:
      config: The configuration.
      phase: The name of the step, see `trained_steps`.
      state: Of that configuration, for any number of devices; only shapes are looked at.
    """
    import jax
    import numpy as np

    from glcic_jax.benchmark.operation_counts import nominal_flops
    from glcic_jax.training.state import create_spec

    size, count = config.data.image_size, config.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((count, size, size, 3), np.uint8),
        "place": jax.ShapeDtypeStruct((count,), np.int32),
    }
    alone = state.replace(spec=create_spec(config))  # Without the axis, which there is only under pmap.
    return nominal_flops(trained_steps(config)[phase], alone, batch, jax.random.key(1))


def _print_agreement(config: Any) -> None:
    """Runs one float32 update of each phase here and on the CPU, and prints how far the metrics are apart."""
    import jax
    import numpy as np

    config.compute_dtype = "float32"
    config.batch_size = 4
    batch = {**noise(config), "place": np.arange(config.batch_size, dtype=np.int32)}
    state = with_norms(fresh_state(config, None)) if config.discriminator.branches else fresh_state(config, None)
    for phase, step in trained_steps(config).items():
        results = []
        for device in (jax.local_devices()[0], jax.local_devices(backend="cpu")[0]):
            there = jax.device_put((state, batch, jax.random.key(1)), device)
            with jax.default_matmul_precision("highest"):  # No TF32: it would be 1e-3 apart by design.
                results.append(jax.device_get(jax.jit(step)(*there)[1]))
        here, cpu = (vars(metrics) for metrics in results)
        apart = {name: abs(float(here[name]) - float(cpu[name])) / (abs(float(cpu[name])) + 1e-12) for name in cpu}
        worst = max(apart, key=lambda name: apart[name])
        click.echo(f"agreement with the CPU, {phase}: metrics within {apart[worst]:.1e} ({worst})")
    click.echo("")

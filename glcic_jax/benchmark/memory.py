"""The memory of one update of each phase, and the largest batches that it allows.

XLA plans a program's memory when it compiles it: nothing runs, and the device need not have that much memory.
Every figure is for one device.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from glcic_jax.benchmark.common import (
    batch_shapes,
    devices_here,
    load_config,
    peak_bytes,
    print_heading,
    print_table,
    update_cases,
)
from glcic_jax.errors import ConfigError, DataError
from glcic_jax.runtime import is_out_of_device_memory

CARDS = (16, 24, 80, 141)  # GB of 1e9 bytes.
HEADROOM = 0.08  # Share of a card that the driver, the libraries and the allocator's gaps may take.

# XLA:CPU removes the optimisation barriers of rematerialisation and then merges the recomputation with the first
# computation: without these options a plan made on a CPU shows no rematerialisation. Machine code does not change
# the plan.
_CPU_OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander", "xla_backend_optimization_level": 0}

_MIB, _GIB = 2**20, 2**30
_UNKNOWN = "unknown"


def print_memory(
    config_path: str,
    image_size: int | None,
    width: float | None,
    dtypes: str,
    remats: str,
    phases: str,
    batches: tuple[int, ...],
    trial: bool,
) -> None:
    """Prints a Markdown table with a row for each phase, type of the arithmetic and relevant remat.

    Args:
      config_path: Configuration that gives the sizes; its batch size is not used.
      image_size, width: Replace the configuration's unless None.
      dtypes, remats, phases: Comma-separated names.
      batches: Two batch sizes, the smaller one first.
      trial: Whether to run ever larger batches on a GPU, too.

    Raises:
      ConfigError: A name is unknown, or sizes do not fit together; nothing has been printed then.
      DataError: A trial without a GPU; nothing has been printed then.
    """
    import jax

    config = load_config(config_path)
    _resize(config, image_size, width)
    if len(batches) != 2 or batches[0] >= batches[1]:
        raise ConfigError(f"--batches is {','.join(map(str, batches))}: give two sizes, the smaller first: 2,6")
    if trial and jax.default_backend() != "gpu":
        raise DataError(f"--trial needs a GPU, and JAX sees only {jax.default_backend()}: leave it out")
    cases = list(update_cases(config, phases, dtypes, remats))
    print_heading(devices_here())
    click.echo(
        f"{_DEVICE_NOTES.get(jax.default_backend(), '')}"
        f"Largest batches by calculation: GB of 1e9 bytes, {HEADROOM:.0%} of them left free. "
        f'"{_UNKNOWN}": XLA plans no more memory for {batches[1]} images than for {batches[0]}: '
        "give other --batches.\n"
    )
    parts = ("arguments", "outputs", "temporaries", "aliased")
    columns = ["phase", "type", "remat", *(f"{part}, MiB, batch {batches[1]}" for part in parts)]
    columns += ["fixed, GiB", "GiB per image", *(f"{card} GB" for card in CARDS), *(["by trial"] if trial else [])]
    print_table(columns, (_row(*case, batches, config.data.image_size, trial) for case in cases))


def memory_plan(phase: str, state: Any, batch_size: int, image_size: int) -> Any:
    """Returns XLA's `CompiledMemoryStats` for one update on this device.

    Args:
      phase: A name in `steps.STEPS`.
      state: From `state.state_shapes`.
      batch_size, image_size: Number of images, and their side in pixels.
    """
    import jax

    options = _CPU_OPTIONS if jax.default_backend() == "cpu" else None
    return _lowered(phase, state, batch_size, image_size).compile(compiler_options=options).memory_analysis()


def line_through(batches: Sequence[int], sizes: Sequence[float]) -> tuple[float, float]:
    """Returns the size at batch 0 and the size per image, from the sizes at two batches."""
    per_image = (sizes[1] - sizes[0]) / (batches[1] - batches[0])
    return sizes[0] - batches[0] * per_image, per_image


def largest_batch(card: float, fixed: float, per_image: float) -> int | None:
    """Returns the number of images that fit a card of `card` bytes with `HEADROOM` left free.

    None if the line does not grow, because XLA planned the two batches differently.
    """
    if per_image <= 0:
        return None
    return max(0, int((card * (1 - HEADROOM) - fixed) / per_image))


def largest_that(runs: Callable[[int], bool]) -> int:
    """Returns the largest batch that runs, to a sixteenth: doubles until one fails, then bisects."""
    if not runs(1):
        return 0
    good, bad = 1, 2
    while runs(bad):
        good, bad = bad, 2 * bad
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if runs(middle) else (good, middle)
    return good


def _row(
    phase: str, dtype: str, remat: str, spec: Any, batches: tuple[int, ...], image_size: int, trial: bool
) -> list[str]:
    from glcic_jax.training.tasks.completion import state_shapes

    state = state_shapes(spec, image_size)
    plans = [memory_plan(phase, state, size, image_size) for size in batches]
    fixed, per_image = line_through(batches, [peak_bytes(plan) for plan in plans])
    parts = [
        plans[-1].argument_size_in_bytes,
        plans[-1].output_size_in_bytes,
        plans[-1].temp_size_in_bytes,
        plans[-1].alias_size_in_bytes,
    ]
    row = [phase, dtype, remat, *(f"{part / _MIB:.1f}" for part in parts)]
    row += [f"{fixed / _GIB:.3f}", f"{per_image / _GIB:.4f}"]
    for card in CARDS:
        largest = largest_batch(card * 1e9, fixed, per_image)
        row.append(_UNKNOWN if largest is None else str(largest))
    if trial:
        row.append(str(largest_that(functools.partial(_runs, phase, state, image_size))))
    return row


def _lowered(phase: str, state: Any, batch_size: int, image_size: int) -> Any:
    import jax

    from glcic_jax.model.convolutions import convolutions_of
    from glcic_jax.training.tasks.completion import STEPS

    def step(*arguments: Any) -> Any:  # A new function, as JAX would reuse a trace made outside the block below.
        return STEPS[phase](*arguments)

    batch, key = batch_shapes(batch_size, image_size), jax.eval_shape(jax.random.key, 0)
    with convolutions_of("cuda"):
        return jax.jit(step, donate_argnums=0).lower(state, batch, key)


def _runs(phase: str, state: Any, image_size: int, batch_size: int) -> bool:
    """Whether one update on zeros fits this device."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    try:
        update = _lowered(phase, state, batch_size, image_size).compile()
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
        image = jnp.zeros((batch_size, image_size, image_size, 3), jnp.uint8)
        batch = {"image": image, "place": np.arange(batch_size, dtype=np.int32)}
        jax.block_until_ready(update(zeros, batch, jax.random.key(0)))
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_device_memory(error):
            raise
        return False
    return True


def _resize(config: Any, image_size: int | None, width: float | None) -> None:
    """Changes the networks' width, and scales crops, local patches and holes to another image size."""
    if width is not None:
        config.completion.width = config.discriminator.width = width
    if image_size is not None:
        scale = image_size / config.data.image_size
        config.data.image_size = image_size
        config.discriminator.local_size = round(config.discriminator.local_size * scale)
        for holes in (config.mask.rectangle, config.mask.rectangles):
            holes.min_side, holes.max_side = (max(1, int(x * scale)) for x in (holes.min_side, holes.max_side))


_DEVICE_NOTES = {
    "cpu": (
        "XLA's plan for this CPU with a GPU's convolutions, more than a GPU needs: `ahead` compiles for one. "
        "Training on a CPU takes more memory, and remat saves none there.\n"
    ),
    "gpu": "A process takes at most XLA_PYTHON_CLIENT_MEM_FRACTION of the GPU, 0.75 by default.\n",
}

"""The memory that one update of each phase takes, and the largest batches that follow from it.

XLA plans a program's memory when it compiles it: nothing has to run, and the device need not be that large.
Every figure is one device's.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import click

from glcic_jax.benchmark.common import devices_here, load_config, print_heading, print_table
from glcic_jax.errors import ConfigError, DataError, lookup
from glcic_jax.runtime import is_out_of_device_memory

CARDS = (16, 24, 80, 141)  # GB of 1e9 bytes.
HEADROOM = 0.08  # Share of a card that the driver, the libraries and the allocator's gaps may take.

# XLA:CPU drops the barriers around what is computed again, and then finds that it has been computed before:
# without them a plan for the CPU would show no rematerialisation at all. Machine code does not change the plan.
_CPU_OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander", "xla_backend_optimization_level": 0}

_MIB, _GIB = 2**20, 2**30
_UNKNOWN = "unknown"


class Plan(NamedTuple):
    """Bytes of a compiled program; `aliased` is what outputs take over from arguments."""

    arguments: int
    outputs: int
    temporaries: int
    aliased: int

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.arguments + self.outputs + self.temporaries - self.aliased


def print_memory(
    config_path: str,
    image_size: int | None,
    width: float | None,
    dtypes: str,
    remats: str,
    phases: str,
    batches: str,
    trial: bool,
) -> None:
    """Prints a Markdown table: one row for each phase, type of the arithmetic and remat that makes a difference.

    Args:
      config_path: Whose sizes are taken; its batch size is not looked at.
      image_size, width: Put in place of the configuration's; None: its own.
      dtypes, remats, phases: Names, joined by commas.
      batches: Two batch sizes, the smaller one first.
      trial: Also run ever larger batches, on a GPU.

    Raises:
      ConfigError: A name is unknown, or sizes do not fit together; nothing has been printed then.
      DataError: A trial without a GPU; nothing has been printed then.
    """
    import jax

    config, sizes = _resized(load_config(config_path), image_size, width), _two_sizes(batches)
    if trial and jax.default_backend() != "gpu":
        raise DataError(f"--trial needs a GPU, and JAX sees only {jax.default_backend()}: leave it out")
    cases = list(_cases(config, dtypes.split(","), remats.split(","), phases.split(",")))
    print_heading(devices_here())
    click.echo(
        f"{_DEVICE_NOTES.get(jax.default_backend(), '')}"
        f"Largest batches by calculation: GB of 1e9 bytes, {HEADROOM:.0%} of it left free. "
        f'"{_UNKNOWN}": {sizes[1]} images are planned to take no more than {sizes[0]}; give other --batches.\n'
    )
    parts = ("arguments", "outputs", "temporaries", "aliased")
    columns = ["phase", "type", "remat", *(f"{part}, MiB, batch {sizes[1]}" for part in parts)]
    columns += ["fixed, GiB", "GiB per image", *(f"{card} GB" for card in CARDS), *(["by trial"] if trial else [])]
    print_table(columns, (_row(*case, sizes, config.data.image_size, trial) for case in cases))


def _row(
    phase: str, dtype: str, remat: str, state: Any, batches: tuple[int, int], image_size: int, trial: bool
) -> list[str]:
    plans = [plan_of(phase, state, size, image_size) for size in batches]
    fixed, per_image = line_through(batches, [plan.total for plan in plans])
    row = [phase, dtype, remat, *(f"{size / _MIB:.1f}" for size in plans[-1])]
    row += [f"{fixed / _GIB:.3f}", f"{per_image / _GIB:.4f}"]
    for card in CARDS:
        largest = largest_batch(card * 1e9, fixed, per_image)
        row.append(_UNKNOWN if largest is None else str(largest))
    if trial:
        row.append(str(largest_that(functools.partial(_runs, phase, state, image_size))))
    return row


def plan_of(phase: str, state: Any, batch_size: int, image_size: int) -> Plan:
    """XLA's plan for one update on this device.

    Args:
      phase: A name in `steps.STEPS`.
      state: From `state.state_shapes`.
      batch_size, image_size: Of the batch.
    """
    import jax

    options = _CPU_OPTIONS if jax.default_backend() == "cpu" else None
    analysis: Any = (
        _lowered(phase, state, batch_size, image_size).compile(compiler_options=options).memory_analysis()
    )
    return Plan(
        analysis.argument_size_in_bytes,
        analysis.output_size_in_bytes,
        analysis.temp_size_in_bytes,
        analysis.alias_size_in_bytes,
    )


def line_through(batches: Sequence[int], sizes: Sequence[float]) -> tuple[float, float]:
    """The part that does not grow with the batch, and that which each image adds, from two sizes."""
    per_image = (sizes[1] - sizes[0]) / (batches[1] - batches[0])
    return sizes[0] - batches[0] * per_image, per_image


def largest_batch(card: float, fixed: float, per_image: float) -> int | None:
    """How many images fit a card of so many bytes, with `HEADROOM` left; 0: not one.

    None: images take nothing by that line, so that it says nothing about the largest batch. XLA may plan
    differently for another batch size, and the larger one's plan be the smaller one.
    """
    if per_image <= 0:
        return None
    return max(0, int((card * (1 - HEADROOM) - fixed) / per_image))


def largest_that(runs: Callable[[int], bool]) -> int:
    """The largest batch that runs, to a sixteenth: doubles until one does not, then halves the interval."""
    if not runs(1):
        return 0
    good, bad = 1, 2
    while runs(bad):
        good, bad = bad, 2 * bad
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if runs(middle) else (good, middle)
    return good


def _cases(
    config: Any, dtypes: Sequence[str], remats: Sequence[str], phases: Sequence[str]
) -> Iterator[tuple[str, str, str, Any]]:
    """Phase, type, remat and the shapes of a state; phase 2, where C is not trained, once for each type."""
    from glcic_jax.training.state import create_spec, state_shapes
    from glcic_jax.training.steps import STEPS

    for dtype in dtypes:
        for remat in remats:
            config.compute_dtype, config.remat = dtype, remat
            state = state_shapes(create_spec(config), config.data.image_size)
            for phase in phases:
                lookup(STEPS, phase, "phase")
                if phase != "completion" and state.discriminator is None:
                    raise ConfigError(f"the configuration has no discriminator, so there is no {phase} phase")
                if phase != "discriminator" or remat == remats[0]:
                    yield phase, dtype, remat if phase != "discriminator" else "", state


def _lowered(phase: str, state: Any, batch_size: int, image_size: int) -> Any:
    import jax
    import numpy as np

    from glcic_jax.model.convolutions import as_on_accelerators
    from glcic_jax.training.steps import STEPS

    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, image_size, image_size, 3), np.uint8),
        "place": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }

    def step(*arguments: Any) -> Any:  # A function of its own: JAX would find a trace made elsewhere again.
        return STEPS[phase](*arguments)

    with as_on_accelerators():
        return jax.jit(step, donate_argnums=0).lower(state, batch, jax.eval_shape(jax.random.key, 0))


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


def _resized(config: Any, image_size: int | None, width: float | None) -> Any:
    """The configuration with its networks at another width, and its crops, patches and holes at another size."""
    if width is not None:
        config.completion.width = config.discriminator.width = width
    if image_size is not None:
        scale = image_size / config.data.image_size
        config.data.image_size = image_size
        config.discriminator.local_size = round(config.discriminator.local_size * scale)
        for holes in (config.mask.rectangle, config.mask.rectangles):
            holes.min_side, holes.max_side = (max(1, int(x * scale)) for x in (holes.min_side, holes.max_side))
    return config


def _two_sizes(batches: str) -> tuple[int, int]:
    parts = batches.split(",")
    sizes = [int(part) for part in parts if part.isdecimal()]
    if len(parts) != len(sizes) or len(sizes) != 2 or not 0 < sizes[0] < sizes[1]:
        raise ConfigError(f"--batches is {batches!r}: give two whole numbers, the smaller one first: 2,6")
    return sizes[0], sizes[1]


_DEVICE_NOTES = {
    "cpu": (
        "XLA's plan for this CPU with a GPU's convolutions, but for their work space. Training on a CPU takes "
        "more, and remat saves nothing there.\n"
    ),
    "gpu": "A process may take XLA_PYTHON_CLIENT_MEM_FRACTION of the GPU, 0.75 unless told.\n",
}

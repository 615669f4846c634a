"""Times one update of each phase on the devices at hand: `python -m glcic_jax.benchmark --help`.

Needs no data: images are noise, and arithmetic takes as long on noise. Figures for the README come from here.
"""

import importlib.util
import time
from pathlib import Path
from typing import Any

import click

from glcic_jax.errors import UserError


@click.command(context_settings={"show_default": True})
@click.option("--config", "config_path", default="configs/joint.py", help="Whose sizes are taken.")
@click.option("--batch-size", type=int, help="Images per step over all devices; the configuration's if not given.")
@click.option("--dtypes", default="float32,bfloat16", help="Types of the arithmetic, joined by commas.")
@click.option("--steps", default=20, help="Updates timed, after two that are not.")
@click.option("--agree/--no-agree", default=True, help="First compare a float32 update with the CPU's.")
def main(config_path: str, batch_size: int | None, dtypes: str, steps: int, agree: bool) -> None:
    """Prints images/s, time, TFLOP/s and memory of one update of each phase."""
    try:
        config = _load(config_path)
        config.batch_size = batch_size or config.batch_size
        if agree:
            _print_agreement(config.copy_and_resolve_references())
        click.echo(
            "| phase | type | compile s | ms/step | images/s | TFLOP/s | GiB |\n|---|---|---|---|---|---|---|"
        )
        for dtype in dtypes.split(","):
            config.compute_dtype = dtype
            for row in _time_phases(config, steps):
                click.echo("| " + " | ".join(row) + " |")
    except UserError as error:
        raise click.UsageError(str(error)) from error


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_config", Path(path))
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise click.UsageError(f"{path}: no such configuration; run this where configs/ is")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def _fresh(config: Any, axis_name: str | None) -> Any:
    import jax
    import jax.numpy as jnp

    from glcic_jax.state import create_recipe, create_state

    recipe = create_recipe(config, axis_name)
    return create_state(recipe, jax.random.key(0), config.data.image_size, jnp.full((3,), 0.45))


def _noise(config: Any) -> dict[str, Any]:
    import numpy as np

    size = config.data.image_size
    shape = (config.batch_size, size, size, 3)
    return {"image": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}


def _time_phases(config: Any, steps: int) -> list[tuple[str, ...]]:
    import jax

    from glcic_jax.devices import AXIS, parallel, replicate, share
    from glcic_jax.steps import STEPS

    rows: list[tuple[str, ...]] = []
    state, batch, key = replicate(_fresh(config, AXIS)), share(_noise(config)), jax.random.key(1)
    for phase, step in STEPS.items():
        if state.discriminator is None and phase != "completion":
            continue
        begun = time.perf_counter()
        update = parallel(step).lower(state, batch, key).compile()
        compiled = time.perf_counter() - begun
        for timed in (2, steps):
            begun = time.perf_counter()
            for _ in range(timed):
                state, metrics = update(state, batch, key)
            jax.block_until_ready((state, metrics))
            seconds = (time.perf_counter() - begun) / timed
        # Counted by XLA for one device, from the program as it was compiled.
        flops = (update.cost_analysis() or {}).get("flops", float("nan")) * jax.device_count()
        # Planned by XLA for one device: the state and the batch, and the activations between them.
        plan: Any = update.memory_analysis()
        planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
        planned -= plan.alias_size_in_bytes
        rows.append(
            (
                phase,
                config.compute_dtype,
                f"{compiled:.1f}",
                f"{1e3 * seconds:.1f}",
                f"{config.batch_size / seconds:.1f}",
                f"{flops / seconds / 1e12:.3f}",
                f"{planned / 2**30:.2f}",
            )
        )
    return rows


def _print_agreement(config: Any) -> None:
    """Runs one float32 update of each phase here and on the CPU, and prints how far the metrics are apart."""
    import jax
    import numpy as np

    from glcic_jax.steps import STEPS

    if jax.default_backend() == "cpu":
        click.echo("agreement with the CPU: this is the CPU")
        return
    config.compute_dtype = "float32"
    config.batch_size = 4
    state, batch = _fresh(config, None), _noise(config)
    for phase, step in STEPS.items():
        if state.discriminator is None and phase != "completion":
            continue
        results = []
        for device in (jax.local_devices()[0], jax.local_devices(backend="cpu")[0]):
            there = jax.device_put((state, batch, jax.random.key(1)), device)
            with jax.default_matmul_precision("highest"):  # No TF32: it would be 1e-3 apart by design.
                results.append(jax.device_get(jax.jit(step)(*there)[1]))
        here, cpu = (vars(metrics) for metrics in results)
        apart = {name: abs(float(here[name]) - float(cpu[name])) / (abs(float(cpu[name])) + 1e-12) for name in cpu}
        worst = max(apart, key=lambda name: apart[name])
        click.echo(f"agreement with the CPU, {phase}: metrics within {np.max(list(apart.values())):.1e} ({worst})")


if __name__ == "__main__":
    main()

"""Times training on several devices, counts what it copies and compiles, and calculates what it sends.

A number of simulated devices is fixed when JAX starts, so that each has a process: this file, run with its task.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from glcic_jax.benchmark.common import (
    MEASURING,
    devices_here,
    fresh_state,
    load_config,
    noise,
    print_heading,
    print_table,
    run_module,
    trained_steps,
)
from glcic_jax.errors import ConfigError, one_line

# Bytes/s in one direction: NVLink of an H100 or H200 (900 GB/s both ways), and 100 Gb/s Ethernet of a host.
_LINKS = (("8 GPUs, NVLink", 8, 450e9), ("2 hosts, 100 Gb/s", 2, 12.5e9), ("4 hosts, 100 Gb/s", 4, 12.5e9))
_COMPILED = "/jax/core/compile/backend_compile_duration"


def print_scale(config_path: str, batch_size: int, devices: str, steps: int, step_ms: float) -> None:
    """Prints weak scaling on simulated devices, and on real ones where there are several; then a calculation.

    Args:
      config_path: Whose sizes are taken.
      batch_size: Images of a step on each device.
      devices: Numbers of simulated devices, joined by commas.
      steps: Updates timed.
      step_ms: The time of a step that communication is set against.

    Raises:
      ConfigError: Sizes do not fit; nothing has been printed then.
    """
    config = load_config(config_path, batch_size)
    counts = _counts(devices)
    from glcic_jax.training.state import create_spec

    create_spec(config)
    task = {"config": config_path, "batch_size": batch_size, "steps": 0}
    here = run_module("benchmark.scale", task, {})
    print_heading(here["devices"])
    columns = [
        "devices",
        "phase",
        "ms/step",
        "time over that of the fewest",
        "compilations/step",
        "copied but the batch",
    ]
    tasks = [("simulated", count, _simulated(count)) for count in counts]
    tasks += [("real", count, _real(count)) for count in _real_counts(here)]
    print_table(columns, _rows(task | {"steps": steps}, tasks))
    click.echo(
        "\nA ring's all-reduce sends 2 (n - 1) / n of the bytes; latency is left out. "
        f"Share: of {step_ms:g} ms a step.\n"
    )
    columns = ["phase", "all-reduces", "MB a step", "of them gradients"]
    columns += [f"{link}, ms" for link, _, _ in _LINKS] + [f"{link}, shard_batch" for link, _, _ in _LINKS]
    print_table(columns, (_communication(name, sent, step_ms) for name, sent in here["exchanged"].items()))


def _counts(devices: str) -> list[int]:
    try:
        counts = [int(count) for count in devices.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise ConfigError(f"--devices {devices}: give whole numbers above 0, joined by commas")
    return counts


def _simulated(count: int) -> dict[str, str]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}


def _real(count: int) -> dict[str, str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible.split(",")[:count])}


def _real_counts(here: dict[str, Any]) -> list[int]:
    if here["platform"] != "gpu" or here["count"] < 2:
        return []
    return [2**power for power in range(here["count"].bit_length()) if 2**power <= here["count"]]


def _rows(task: dict[str, Any], tasks: list[tuple[str, int, dict[str, str]]]) -> Iterator[list[str]]:
    fewest: dict[tuple[str, str], float] = {}
    for kind, count, environment in tasks:
        result = run_module("benchmark.scale", task, environment)
        for phase, found in result["phases"].items():
            first = fewest.setdefault((kind, phase), found["seconds"])
            yield [
                f"{count} {kind}",
                phase,
                f"{1e3 * found['seconds']:.1f}",
                f"{found['seconds'] / first:.2f}",
                f"{found['compilations']:g}",
                found["copied"] or "nothing",
            ]


def _communication(phase: str, sent: dict[str, int], step_ms: float) -> list[str]:
    times = [2 * (peers - 1) / peers * sent["bytes"] / rate for _, peers, rate in _LINKS]
    return [
        phase,
        str(sent["count"]),
        f"{sent['bytes'] / 1e6:.3f}",
        f"{sent['gradients'] / 1e6:.3f}",
        *(f"{1e3 * seconds:.3g}" for seconds in times),
        *(f"{100 * 1e3 * seconds / step_ms:.2g} %" for seconds in times),
    ]


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Runs updates on this process's devices.

    Args:
      task: `config`, the path; `batch_size` of each device; `steps` to time: 0 for a calculation alone.

    Returns:
      What `print_scale` prints, by phase: seconds, compilations and refused copies, or what devices exchange.
    """
    import jax

    config = load_config(task["config"])
    config.batch_size = task["batch_size"] * jax.device_count()
    result: dict[str, Any] = {"devices": devices_here(), "count": jax.device_count()}
    result["platform"] = jax.default_backend()
    if task["steps"]:
        return result | {"phases": _time_phases(config, task["steps"])}
    return result | {"exchanged": _exchanged(config)}


def _time_phases(config: Any, steps: int) -> dict[str, dict[str, Any]]:
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from glcic_jax.training.distributed import AXIS, pmap_step, replicate, shard_batch

    compilations: list[str] = []

    def note(event: str, duration_secs: float, **more: Any) -> None:
        del duration_secs, more
        compilations.extend([event] * (event == _COMPILED))

    jax.monitoring.register_event_duration_secs_listener(note)
    state, key = replicate(fresh_state(config, AXIS)), replicate(jax.random.key(1))
    shares = NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec(AXIS))
    found = {}
    for phase, step in trained_steps(config).items():
        update, batch = pmap_step(step), shard_batch(noise(config))
        for _ in range(2):
            state, metrics = update(state, jax.device_put(batch, shares), key)
        jax.block_until_ready((state, metrics))
        compilations.clear()
        begun, copied = time.perf_counter(), ""
        try:
            # Refuses every copy that is not asked for by name, as that of the batch is.
            with jax.transfer_guard("disallow"):
                for _ in range(steps):
                    state, metrics = update(state, jax.device_put(batch, shares), key)
                jax.block_until_ready((state, metrics))
            seconds = (time.perf_counter() - begun) / steps
        except jax.errors.JaxRuntimeError as error:
            if "isallowed" not in str(error):  # "Disallowed host-to-device transfer: ..."
                raise
            copied, seconds = one_line(error), float("nan")
            state = replicate(fresh_state(config, AXIS))
        found[phase] = {"seconds": seconds, "compilations": len(compilations) / steps, "copied": copied}
    return found


def _exchanged(config: Any) -> dict[str, dict[str, int]]:
    import jax

    from glcic_jax.benchmark.operation_counts import exchanged
    from glcic_jax.training.distributed import AXIS, pmap_step, shard_batch

    state, batch, key = fresh_state(config, AXIS), shard_batch(noise(config)), jax.random.key(1)
    bytes_of = {
        name: sum(4 * leaf.size for leaf in jax.tree.leaves(network.params))
        for name, network in (("completion", state.completion), ("discriminator", state.discriminator))
        if network is not None
    }
    bytes_of["joint"] = sum(bytes_of.values())
    found = {}
    if MEASURING in trained_steps(config):
        bytes_of[MEASURING] = bytes_of["joint"] + bytes_of["completion"]  # Both of C's gradients.
    else:
        bytes_of["joint"] += bytes_of["completion"]
    for phase, step in trained_steps(config).items():
        count, total = exchanged(pmap_step(step), state, batch, key)
        found[phase] = {"count": count, "bytes": total, "gradients": bytes_of[phase]}
    return found


if __name__ == "__main__":
    click.echo(json.dumps(work(json.loads(sys.argv[1]))))

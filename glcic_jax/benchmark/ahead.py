"""Compiles updates for a device that is not there, and checks what XLA made of them.

XLA needs a description of the device and its plugin; nothing runs. cuDNN's algorithms are not chosen, because that
takes measurements on the device.
"""

import importlib.util
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from glcic_jax.benchmark import hlo
from glcic_jax.benchmark.common import (
    batch_shapes,
    load_config,
    peak_bytes,
    print_heading,
    print_table,
    update_cases,
)
from glcic_jax.errors import ConfigError, lookup

LARGEST_WINDOW = 8  # Pixels: the larger ones are kernel gradients that XLA did not recognise.

# As XLA describes an H100 SXM; an H200 has the same cores, with other memory.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: {memory}
  shared_memory_per_block_optin: 232448 cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 28 patch: 1 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""
_GPUS = {
    "h100": _HOPPER.format(bandwidth=3_352_320_000_000, memory=84_929_347_584, name="NVIDIA H100 80GB HBM3"),
    "h200": _HOPPER.format(bandwidth=4_800_000_000_000, memory=150_754_820_096, name="NVIDIA H200"),
}
_TPUS = ("v5e", "v6e")
# By the number of chips: their arrangement, and that of one host.
_TPU_TOPOLOGIES = {1: ("1x1", (1, 1, 1)), 4: ("2x2", (2, 2, 1)), 16: ("4x4", (2, 2, 1))}

_CUDA_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


class Target(NamedTuple):
    """Devices of one kind, e.g. ("h100", 8)."""

    device: str
    number: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, else a TPU."""
        return self.device in _GPUS


def parse_target(text: str) -> Target:
    """Reads a target such as "h100", "h100:8" or "v5e:4".

    Raises:
      ConfigError: There is no such device, or not that number of them.
    """
    device, _, count = text.partition(":")
    lookup(dict.fromkeys((*_GPUS, *_TPUS)), device, "target")
    target = Target(device, int(count)) if count.isdecimal() else Target(device, 0 if count else 1)
    if target.number not in (range(1, 9) if target.is_gpu else _TPU_TOPOLOGIES):
        counts = "1 to 8 GPUs" if target.is_gpu else "1, 4 or 16 chips"
        raise ConfigError(f"target {text!r}: {device} can be compiled for {counts}, such as {device}:4")
    return target


def print_ahead(
    target: str,
    config_path: str,
    batch_size: int | None,
    image_size: int | None,
    dtypes: str,
    remats: str,
    phases: str,
) -> bool:
    """Prints a Markdown table with a row for each phase, type of the arithmetic and remat.

    Args:
      target: As in `parse_target`.
      config_path: Configuration that gives the sizes.
      batch_size: Images per step over all devices; None takes the configuration's.
      image_size: Side of the crops; None takes the configuration's.
      dtypes, remats, phases: Comma-separated names.

    Returns:
      Whether the programs are as they should be; otherwise their faults have been printed below the table.

    Raises:
      ConfigError: Sizes or names do not fit, or the plugin is missing; nothing has been printed then.
    """
    devices = parse_target(target)
    _check_plugin(devices)
    _prepare(devices)
    config = load_config(config_path, batch_size)
    config.data.image_size = image_size or config.data.image_size
    if config.batch_size % devices.number:
        raise ConfigError(f"a batch of {config.batch_size} cannot be split over {devices.number} devices")
    from glcic_jax.training.distributed import AXIS  # Imports JAX, which `_prepare` comes before.

    cases = list(update_cases(config, phases, dtypes, remats, AXIS))
    print_heading(f"compiled for {devices.number} x {devices.device}")
    columns = ["phase", "type", "remat", "compile s", "GiB a device", "convolutions", f"window > {LARGEST_WINDOW}"]
    columns += ["float32 convolutions", "float32 activations", "collectives", "MB"]
    faults: list[str] = []
    print_table(columns, _rows(devices, config, cases, faults))
    if faults:
        click.echo("\nNot as it should be:\n\n" + "\n".join(f"- {fault}" for fault in faults))
    return not faults


def faults_of(program: hlo.Program, dtype: str, float32_elements: int, is_gpu: bool) -> dict[str, list[str]]:
    """Returns what slows a program down, by kind; the lists are empty in a good program.

    Args:
      program: From `hlo.read`.
      dtype: Type of the arithmetic.
      float32_elements: Elements of the largest array that is float32 in bfloat16 arithmetic, too.
      is_gpu: On a TPU, large windows are no fault.
    """
    found: dict[str, list[str]] = {"window": [], "float32 convolution": [], "float32 activation": []}
    for one in hlo.convolutions(program):
        text = f"{one.dtype} {'x'.join(map(str, one.window))} -> {list(one.result.shape)} {one.source}"
        if is_gpu and max(one.window) > LARGEST_WINDOW:
            found["window"].append(text)
        if dtype == "bfloat16" and one.dtype == "f32":
            found["float32 convolution"].append(text)
    for array, source in hlo.arrays_in_memory(program) if dtype == "bfloat16" else ():
        if array.dtype == "f32" and array.elements > float32_elements:
            found["float32 activation"].append(f"{list(array.shape)} {source}")
    return found


def _rows(
    target: Target, config: Any, cases: list[tuple[str, str, str, Any]], faults: list[str]
) -> Iterator[list[str]]:
    """Yields the rows of the table; appends a line to `faults` for each fault."""
    import jax

    from glcic_jax.training.tasks.completion import state_shapes

    for phase, dtype, remat, spec in cases:
        begin = time.perf_counter()
        state = state_shapes(spec, config.data.image_size)
        compiled = _compile(target, phase, state, config.batch_size, config.data.image_size)
        seconds = time.perf_counter() - begin
        program = hlo.read(compiled.as_text())
        images = config.batch_size // target.number * config.data.image_size**2 * 4  # With the mask.
        parameters = max(leaf.size for leaf in jax.tree.leaves(state))
        found = faults_of(program, dtype, max(images, parameters), target.is_gpu)
        faults += [f"{phase}, {dtype}: {kind} {text}" for kind, texts in found.items() for text in texts]
        exchanged = hlo.collectives(program)
        yield [
            phase,
            dtype,
            remat,
            f"{seconds:.0f}",
            f"{peak_bytes(compiled.memory_analysis()) / 2**30:.2f}",
            str(sum(1 for _ in hlo.convolutions(program))),
            *(str(len(texts)) for texts in found.values()),
            str(len(exchanged)),
            f"{sum(exchanged) / 1e6:.1f}",
        ]


def _compile(target: Target, phase: str, state: Any, batch_size: int, image_size: int) -> Any:
    """Compiles an update as `distributed.pmap_step` maps it, which takes only devices that are there."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from glcic_jax.training.distributed import AXIS
    from glcic_jax.training.tasks.completion import STEPS

    mesh = Mesh(np.array(_topology(target).devices), (AXIS,))

    def placed(shapes: Any, *axes: str) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.tree.map(lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=sharding), shapes)

    whole, split = PartitionSpec(), PartitionSpec(AXIS)
    step = jax.shard_map(
        STEPS[phase], mesh=mesh, in_specs=(whole, split, whole), out_specs=(whole, whole), check_vma=False
    )
    arguments = (
        placed(state),
        placed(batch_shapes(batch_size, image_size), AXIS),
        placed(jax.eval_shape(jax.random.key, 0)),
    )
    return jax.jit(step, donate_argnums=0).lower(*arguments).compile()


def _topology(target: Target) -> Any:
    from jax.experimental import topologies

    if target.is_gpu:
        return topologies.get_topology_desc(
            platform="cuda", target_config=_GPUS[target.device], topology=f"1x1x{target.number}"
        )
    arrangement, host = _TPU_TOPOLOGIES[target.number]
    name = f"{target.device}:{arrangement}"
    return topologies.get_topology_desc(platform="tpu", topology_name=name, chips_per_host_bounds=host)


def _check_plugin(target: Target) -> None:
    if target.is_gpu and not any(map(importlib.util.find_spec, _CUDA_PLUGINS)):
        raise ConfigError(
            "XLA's compiler for NVIDIA GPUs is missing: pip install 'jax[cuda13]' (no GPU is needed)"
        )
    if not target.is_gpu and importlib.util.find_spec("libtpu") is None:
        raise ConfigError("XLA's compiler for TPUs is missing: pip install libtpu (no TPU is needed)")


def _prepare(target: Target) -> None:
    """Keeps JAX, which must not have been imported yet, from looking for the device."""
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0"  # There is no device to time algorithms on.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # Of Google's cloud, for the TPU of this machine.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # No process uses a TPU.
    if not target.is_gpu:
        return
    from jax._src import xla_bridge

    canonicalize = xla_bridge.canonicalize_platform
    # JAX translates "gpu" by the devices that it sees.
    xla_bridge.canonicalize_platform = lambda platform: "cuda" if platform == "gpu" else canonicalize(platform)

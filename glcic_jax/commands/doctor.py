"""The command `glcic doctor`. JAX is imported inside it."""

import contextlib
import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import click

from glcic_jax.commands import serve
from glcic_jax.errors import UserError, printable

# The modules of each extra of pyproject.toml that is for users.
EXTRAS = {
    "benchmark": ("torch",),
    "cuda12": ("jax_cuda12_plugin",),
    "cuda13": ("jax_cuda13_plugin",),
    "heic": ("pillow_heif",),
    "prepare": ("tensorflow",),
    "serve": serve.PACKAGES,
}


@click.command()
def doctor() -> None:
    """Show versions, memory, cache, weights, extras and devices, and run a convolution."""
    for name, text in _rows():
        click.echo(f"{name:18} {printable(text)}")


def _rows() -> Iterator[tuple[str, str]]:
    from glcic_jax.runtime import available_memory, core_count
    from glcic_jax.training.checkpoints import package_versions

    yield "python", platform.python_version()
    yield from package_versions().items()
    yield "installed in", str(Path(__file__).parents[1])
    yield "cores", str(core_count())
    memory = available_memory()
    yield "memory", "unknown" if memory is None else f"{memory / 2**30:.1f} GiB free"
    yield "cache", _cache()
    yield "weights", _weights()
    installed = [name for name, modules in EXTRAS.items() if all(map(importlib.util.find_spec, modules))]
    missing = [name for name in EXTRAS if name not in installed]
    yield "extras", ", ".join(installed) or "none"
    if missing:
        yield "extras, missing", f"{', '.join(missing)} (pip install 'glcic-jax[NAME]')"
    yield from _devices()


def _cache() -> str:
    from glcic_jax.weights.store import home

    try:
        folder = home()
    except UserError as error:
        return f"none: {error}"
    # Not `Path.exists`, which raises where a parent may not be searched.
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not os.path.isdir(existing) or not os.access(existing, os.W_OK | os.X_OK):
        return f"{folder}, which cannot be written: set GLCIC_HOME to another folder"
    if existing != folder:
        return f"{folder}, not created yet"
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # Another process removed it.
            size += path.lstat().st_size if path.is_file() else 0
    return f"{folder}, {size / 1e6:.1f} MB"


def _weights() -> str:
    from glcic_jax.weights import DEFAULT_NAME
    from glcic_jax.weights.store import built_in_entries, stored

    try:
        entries = built_in_entries() + stored()
    except UserError as error:
        return str(error)
    names = [f"{entry.name} (damaged)" if entry.error else entry.name for entry in entries]
    variable = os.environ.get("GLCIC_WEIGHTS")
    return f"{', '.join(names)}; default: {f'{variable} ($GLCIC_WEIGHTS)' if variable else DEFAULT_NAME}"


def _devices() -> Iterator[tuple[str, str]]:
    import jax
    import jax.numpy as jnp

    from glcic_jax.model.convolutions import upsampling_convolution
    from glcic_jax.runtime import start_backend

    start_backend()
    devices = jax.local_devices()
    for device in devices:
        stats = device.memory_stats() or {}
        memory = f", {stats['bytes_limit'] / 2**30:.1f} GiB" if "bytes_limit" in stats else ""
        yield "device", f"{device.device_kind} ({device.platform}){memory}"
    if all(device.platform == "cpu" for device in devices) and (reason := _unused_gpu()) is not None:
        yield "unused GPU", reason
    output = upsampling_convolution(jnp.ones((1, 8, 8, 4)), jnp.ones((4, 4, 4, 2)))
    yield "a convolution", f"runs: {output.shape}"


def _unused_gpu() -> str | None:
    """Returns the NVIDIA GPU of a machine on which JAX runs on the CPU, with the remedy; None if there is none."""
    from glcic_jax.runtime import nvidia_gpu

    found = nvidia_gpu()
    if found is None:
        return None
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return f"{found}: JAX_PLATFORMS={platforms} hides it: unset it to use it"
    if any(map(importlib.util.find_spec, (*EXTRAS["cuda12"], *EXTRAS["cuda13"]))):
        return f"{found}: JAX has CUDA and does not find it: 'JAX_PLATFORMS=cuda glcic doctor' shows why"
    return f"{found}: JAX is installed without CUDA: pip install 'glcic-jax[cuda13]' (older drivers: [cuda12])"

"""Paths, configurations small enough for two CPU cores, and ways to run commands."""

import importlib.metadata
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import numpy as np
from click.testing import CliRunner
from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parents[2]
# For XLA_FLAGS: optimisation takes most of the compile time, and tests look at results alone (17 -> 5 CPU s for a
# joint step). XLA may not know the last flag from 0.11 on, and an unknown flag ends the process.
COMPILE_QUICKLY = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    COMPILE_QUICKLY += " --xla_cpu_use_fusion_emitters=false"
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "common")
GAN_CONFIGS = ["dcgan", "vanilla_gan"]
COMPLETION_CONFIGS = [name for name in CONFIGS if name not in GAN_CONFIGS]


def load_config(name: str, *variant: str) -> ConfigDict:
    """The configuration of configs/<name>.py, or a variant of it, as main.py would load it."""
    return load_module(name).get_config(*variant)


def load_module(name: str) -> ModuleType:
    """The module configs/<name>.py."""
    spec = importlib.util.spec_from_file_location(f"config_{name}", ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_line(caught) -> str:
    """The message of an error that a person reads, which has to be one line."""
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def command_runner() -> CliRunner:
    """Runs commands and keeps stdout and stderr apart, which before click 8.2 has to be asked for."""
    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return CliRunner(**apart)


def shrink(config: ConfigDict) -> ConfigDict:
    """The same training at 32 px and a sixteenth of the width, a few steps a phase, on the samples."""
    config.data.source = "samples"
    config.data.listing = ""
    config.start_from = ""
    config.batch_size = 4
    for phase in config.phases:
        config.phases[phase] = min(config.phases[phase], 2)
    config.data.image_size = 32
    config.data.resize_range = (32, 48)
    config.data.cache_images = 16
    config.data.threads = 2
    for sampler in ("rectangle", "rectangles"):
        config.mask[sampler].min_side = 6
        config.mask[sampler].max_side = 14
    config.completion.width = 1 / 16
    config.discriminator.width = 1 / 16
    config.discriminator.local_size = 16
    config.discriminator.global_channels = (64, 128, 256)
    config.discriminator.local_channels = (64, 128)
    config.log_every = config.validate_every = config.grid_every = config.checkpoint_every = 2
    config.validation_images = 4
    config.grid_images = 2
    return config


def shrink_gan(config: ConfigDict) -> ConfigDict:
    """The same training at 16 px and a sixteenth of the width, 4 steps; needs a data source."""
    config.batch_size = 4
    config.phases.adversarial = 4
    config.data.centre_crop = 0
    config.data.image_size = 16
    config.data.cache_images = 16
    config.data.threads = 2
    config.network.width = 1 / 16
    config.network.latent_size = 8
    config.log_every = config.validate_every = config.grid_every = config.checkpoint_every = 2
    config.validation_images = 4
    config.grid_images = 4
    return config


def smooth_batch(count: int, size: int) -> dict[str, np.ndarray]:
    """One device's batch of smooth random pictures, uint8, and their places."""
    coarse = np.random.default_rng(0).uniform(0, 255, (count, size // 8, size // 8, 3))
    pictures = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2).astype(np.uint8)
    return {"image": pictures, "place": np.arange(count, dtype=np.int32)}

"""What all tests share: a compile cache, and configurations small enough for two CPU cores."""

import importlib.util
import inspect
import os
from pathlib import Path

# Before anything imports JAX. Compiling is most of what the tests do.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/glcic_jax/tests").expanduser()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from ml_collections import ConfigDict

from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.state import TrainState, create_recipe, create_state

ROOT = Path(__file__).resolve().parents[1]
# For XLA_FLAGS of processes that train: whether XLA optimises their programs is nothing to what the tests look at,
# and most of their time (31 -> 7 s for a joint step).
COMPILE_QUICKLY = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "common")


# Whole files go to one worker: where a long one is begun last, the others wait for it.
_LONGEST_FIRST = (
    "test_processes.py",
    "test_notebook.py",
    "test_serve_in_a_browser.py",
    "test_serve.py",
    "test_every_config.py",
    "test_killed.py",
    "test_steps.py",
    "test_training.py",
    "test_devices.py",
    "test_complete_command.py",
    "test_completer.py",
    "test_health.py",
    "test_stopping.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that take longest."""
    order = {name: index for index, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def load_config(name: str) -> ConfigDict:
    """The configuration of configs/<name>.py, as main.py would load it."""
    spec = importlib.util.spec_from_file_location(f"config_{name}", ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


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


@pytest.fixture
def config() -> ConfigDict:
    """The whole schedule, shrunk."""
    return shrink(load_config("joint"))


@pytest.fixture
def create():
    """Builds a fresh state from a configuration: `create(config, axis_name=None)`."""

    def build(config: ConfigDict, axis_name: str | None = None) -> TrainState:
        recipe = create_recipe(config, axis_name)
        mean_pixel = np.array([0.5, 0.45, 0.4], np.float32)
        return create_state(recipe, jax.random.key(0), config.data.image_size, mean_pixel)

    return build


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A run's workdir with the checkpoints 3 and 40; to be copied before anything is changed."""
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    config = shrink(load_config("joint"))
    mean_pixel = np.array([0.5, 0.45, 0.4], np.float32)
    state = create_state(create_recipe(config, None), jax.random.key(0), config.data.image_size, mean_pixel)
    checkpoints = Checkpoints(workdir)
    for step in (3, 40):
        checkpoints.save(state.replace(step=np.int32(step)), {}, config.to_dict(), {})
    checkpoints.close()
    return workdir


@pytest.fixture
def store_home(tmp_path, monkeypatch) -> Path:
    """The home of an empty store of weights, which need not exist, and an empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("GLCIC_WEIGHTS", raising=False)
    monkeypatch.setenv("GLCIC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def smooth_batch(count: int, size: int) -> dict[str, np.ndarray]:
    """One device's batch of smooth random pictures, uint8, and their places."""
    coarse = np.random.default_rng(0).uniform(0, 255, (count, size // 8, size // 8, 3))
    pictures = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2).astype(np.uint8)
    return {"image": pictures, "place": np.arange(count, dtype=np.int32)}


@pytest.fixture
def batch(config: ConfigDict) -> dict[str, np.ndarray]:
    """A batch that fits the configuration."""
    return smooth_batch(config.batch_size, config.data.image_size)

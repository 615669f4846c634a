"""What all tests share: a compile cache, and configurations small enough for two CPU cores."""

import os
from pathlib import Path

from helpers.common import COMPILE_QUICKLY, load_config, shrink, smooth_batch

# Before anything imports JAX. Compiling is most of what the tests do.
os.environ.setdefault("XLA_FLAGS", COMPILE_QUICKLY)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/glcic_jax/tests").expanduser()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.training.tasks.completion import TrainState, create_spec, create_state


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs files marked `long_setup` first: a long training begun last would leave the other workers idle."""
    items.sort(key=lambda item: item.get_closest_marker("long_setup") is None)


@pytest.fixture
def config() -> ConfigDict:
    """The whole schedule, shrunk."""
    return shrink(load_config("joint"))


@pytest.fixture
def create():
    """Builds a fresh state from a configuration: `create(config, axis_name=None)`."""

    def build(config: ConfigDict, axis_name: str | None = None) -> TrainState:
        spec = create_spec(config, axis_name)
        mean_pixel = np.array([0.5, 0.45, 0.4], np.float32)
        return create_state(spec, jax.random.key(0), config.data.image_size, mean_pixel)

    return build


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A run's workdir with the checkpoints 3 and 40; to be copied before anything is changed."""
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    config = shrink(load_config("joint"))
    mean_pixel = np.array([0.5, 0.45, 0.4], np.float32)
    state = create_state(create_spec(config, None), jax.random.key(0), config.data.image_size, mean_pixel)
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


@pytest.fixture
def batch(config: ConfigDict) -> dict[str, np.ndarray]:
    """A batch that fits the configuration."""
    return smooth_batch(config.batch_size, config.data.image_size)

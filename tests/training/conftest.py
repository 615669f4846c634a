"""One small run of all three phases, which the tests of all workers share."""

import ast
from pathlib import Path

import pytest
from helpers.common import load_config
from helpers.runs import NARROW, UNBROKEN, finish, shared_folder, start_main
from ml_collections import ConfigDict

from glcic_jax.files import lock


@pytest.fixture(scope="session")
def unbroken_run(tmp_path_factory) -> Path:
    """The workdir of a run that was never stopped, with its stderr in `unbroken.txt` beside it; to be copied."""
    folder = shared_folder(tmp_path_factory)
    workdir = folder / "unbroken"
    with lock(folder / "unbroken.lock"):
        if not workdir.with_suffix(".txt").exists():
            workdir.with_suffix(".txt").write_text(finish(start_main(workdir, UNBROKEN)))
    return workdir


@pytest.fixture
def unbroken_config() -> ConfigDict:
    """The configuration of `unbroken_run`."""
    config = load_config("quickstart")
    overrides = dict(override.split("=") for override in (*NARROW, *UNBROKEN))
    config.update_from_flattened_dict({key: ast.literal_eval(value) for key, value in overrides.items()})
    return config

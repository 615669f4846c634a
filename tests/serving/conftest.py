"""One tiny network, in this process and as a file, for all tests of the service."""

from pathlib import Path

import pytest
from helpers.tiny import tiny_weights

from glcic_jax.completion.completer import Completer
from glcic_jax.weights.file import save_weights


@pytest.fixture(scope="session")
def completer() -> Completer:
    return Completer(tiny_weights())


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(tiny_weights(), path)
    return path

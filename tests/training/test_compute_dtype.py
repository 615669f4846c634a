"""The type of the arithmetic: what "auto" stands for, and that a run keeps it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from helpers.common import load_config

from glcic_jax.errors import ConfigError, DataError
from glcic_jax.training import resume
from glcic_jax.training.tasks.completion import create_spec
from glcic_jax.training.updates import resolve_compute_dtype


def device(platform, kind, **more):
    return [SimpleNamespace(platform=platform, device_kind=kind, **more)]


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        (device("cpu", "cpu"), "float32"),
        (device("gpu", "NVIDIA H100 80GB HBM3", compute_capability="9.0"), "bfloat16"),
        (device("gpu", "NVIDIA B200", compute_capability="10.0"), "bfloat16"),
        (device("gpu", "Tesla V100-SXM2-16GB", compute_capability="7.0"), "float32"),
        (device("gpu", "AMD Instinct MI300X", compute_capability="gfx942"), "bfloat16"),
        (device("tpu", "TPU v5 lite"), "bfloat16"),
    ],
)
def test_auto_follows_the_device(devices, expected, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert resolve_compute_dtype("auto") == expected
    assert resolve_compute_dtype("auto", earlier="float32") == "float32"
    assert resolve_compute_dtype("bfloat16", earlier="float32") == "bfloat16"


def test_unknown_type_is_refused():
    with pytest.raises(ConfigError, match="unknown compute_dtype 'half': choose one of auto, bfloat16, float32"):
        resolve_compute_dtype("half")


@pytest.mark.parametrize(("name", "expected"), [("joint", "auto"), ("celeba", "auto"), ("quickstart", "float32")])
def test_only_full_size_configurations_follow_the_device(name, expected):
    assert load_config(name).compute_dtype == expected


def test_specification_accepts_auto():
    assert create_spec(load_config("joint")).completion_network.dtype is jnp.float32


def test_type_of_the_newest_readable_checkpoint_is_kept(tmp_path, monkeypatch):
    def read_meta(checkpoints, step):
        if step == 30:
            raise DataError("damaged")
        return {"config": {"compute_dtype": {10: "float32", 20: "bfloat16"}[step]}}

    assert resume.earlier_compute_dtype(tmp_path / "new") is None
    monkeypatch.setattr(resume.Checkpoints, "steps", lambda checkpoints: [10, 20, 30])
    monkeypatch.setattr(resume.Checkpoints, "read_meta", read_meta)
    assert resume.earlier_compute_dtype(tmp_path) == "bfloat16"

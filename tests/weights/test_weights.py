"""Portable weights: written, read, checked; damaged and malicious files."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers.common import one_line

from glcic_jax.errors import WeightsError
from glcic_jax.model import masks
from glcic_jax.model.networks import CompletionNetwork, ContextDiscriminator
from glcic_jax.training.checkpoints import Checkpoints
from glcic_jax.weights.file import Description, Weights, load_weights, save_weights
from glcic_jax.weights.from_run import run_weights

DESCRIPTION = Description("signed", (0.5, 0.25, 1.0), 32, (6, 14), "a test", "CC0")
NETWORK = CompletionNetwork(1 / 16, "conv_relu_bn", "clip")


def random_variables(network, *inputs) -> dict:
    """Variables of the right shapes, all of them different numbers; variances above 0."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: generator.uniform(0.1, 1.0, leaf.shape).astype(np.float32), shapes)


@pytest.fixture
def weights() -> Weights:
    return Weights(NETWORK, random_variables(NETWORK, np.zeros((1, 8, 8, 4), np.float32)), DESCRIPTION)


def assert_same(found: Weights, expected: Weights) -> None:
    assert (found.network, found.description) == (expected.network, expected.description)
    assert jax.tree.structure(found.variables) == jax.tree.structure(expected.variables)
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)


def test_a_completion_network_comes_back_as_it_was(weights, tmp_path):
    save_weights(weights, tmp_path / "a.safetensors")
    assert_same(load_weights(tmp_path / "a.safetensors"), weights)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_float16_halves_the_file_and_keeps_statistics_and_the_checksum(weights, tmp_path):
    weights.variables["batch_stats"]["bn1"]["var"][:] = 1e-9  # Zero in float16.
    save_weights(weights, tmp_path / "wide.safetensors")
    save_weights(weights, tmp_path / "narrow.safetensors", "float16")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("narrow", "wide")]
    assert sizes[0] < 0.7 * sizes[1]
    found = load_weights(tmp_path / "narrow.safetensors")
    jax.tree.map(np.testing.assert_array_equal, found.variables["batch_stats"], weights.variables["batch_stats"])
    pairs = jax.tree.map(lambda mine, theirs: np.abs(mine - theirs).max(), found.variables, weights.variables)
    assert 0 < max(jax.tree.leaves(pairs)) < 2**-11
    save_weights(found, tmp_path / "again.safetensors")
    digests = set()
    for name in ("narrow", "again"):
        with safetensors.safe_open(tmp_path / f"{name}.safetensors", "np") as file:
            digests.add(file.metadata()["sha256"])
    assert len(digests) == 1


def test_what_float16_cannot_hold_is_refused(weights, tmp_path):
    weights.variables["params"]["conv1"]["bias"][0] = 1e6
    with pytest.raises(WeightsError, match="conv1/bias holds numbers beyond float16: write them as float32"):
        save_weights(weights, tmp_path / "a.safetensors", "float16")
    assert not os.listdir(tmp_path)


def test_a_context_discriminator_comes_back_as_it_was(tmp_path):
    network = ContextDiscriminator(("local", "global"), 16, ((8, 4), (4, 8, 8)), 1.0, "conv_relu_bn")
    inputs = np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 2), np.int32)
    weights = Weights(network, random_variables(network, *inputs), DESCRIPTION)
    save_weights(weights, tmp_path / "a.safetensors")
    assert_same(load_weights(tmp_path / "a.safetensors"), weights)


def test_other_programs_can_read_what_inference_needs(weights, tmp_path):
    save_weights(weights, tmp_path / "a.safetensors")
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        metadata = file.metadata()
        assert "params/conv1/kernel" in file.keys()  # noqa: SIM118
    assert json.loads(metadata["network"]) == {
        "kind": "completion",
        "width": 1 / 16,
        "layer_order": "conv_relu_bn",
        "output_activation": "clip",
    }
    assert json.loads(metadata["description"])["mean_pixel"] == [0.5, 0.25, 1.0]


def rewrite(path, arrays=None, **metadata) -> None:
    """Changes a file, metadata too; a value None takes a key out."""
    with safetensors.safe_open(path, "np") as file:
        before = dict(file.metadata())
    after = {key: value for key, value in (before | metadata).items() if value is not None}
    path.write_bytes(safetensors.numpy.save(arrays or safetensors.numpy.load_file(path), after))


FIELDS = {"kind": "completion", "width": 1 / 16, "layer_order": "conv_relu_bn", "output_activation": "clip"}
SAID = dataclasses.asdict(DESCRIPTION)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"format": None}, "import it with"),
        ({"format": "glcic_jax weights 9"}, "upgrade"),
        ({"sha256": "0" * 64}, "damaged"),
        ({"network": None}, "network"),
        ({"network": "{"}, "description cannot be used"),
        ({"network": "[]"}, "description cannot be used"),
        ({"network": json.dumps(FIELDS | {"kind": "other"})}, "other"),
        ({"network": json.dumps(FIELDS | {"width": 1e9})}, "width"),
        ({"network": json.dumps(FIELDS | {"width": float("nan")})}, "width"),
        ({"network": json.dumps(FIELDS | {"width": "1"})}, "description cannot be used"),
        ({"network": json.dumps(FIELDS | {"width": 1 / 8})}, "has the shape"),
        ({"network": json.dumps(FIELDS | {"layer_order": "bn"})}, "layer order"),
        ({"network": json.dumps(FIELDS | {"output_activation": "tanh"})}, "tanh"),
        ({"network": json.dumps(FIELDS | {"dtype": "evil"})}, "dtype"),
        ({"description": None}, "description"),
        ({"description": json.dumps(SAID | {"mean_pixel": [0.5, 0.5]})}, "mean pixel"),
        ({"description": json.dumps(SAID | {"mean_pixel": [0.5, 0.5, 128]})}, "mean pixel"),
        ({"description": json.dumps(SAID | {"input_form": "x"})}, "input form"),
        ({"description": json.dumps(SAID | {"image_size": -4})}, "image size"),
        ({"description": json.dumps(SAID | {"hole_sides": [0, 3]})}, "hole sides"),
        ({"description": json.dumps(SAID | {"more": 1})}, "more"),
        ({"description": json.dumps(SAID | {"image_size": True})}, "image size"),
        ({"description": json.dumps(SAID | {"hole_sides": [14, 6]})}, "hole sides"),
        ({"description": json.dumps(SAID | {"licence": None})}, "licence"),
        ({"description": json.dumps(SAID | {"origin": 5})}, "origin"),
        ({"description": "[" * 100_000}, "description cannot be used"),
    ],
)
def test_a_description_that_cannot_be_used_is_one_line(metadata, told, weights, tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(weights, path)
    rewrite(path, **metadata)
    with pytest.raises(WeightsError, match=r"a\.safetensors: ") as caught:
        load_weights(path)
    assert told in one_line(caught)


JUDGE = {
    "kind": "context_discriminator",
    "branches": ["local"],
    "local_size": 16,
    "channels": [[8, 4]],
    "width": 1.0,
    "layer_order": "conv_relu_bn",
}


@pytest.mark.parametrize(
    "change",
    [
        {"local_size": 1000},
        {"local_size": "x"},
        {"local_size": 0},
        {"branches": ["nope"]},
        {"branches": [["a"]]},
        {"branches": ["local", "local"], "channels": [[8, 4], [8, 4]]},
        {"branches": ["local", "global"]},
        {"channels": [[]]},
        {"channels": [[-1]]},
    ],
)
def test_a_discriminator_that_cannot_be_is_one_line(change, weights, tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(weights, path)
    rewrite(path, network=json.dumps(JUDGE | change))
    with pytest.raises(WeightsError, match=r"a\.safetensors: ") as caught:
        load_weights(path)
    one_line(caught)


def test_a_changed_byte_a_cut_and_no_file_are_one_line(weights, tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(weights, path)
    whole = path.read_bytes()
    for damaged in (
        whole[:-1] + bytes([whole[-1] ^ 1]),
        whole[:-4],
        whole[:100],
        b"",
        b"not a file of weights",
        b"\xff" * 64,
    ):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"a\.safetensors: ") as caught:
            load_weights(path)
        one_line(caught)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(WeightsError, match="file"):
            load_weights(missing)


def changed(weights: Weights, change) -> Weights:
    variables = jax.tree.map(np.copy, weights.variables)
    change(variables)
    return weights._replace(variables=variables)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: v["params"].pop("conv5"), "params/conv5/bias .* is missing"),
        (lambda v: v["params"].update(conv18={"bias": np.zeros(3, np.float32)}), "conv18/bias .* no layer"),
        (lambda v: v["params"]["conv1"].update(bias=np.zeros(3, np.float32)), "conv1/bias has the shape"),
        (lambda v: v["params"]["conv1"].update(bias=np.zeros(4)), "float64"),
        (lambda v: v["params"]["conv1"]["bias"].fill(np.nan), "not finite"),
        (lambda v: v["batch_stats"]["bn2"]["var"].fill(-1), "variances below 0"),
    ],
)
def test_arrays_that_do_not_fit_are_not_written(change, told, weights, tmp_path):
    with pytest.raises(WeightsError, match=told):
        save_weights(changed(weights, change), tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []


def test_the_weights_of_a_run_are_its_moving_average(config, create, tmp_path):
    config.completion.ema_decay = 0.5
    config.mask.sampler = "rectangle+free_form"
    state = create(config)
    ema = jax.tree.map(lambda leaf: leaf + 1.0, state.ema)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state.replace(ema=ema, step=state.step + 3), {}, config.to_dict(), {})
    checkpoints.close()
    found = run_weights(tmp_path)
    expected = {"params": ema["params"], "batch_stats": ema["batch_stats"]}
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected)
    assert found.network == CompletionNetwork(1 / 16)
    assert found.description.input_form == "mean_subtracted"
    np.testing.assert_allclose(found.description.mean_pixel, (0.5, 0.45, 0.4))
    assert found.description.image_size == 32
    assert found.description.hole_sides == (2, 14)
    assert "samples, step 3" in found.description.origin
    save_weights(found, tmp_path / "a.safetensors")
    assert_same(load_weights(tmp_path / "a.safetensors"), found)


def test_a_folder_that_is_no_run_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="holds no checkpoints"):
        run_weights(tmp_path)


def test_every_sampler_says_how_large_its_holes_are(config):
    for name in masks.SAMPLERS:
        smallest, largest = masks.hole_sides(name, config.mask.to_dict(), 32)
        assert 0 < smallest <= largest <= 32

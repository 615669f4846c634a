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
from glcic_jax.weights.file import Description, Weights, load_weights, save_weights, summarise
from glcic_jax.weights.from_run import run_weights

DESCRIPTION = Description("signed", (0.5, 0.25, 1.0), 32, (6, 14), "a test", "CC0")
NETWORK = CompletionNetwork(1 / 16, "conv_relu_bn", "clip")


def random_values(shapes):
    """Arrays of these shapes, all of them different numbers above 0."""
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: generator.uniform(0.1, 1.0, leaf.shape).astype(leaf.dtype), shapes)


def random_variables(network, *inputs) -> dict:
    return random_values(jax.eval_shape(network.init, jax.random.key(0), *inputs))


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights(NETWORK, random_variables(NETWORK, np.zeros((1, 8, 8, 4), np.float32)), DESCRIPTION)


@pytest.fixture
def path(weights, tmp_path):
    """A file of the weights."""
    save_weights(weights, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def changed(weights: Weights, change) -> Weights:
    variables = jax.tree.map(np.copy, weights.variables)
    change(variables)
    return weights._replace(variables=variables)


def assert_same(found: Weights, expected: Weights) -> None:
    assert (found.network, found.description) == (expected.network, expected.description)
    assert jax.tree.structure(found.variables) == jax.tree.structure(expected.variables)
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)


def refusal(path) -> str:
    """The one line of error, beginning with the name of the file, that a file must end with."""
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert one_line(caught).startswith(f"{path}: ")
    return str(caught.value)


def test_a_completion_network_comes_back(weights, path):
    assert_same(load_weights(path), weights)
    assert os.listdir(path.parent) == [path.name]


def test_a_context_discriminator_comes_back(tmp_path):
    network = ContextDiscriminator(("local", "global"), 16, ((8, 4), (4, 8, 8)), 1.0, "conv_relu_bn")
    inputs = np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 2), np.int32)
    weights = Weights(network, random_variables(network, *inputs), DESCRIPTION)
    save_weights(weights, tmp_path / "a.safetensors")
    assert_same(load_weights(tmp_path / "a.safetensors"), weights)


def test_float16_halves_the_file_and_keeps_statistics_and_checksum(weights, tmp_path):
    weights = changed(weights, lambda v: v["batch_stats"]["bn1"]["var"].fill(1e-9))  # Zero in float16.
    save_weights(weights, tmp_path / "wide.safetensors")
    save_weights(weights, tmp_path / "narrow.safetensors", "float16")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("narrow", "wide")]
    assert sizes[0] < 0.7 * sizes[1]
    found = load_weights(tmp_path / "narrow.safetensors")
    jax.tree.map(np.testing.assert_array_equal, found.variables["batch_stats"], weights.variables["batch_stats"])
    errors = jax.tree.map(lambda mine, theirs: np.abs(mine - theirs).max(), found.variables, weights.variables)
    assert 0 < max(jax.tree.leaves(errors)) < 2**-11
    save_weights(found, tmp_path / "again.safetensors")
    digests = set()
    for name in ("narrow", "again"):
        with safetensors.safe_open(tmp_path / f"{name}.safetensors", "np") as file:
            digests.add(file.metadata()["sha256"])
    assert len(digests) == 1


def test_numbers_beyond_float16_are_refused(weights, tmp_path):
    weights = changed(weights, lambda v: v["params"]["conv1"]["bias"].fill(1e6))
    with pytest.raises(WeightsError, match="conv1/bias holds numbers beyond float16: write them as float32"):
        save_weights(weights, tmp_path / "a.safetensors", "float16")
    assert not os.listdir(tmp_path)


FIELDS = {"kind": "completion", "width": 1 / 16, "layer_order": "conv_relu_bn", "output_activation": "clip"}
JUDGE = {
    "kind": "context_discriminator",
    "branches": ["local"],
    "local_size": 16,
    "channels": [[8, 4]],
    "width": 1.0,
    "layer_order": "conv_relu_bn",
}
SAID = dataclasses.asdict(DESCRIPTION)


def test_other_programs_can_read_what_inference_needs(path):
    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
        assert "params/conv1/kernel" in file.keys()  # noqa: SIM118
    assert json.loads(metadata["network"]) == FIELDS
    assert json.loads(metadata["description"])["mean_pixel"] == [0.5, 0.25, 1.0]


def rewrite(path, metadata) -> None:
    """Changes the metadata of a file, as an early version without their checksum would have written it."""
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "np") as file:
        changed = file.metadata() | {"metadata_sha256": None} | metadata
    path.write_bytes(
        safetensors.numpy.save(arrays, {key: value for key, value in changed.items() if value is not None})
    )


def test_files_without_a_checksum_of_their_metadata_are_read(weights, path):
    rewrite(path, {})
    assert_same(load_weights(path), weights)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": None}, "import it with"),
        ({"format": "glcic_jax weights 9"}, "upgrade"),
        ({"sha256": "0" * 64}, "damaged"),
        ({"metadata_sha256": "0" * 64}, "damaged"),
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
        ({"network": json.dumps(JUDGE | {"local_size": 1000})}, ""),
        ({"network": json.dumps(JUDGE | {"local_size": "x"})}, ""),
        ({"network": json.dumps(JUDGE | {"local_size": 0})}, ""),
        ({"network": json.dumps(JUDGE | {"branches": ["nope"]})}, "nope"),
        ({"network": json.dumps(JUDGE | {"branches": [["a"]]})}, ""),
        ({"network": json.dumps(JUDGE | {"branches": ["local", "local"], "channels": [[8, 4], [8, 4]]})}, "once"),
        ({"network": json.dumps(JUDGE | {"branches": ["local", "global"]})}, ""),
        ({"network": json.dumps(JUDGE | {"channels": [[]]})}, ""),
        ({"network": json.dumps(JUDGE | {"channels": [[-1]]})}, ""),
        ({"description": None}, "description"),
        ({"description": json.dumps(SAID | {"mean_pixel": [0.5, 0.5]})}, "mean pixel"),
        ({"description": json.dumps(SAID | {"mean_pixel": [0.5, 0.5, 128]})}, "mean pixel"),
        ({"description": json.dumps(SAID | {"input_form": "x"})}, "input form"),
        ({"description": json.dumps(SAID | {"image_size": -4})}, "image size"),
        ({"description": json.dumps(SAID | {"image_size": True})}, "image size"),
        ({"description": json.dumps(SAID | {"hole_sides": [0, 3]})}, "hole sides"),
        ({"description": json.dumps(SAID | {"hole_sides": [14, 6]})}, "hole sides"),
        ({"description": json.dumps(SAID | {"more": 1})}, "more"),
        ({"description": json.dumps(SAID | {"licence": None})}, "licence"),
        ({"description": json.dumps(SAID | {"origin": 5})}, "origin"),
        ({"description": "[" * 100_000}, "description cannot be used"),
    ],
)
def test_unusable_metadata_is_one_line(metadata, message, path):
    rewrite(path, metadata)
    assert message in refusal(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"network": json.dumps(FIELDS | {"kind": 5})},
        {"network": "[]"},
        {"description": json.dumps(SAID | {"image_size": "32"})},
        {"description": json.dumps(SAID | {"licence": None})},
    ],
)
def test_summary_of_unusable_metadata_is_one_line(metadata, path):
    assert summarise(path) == ("completion", 32, "CC0")
    rewrite(path, metadata)
    with pytest.raises(WeightsError, match="its description cannot be used"):
        summarise(path)


def test_damage_and_missing_files_are_one_line(path, tmp_path):
    whole = path.read_bytes()
    for damaged in (
        whole[:-1] + bytes([whole[-1] ^ 1]),
        whole.replace(b"a test", b"A test"),
        whole[:-4],
        whole[:100],
        b"",
        b"not a file of weights",
        b"\xff" * 64,
    ):
        path.write_bytes(damaged)
        refusal(path)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        assert "file" in refusal(missing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["params"].pop("conv5"), "params/conv5/bias .* is missing"),
        (lambda v: v["params"].update(conv18={"bias": np.zeros(3, np.float32)}), "conv18/bias .* no layer"),
        (lambda v: v["params"]["conv1"].update(bias=np.zeros(3, np.float32)), "conv1/bias has the shape"),
        (lambda v: v["params"]["conv1"].update(bias=np.zeros(4)), "float64"),
        (lambda v: v["params"]["conv1"]["bias"].fill(np.nan), "not finite"),
        (lambda v: v["batch_stats"]["bn2"]["var"].fill(-1), "variances below 0"),
    ],
)
def test_arrays_that_do_not_fit_are_not_written(change, message, weights, tmp_path):
    with pytest.raises(WeightsError, match=message):
        save_weights(changed(weights, change), tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []


def test_weights_of_a_run_are_its_moving_average(config, create, tmp_path, caplog):
    config.completion.ema_decay = 0.5
    config.mask.sampler = "rectangle+free_form"
    with jax.disable_jit():  # Shapes alone: compiling the initial state takes seconds.
        state = random_values(jax.eval_shape(lambda: create(config)))
    checkpoints = Checkpoints(tmp_path)
    mean_pixel = np.array([0.5, 0.45, 0.4], np.float32)
    checkpoints.save(state.replace(step=np.int32(3), mean_pixel=mean_pixel), {}, config.to_dict(), {})
    checkpoints.close()
    caplog.clear()
    found, step = run_weights(tmp_path)
    assert not caplog.records  # Orbax would warn of metadata that a single item lacks.
    expected = {"params": state.ema["params"], "batch_stats": state.ema["batch_stats"]}
    jax.tree.map(np.testing.assert_array_equal, found.variables, expected)
    assert found.network == CompletionNetwork(1 / 16)
    assert found.description.input_form == "mean_subtracted"
    np.testing.assert_allclose(found.description.mean_pixel, (0.5, 0.45, 0.4))
    assert found.description.image_size == 32
    assert found.description.hole_sides == (2, 14)
    assert step == 3
    with pytest.raises(WeightsError, match=r"no checkpoint of step 4; there are: 3$"):
        run_weights(tmp_path, 4)
    assert "samples, step 3" in found.description.origin
    save_weights(found, tmp_path / "a.safetensors")
    assert_same(load_weights(tmp_path / "a.safetensors"), found)


def test_a_directory_that_is_no_run_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="holds no checkpoints"):
        run_weights(tmp_path)


def test_every_sampler_states_the_size_of_its_holes(config):
    for name in masks.SAMPLERS:
        smallest, largest = masks.hole_sides(name, config.mask.to_dict(), 32)
        assert 0 < smallest <= largest <= 32

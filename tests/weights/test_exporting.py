"""Exported programs, run without the package, against `networks.complete`."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights.test_weights import DESCRIPTION, random_variables

from glcic_jax.commands.weights import export, export_weights
from glcic_jax.errors import DataError
from glcic_jax.model.networks import CompletionNetwork, complete
from glcic_jax.weights.export import EXPORTERS, export_stablehlo
from glcic_jax.weights.file import DTYPES, Weights

# Of each exported network: layer order, output activation, input form, and the sizes [N, H, W] that it completes.
CASES = {
    "a": ("conv_bn_relu", "sigmoid", "mean_subtracted", [(3, 32, 20), (1, 4, 4)]),
    "b": ("conv_relu_bn", "sigmoid", "mean_filled", [(1, 8, 12)]),
    "c": ("conv_bn_relu", "clip", "signed", [(1, 8, 12)]),
    "d": ("conv_bn_relu", "residual", "smooth_filled", [(2, 8, 12)]),
}

RUN = """
import sys
import numpy as np
arrays = np.load("given.npz")
found = {}
USAGES
assert not {"glcic_jax", "flax", "orbax"} & set(sys.modules), "more than promised was imported"
np.savez("found.npz", **found)
"""


def tiny(order: str, activation: str, form: str) -> Weights:
    """Weights whose outputs differ from place to place and lie off the bounds."""
    network = CompletionNetwork(1 / 16, order, activation)
    variables = random_variables(network, np.zeros((1, 8, 8, 4), np.float32))
    generator = np.random.default_rng(1)
    for layer in variables["params"].values():
        if "kernel" in layer:
            fan_in = np.prod(layer["kernel"].shape[:-1])
            layer["kernel"] = generator.normal(0, fan_in**-0.5, layer["kernel"].shape).astype(np.float32)
            layer["bias"] = generator.normal(0, 0.1, layer["bias"].shape).astype(np.float32)
    return Weights(network, variables, dataclasses.replace(DESCRIPTION, input_form=form))


def test_stablehlo_runs_with_jax_and_numpy_alone(tmp_path):
    """Runs the lines that the exporter prints, in a process that imports nothing else."""
    generator = np.random.default_rng(0)
    networks, given, lines = {}, {}, []
    for name, (order, activation, form, sizes) in CASES.items():
        networks[name] = tiny(order, activation, form)
        usage = export_stablehlo(networks[name], tmp_path / "new" / f"{name}.stablehlo")
        assert "6 months" in usage
        opening, deserializing, calling = [line.strip() for line in usage.splitlines() if line.startswith("    ")]
        lines += [opening, deserializing]
        for index, size in enumerate(sizes):
            given[f"{name}{index}image"] = generator.uniform(size=(*size, 3)).astype(np.float32)
            given[f"{name}{index}mask"] = generator.integers(0, 2, (*size, 1)).astype(np.float32)
            lines += [f"image, mask = arrays['{name}{index}image'], arrays['{name}{index}mask']", calling]
            lines += [f"found['{name}{index}'] = np.asarray(completed)"]
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-c", RUN.replace("USAGES", "\n".join(lines))]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    for case, completed in np.load(tmp_path / "found.npz").items():
        network, variables, description = networks[case[0]]
        image, mask = given[f"{case}image"], given[f"{case}mask"]
        mean_pixel = jnp.asarray(description.mean_pixel, jnp.float32)
        run = jax.jit(lambda *pair: complete(network, variables, *pair, mean_pixel, description.input_form)[1])  # noqa: B023
        assert completed.dtype == np.float32
        np.testing.assert_allclose(completed, np.asarray(run(image, mask)), atol=2e-6)
        outside = np.broadcast_to(mask < 0.5, image.shape)
        np.testing.assert_array_equal(completed[outside], image[outside])
        # Two programs that both fill with one colour would agree too.
        assert len(np.unique(completed[~outside])) > 3


def test_an_unwritable_file_is_a_data_error(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        export_stablehlo(tiny("conv_relu_bn", "sigmoid", "mean_filled"), tmp_path / "a" / "b")


def test_commands_offer_every_dtype_and_format():
    (dtype,) = [parameter for parameter in export_weights.params if parameter.name == "dtype"]
    assert tuple(dtype.type.choices) == tuple(DTYPES)
    (form,) = [parameter for parameter in export.params if parameter.name == "form"]
    assert set(form.type.choices) == set(EXPORTERS)

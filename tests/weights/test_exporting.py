"""Exported programs, run without the package, against `completion.complete`."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights.test_weights import DESCRIPTION, random_variables

from glcic_jax.errors import DataError
from glcic_jax.model.networks import CompletionNetwork, complete
from glcic_jax.weights.export import EXPORTERS, export_stablehlo
from glcic_jax.weights.file import DTYPES, Weights

SIZES = ((3, 32, 20), (1, 8, 12), (1, 4, 4))

RUN = """
import sys
import numpy as np
given = np.load(sys.argv[1])
found = {{}}
for case in range({cases}):
    image, mask = given[f"image{{case}}"], given[f"mask{{case}}"]
    {lines}
    found[str(case)] = np.asarray(completed)
assert not {{"glcic_jax", "flax", "orbax"}} & set(sys.modules), "more than promised was imported"
np.savez(sys.argv[2], **found)
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


FORMS = (
    tiny("conv_bn_relu", "sigmoid", "mean_subtracted"),
    tiny("conv_relu_bn", "sigmoid", "mean_filled"),
    tiny("conv_bn_relu", "clip", "signed"),
    tiny("conv_bn_relu", "residual", "smooth_filled"),
)


def examples(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [
        (
            generator.uniform(size=(*size, 3)).astype(np.float32),
            generator.integers(0, 2, (*size, 1)).astype(np.float32),
        )
        for size in SIZES[:count]
    ]


def run_as_told(told: str, count: int, tmp_path) -> list[np.ndarray]:
    """Runs the lines that the exporter printed, in a process that imports nothing else."""
    lines = [line.strip() for line in told.splitlines() if line.startswith("    ")]
    assert len(lines) == 3
    cases = examples(count)
    arrays = {f"image{i}": image for i, (image, _) in enumerate(cases)}
    arrays |= {f"mask{i}": mask for i, (_, mask) in enumerate(cases)}
    np.savez(tmp_path / "given.npz", **arrays)
    script = RUN.format(cases=len(cases), lines="\n    ".join(lines))
    command = [sys.executable, "-c", script, tmp_path / "given.npz", tmp_path / "found.npz"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    found = np.load(tmp_path / "found.npz")
    return [found[str(i)] for i in range(len(cases))]


def assert_completes(found: list[np.ndarray], weights: Weights) -> None:
    network, variables, said = weights
    mean_pixel = jnp.asarray(said.mean_pixel, jnp.float32)
    completing = jax.jit(lambda *pair: complete(network, variables, *pair, mean_pixel, said.input_form)[1])
    for (image, mask), completed in zip(examples(len(found)), found, strict=True):
        expected = np.asarray(completing(image, mask))
        assert completed.dtype == np.float32
        np.testing.assert_allclose(completed, expected, atol=2e-6)
        outside = np.broadcast_to(mask < 0.5, image.shape)
        np.testing.assert_array_equal(completed[outside], image[outside])
        # Two programs that both fill with one colour would agree too.
        assert len(np.unique(completed[~outside])) > 3


@pytest.mark.parametrize(("form", "sizes"), [(0, 3), (1, 1), (2, 1), (3, 3)])
def test_stablehlo_runs_with_jax_and_numpy_alone(form, sizes, tmp_path):
    told = export_stablehlo(FORMS[form], tmp_path / "new" / "a.stablehlo")
    assert "6 months" in told
    assert_completes(run_as_told(told, sizes, tmp_path), FORMS[form])


def test_a_file_that_cannot_be_written_is_a_data_error(tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        export_stablehlo(FORMS[1], tmp_path / "a" / "b")


def test_each_dtype_of_the_command_can_be_written():
    from glcic_jax.commands.weights import export_weights

    (dtype,) = [parameter for parameter in export_weights.params if parameter.name == "dtype"]
    assert tuple(dtype.type.choices) == tuple(DTYPES)


def test_each_format_of_the_command_has_an_exporter():
    from glcic_jax.commands.weights import export

    (form,) = [parameter for parameter in export.params if parameter.name == "form"]
    assert set(form.type.choices) == set(EXPORTERS)

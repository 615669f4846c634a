"""The array contract: network input, composite, local patches, 8-bit conversion, output activations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glcic_jax.errors import ConfigError
from glcic_jax.model.images import (
    INPUT_FORMS,
    OUTPUT_ACTIVATIONS,
    composite,
    crop_patch,
    network_input,
    to_float,
    to_uint8,
)
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.model.smooth_fill import smooth_fill
from glcic_jax.training.tasks.completion import create_spec

MEAN_PIXEL = np.array([0.5, 0.25, 0.125], np.float32)
jitted_input = jax.jit(network_input, static_argnames="form")

# The values of known pixels and of the hole in each form. A new form must be added here.
EXPECTED_FORMS = {
    "mean_subtracted": (lambda image: image - MEAN_PIXEL, np.zeros(3)),
    "mean_filled": (lambda image: image, MEAN_PIXEL),
    "signed": (lambda image: 2 * image - 1, np.zeros(3)),
    "smooth_filled": (lambda image: image - MEAN_PIXEL, None),  # The hole depends on its surroundings.
}


@pytest.fixture
def example():
    """Two images with different holes."""
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (2, 12, 16, 3)).astype(np.float32)
    mask = np.zeros((2, 12, 16, 1), np.float32)
    mask[0, 2:7, 3:11] = 1
    mask[1, 8:12, 0:5] = 1
    return image, mask


@pytest.mark.parametrize("form", INPUT_FORMS)
def test_network_input_in_every_form(example, form):
    image, mask = example
    result = np.asarray(jitted_input(image, mask, MEAN_PIXEL, form=form))
    assert result.shape == (2, 12, 16, 4)
    assert result.dtype == np.float32
    known, hole = EXPECTED_FORMS[form]
    if hole is None:
        hole = jax.jit(smooth_fill)(image, mask == 1, mask == 0, MEAN_PIXEL) - MEAN_PIXEL
    expected = np.where(mask == 1, hole, known(image.astype(np.float64)))
    np.testing.assert_allclose(result[..., :3], expected, atol=1e-6)
    np.testing.assert_array_equal(result[..., 3:], mask)


@pytest.mark.parametrize("form", INPUT_FORMS)
def test_valid_part_of_an_image_has_the_same_input_as_alone(example, form):
    image, mask = example
    wide = ((0, 0), (0, 4), (0, 20), (0, 0))
    canvas = np.pad(image, wide, constant_values=1), np.pad(mask, wide)
    found = jitted_input(*canvas, MEAN_PIXEL, form=form, valid_size=np.array([[12, 16]] * 2))[:, :12, :16]
    np.testing.assert_allclose(found, jitted_input(image, mask, MEAN_PIXEL, form=form), atol=1e-6)


def test_every_registered_form_is_tested():
    assert set(EXPECTED_FORMS) == set(INPUT_FORMS)


def test_network_input_is_mean_subtracted_by_default():
    image, mask = np.full((1, 4, 4, 3), 0.75, np.float32), np.zeros((1, 4, 4, 1), np.float32)
    np.testing.assert_array_equal(network_input(image, mask, MEAN_PIXEL)[0, 0, 0, :3], [0.25, 0.5, 0.625])


@pytest.mark.parametrize("form", INPUT_FORMS)
@pytest.mark.parametrize("content", [np.nan, np.inf, -7.0, 1.0])
def test_pixels_inside_the_hole_do_not_reach_the_network(example, form, content):
    image, mask = example
    other = np.where(mask == 1, np.float32(content), image)
    expected = jitted_input(image, mask, MEAN_PIXEL, form=form)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(jitted_input(other, mask, MEAN_PIXEL, form=form), expected)


def test_unknown_form_is_refused_with_a_list_of_valid_names(example):
    with pytest.raises(ConfigError, match="'raw'.*" + ", ".join(sorted(INPUT_FORMS))):
        network_input(*example, MEAN_PIXEL, "raw")


def test_composite_selects_hole_from_output_and_rest_bit_for_bit(example):
    image, mask = example
    output = np.random.default_rng(1).uniform(0, 1, image.shape).astype(np.float32)
    # NaN where nothing is selected would show a blend.
    poisoned_image = np.where(mask == 1, np.float32(np.nan), image)
    poisoned_output = np.where(mask == 0, np.float32(np.nan), output)
    result = np.asarray(jax.jit(composite)(poisoned_image, poisoned_output, mask))
    assert result.dtype == image.dtype
    outside = np.broadcast_to(mask == 0, image.shape)
    assert result[outside].tobytes() == image[outside].tobytes()
    assert result[~outside].tobytes() == output[~outside].tobytes()


def test_composite_keeps_the_dtype_of_the_image(example):
    image, mask = example
    result = composite(jnp.asarray(image), jnp.asarray(image, jnp.bfloat16), mask)
    assert result.dtype == jnp.float32


def test_composite_passes_gradients_inside_the_hole_only(example):
    image, mask = example
    gradient = jax.grad(lambda output: composite(image, output, mask).sum())(jnp.asarray(image))
    np.testing.assert_array_equal(gradient, np.broadcast_to(mask, image.shape))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_crop_patch_crops_each_image_at_its_own_box(dtype):
    image = np.random.default_rng(2).uniform(0, 255, (5, 12, 16, 3)).astype(dtype)
    corners = np.array([[0, 0], [0, 11], [7, 0], [7, 11], [3, 4]], np.int32)
    patches = jax.jit(crop_patch, static_argnums=2)(image, corners, 5)
    assert patches.dtype == dtype
    for one, (top, left), patch in zip(image, corners, patches, strict=True):
        np.testing.assert_array_equal(patch, one[top : top + 5, left : left + 5])


def test_crop_patch_works_on_masks_and_on_the_whole_image(example):
    image, mask = example
    corners = np.array([[2, 3], [8, 0]], np.int32)
    assert (crop_patch(mask, corners, 4) == 1).all()
    square = image[:, :12, :12]
    np.testing.assert_array_equal(crop_patch(square, np.zeros((2, 2), np.int32), 12), square)


@pytest.mark.parametrize(("height", "width"), [(12, 20), (20, 12)])
def test_crop_patch_refuses_a_patch_larger_than_the_image(height, width):
    with pytest.raises(ValueError, match=f"13 px does not fit an image of {height} x {width} px"):
        crop_patch(np.zeros((1, height, width, 3)), np.zeros((1, 2), np.int32), 13)


def test_all_8_bit_values_survive_the_round_trip():
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    as_float = jax.jit(to_float)(values)
    assert as_float.dtype == jnp.float32
    np.testing.assert_allclose(as_float, values / 255.0, atol=1e-7)
    assert as_float.min() == 0
    assert as_float.max() == 1
    back = jax.jit(to_uint8)(as_float)
    assert back.dtype == jnp.uint8
    np.testing.assert_array_equal(back, values)


def test_8_bit_conversion_clips_and_rounds_to_nearest():
    values = jnp.array([-3.0, -0.001, 0.4 / 255, 0.6 / 255, 99.4 / 255, 99.6 / 255, 254.6 / 255, 1.001, 40.0])
    np.testing.assert_array_equal(jax.jit(to_uint8)(values), [0, 0, 0, 1, 99, 100, 255, 255, 255])


def test_8_bit_conversion_accepts_bfloat16():
    # 0.75 is exact in bfloat16; 0.75 * 255 = 191.25 is not, so the product must be taken in float32.
    assert to_uint8(jnp.array([0.75], jnp.bfloat16))[0] == 191


@pytest.fixture
def residual_input() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (2, 32, 32, 4)).astype(np.float32)


@pytest.mark.parametrize("name", OUTPUT_ACTIVATIONS)
def test_output_activation_maps_to_the_unit_interval(name):
    values = np.array([-50.0, -1.0, -0.5, 0.0, 0.25, 1.0, 50.0], np.float32)
    colours = np.array([0.5, 0.75, -0.25, 0.25, 0.125, -0.75, 0.0], np.float32)
    expected = {
        "sigmoid": 1 / (1 + np.exp(-values.astype(np.float64))),
        "clip": np.array([0, 0, 0.25, 0.5, 0.625, 1, 1]),
        "residual": np.array([0, 0.25, 0, 0.75, 0.875, 0.75, 1]),
    }[name]
    np.testing.assert_allclose(OUTPUT_ACTIVATIONS[name].apply(values, colours), expected, atol=1e-6)


def test_untrained_residual_network_returns_its_input_and_has_gradients(residual_input):
    network = CompletionNetwork(width=1 / 16, output_activation="residual")
    variables = jax.jit(network.init)(jax.random.key(0), residual_input)
    np.testing.assert_allclose(
        jax.jit(network.apply)(variables, residual_input), residual_input[..., :3] + 0.5, atol=1e-6
    )

    def loss(params):
        return jnp.mean(network.apply({**variables, "params": params}, residual_input) ** 2)

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    assert float(jnp.abs(gradient["conv17"]["kernel"]).max()) > 1e-4


@pytest.mark.parametrize("form", ["mean_filled", "signed"])
def test_residual_requires_an_input_form_without_the_mean(config, form):
    config.completion.output_activation, config.completion.input_form = "residual", form
    with pytest.raises(ConfigError, match=f"smooth_filled or mean_subtracted, not {form}"):
        create_spec(config, None)


def test_residual_of_a_bfloat16_network_is_added_in_float32(residual_input):
    network = CompletionNetwork(width=1 / 16, output_activation="residual", dtype=jnp.bfloat16)
    output = jax.jit(network.apply)(jax.jit(network.init)(jax.random.key(0), residual_input), residual_input)
    assert output.dtype == jnp.float32
    np.testing.assert_allclose(output, residual_input[..., :3] + 0.5, atol=1e-7)

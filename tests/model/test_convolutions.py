"""Convolutions and their gradients in the way of every platform, compared with XLA's own; all run on a CPU."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glcic_jax.errors import ConfigError
from glcic_jax.model.convolutions import WAYS, convolution, convolutions_of, upsampling_convolution
from glcic_jax.model.networks import COMPLETION_LAYERS, LAST_COMPLETION_LAYER, Convolution, Layer

# Height, width, inputs, outputs, kernel, stride, dilation.
CASES = {
    "winograd": (16, 12, 256, 264, 3, 1, 1),
    "winograd, odd sides": (15, 17, 256, 256, 3, 1, 1),
    "winograd, dilated": (20, 28, 256, 256, 3, 1, 4),
    "winograd, kernel gradient only": (12, 16, 64, 32, 3, 1, 1),
    "winograd, 2x2": (9, 14, 64, 64, 2, 1, 1),
    "dilated, odd sides": (7, 9, 16, 8, 3, 1, 2),
    "dilated, 2x2": (9, 6, 16, 8, 2, 1, 2),
    "dilated, thin": (8, 12, 4, 3, 5, 1, 4),
    "dilated beyond the image": (8, 8, 64, 64, 3, 1, 16),
    "one pixel": (1, 1, 64, 64, 3, 1, 1),
    "stride 2": (64, 48, 16, 24, 3, 2, 1),
    "stride 2, parities": (64, 48, 16, 24, 5, 2, 1),
    "stride 2, dilated": (64, 48, 16, 16, 5, 2, 2),
    "stride 3": (33, 35, 16, 16, 5, 3, 1),
    "stride 2, few pixels": (8, 12, 32, 64, 5, 2, 1),
    "stride 2, 4 pixels": (4, 4, 32, 64, 5, 2, 1),
    "stride 2, odd sides": (9, 7, 32, 64, 5, 2, 1),
    "thin input": (16, 16, 4, 64, 5, 1, 1),
    "thin output": (16, 16, 32, 3, 3, 1, 1),
}


def by_xla(image, kernel, stride, dilation):
    padding = dilation * (kernel.shape[0] // 2)
    return jax.lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


def flax_upsampling(image, kernel):
    layer = nn.ConvTranspose(kernel.shape[-1], (4, 4), (2, 2), "SAME", use_bias=False, precision="highest")
    return layer.apply({"params": {"kernel": kernel}}, image)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def with_gradients(function, image, kernel):
    """The result of a function and its gradients for a fixed random cotangent."""

    def run(image, kernel):
        result, pullback = jax.vjp(function, image, kernel)
        return result, *pullback(normal(2, *result.shape).astype(result.dtype))

    return jax.jit(run)(image, kernel)


def assert_close(found, expected, tolerance=1e-5):
    for name, one, other in zip(("result", "image", "kernel"), found, expected, strict=True):
        assert one.dtype == other.dtype
        largest = np.abs(np.asarray(other, np.float64)).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * largest, err_msg=name)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_results_and_gradients_agree_with_xla(case, way):
    height, width, inputs, outputs, size, stride, dilation = case
    image, kernel = normal(0, 2, height, width, inputs), normal(1, size, size, inputs, outputs)
    with convolutions_of(way):
        found = with_gradients(lambda x, k: convolution(x, k, stride, dilation), image, kernel)
    assert_close(found, with_gradients(lambda x, k: by_xla(x, k, stride, dilation), image, kernel))


def distinct_layers():
    """Inputs, outputs, kernel, stride and dilation of C's layers, each combination once."""
    inputs, found = 4, {}
    for layer in (*COMPLETION_LAYERS, LAST_COMPLETION_LAYER):
        if not layer.name.startswith("deconv"):
            found[inputs, layer.features, layer.kernel, layer.stride, layer.dilation] = None
        inputs = layer.features
    return list(found)


@pytest.mark.parametrize("way", ["cpu", "cuda"])
@pytest.mark.parametrize("layer", distinct_layers(), ids=str)
def test_every_layer_agrees_with_xla(layer, way):
    inputs, outputs, size, stride, dilation = layer
    side = 2 * dilation if dilation > 1 else 8  # Whole tiles, so that dilated layers use Winograd too.
    image, kernel = normal(0, 1, side, side, inputs), normal(1, size, size, inputs, outputs)
    with convolutions_of(way):
        found = with_gradients(lambda x, k: convolution(x, k, stride, dilation), image, kernel)
    assert_close(found, with_gradients(lambda x, k: by_xla(x, k, stride, dilation), image, kernel))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(16, 12, 64, 32), (7, 9, 64, 64), (8, 8, 8, 4)])
def test_upsampling_agrees_with_flax_transposed_convolution(shape, way):
    height, width, inputs, outputs = shape
    image, kernel = normal(0, 2, height, width, inputs), normal(1, 4, 4, inputs, outputs)
    expected = with_gradients(flax_upsampling, image, kernel)
    with convolutions_of(way):
        found = with_gradients(upsampling_convolution, image, kernel)
    assert_close(found, expected)


def test_winograd_is_as_exact_as_xla_in_float32():
    image, kernel = normal(0, 1, 32, 32, 256), normal(1, 3, 3, 256, 256)
    padded = np.pad(np.asarray(image[0], np.float64), ((1, 1), (1, 1), (0, 0)))
    exact = sum(
        padded[row : row + 32, column : column + 32] @ np.asarray(kernel[row, column], np.float64)
        for row in range(3)
        for column in range(3)
    )
    errors = [
        np.abs(np.asarray(function(image, kernel)[0], np.float64) - exact).max()
        for function in (jax.jit(convolution), jax.jit(lambda x, k: by_xla(x, k, 1, 1)))
    ]
    assert errors[0] <= 4 * errors[1]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3, 5, 64, 64), jnp.float32), ((3, 3, 32, 64), jnp.float32), ((3, 3, 64, 64), jnp.bfloat16)],
)
def test_mismatched_kernel_is_refused(shape, dtype):
    with pytest.raises(ValueError, match="does not fit an image"):
        convolution(jnp.zeros((1, 8, 8, 64)), jnp.zeros(shape, dtype))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("function", "expected_function", "size"),
    [
        (lambda x, k: convolution(x, k, 1, 2), lambda x, k: by_xla(x, k, 1, 2), 3),
        (upsampling_convolution, flax_upsampling, 4),
    ],
    ids=["convolution", "upsampling"],
)
def test_gradients_are_differentiable(way, function, expected_function, size):
    image, kernel = normal(0, 1, 6, 6, 64), normal(1, size, size, 64, 64) / 24

    def penalty(function):
        def norm(kernel):
            return jnp.square(jax.grad(lambda x: jnp.sin(function(x, kernel)).sum())(image)).sum()

        return jax.jit(jax.grad(norm))(kernel)

    with convolutions_of(way):
        found = penalty(function)
    expected = penalty(expected_function)
    np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


def lowered(platform, dtype=jnp.float32):
    image, kernel = jnp.zeros((1, 16, 16, 256), dtype), jnp.zeros((3, 3, 256, 256), dtype)
    gradients = jax.jit(jax.grad(lambda x, k: convolution(x, k).astype(jnp.float32).sum(), argnums=(0, 1)))
    return gradients.trace(image, kernel).lower(lowering_platforms=(platform,)).as_text()


def test_each_platform_lowers_only_its_own_program():
    on_gpu, on_cpu = lowered("cuda"), lowered("cpu")
    assert on_gpu.count("stablehlo.convolution") >= 2
    assert "stablehlo.dot_general" not in on_gpu
    assert "stablehlo.convolution" not in on_cpu
    assert on_cpu.count("stablehlo.dot_general") >= 32


def test_cpu_never_uses_xla_gradients_of_2x2_kernels():
    def gradients(image, kernel):
        return jax.vjp(convolution, image, kernel)[1](jnp.zeros((1, 17, 17, 4)))

    text = jax.jit(gradients).lower(jnp.zeros((1, 16, 16, 4)), jnp.zeros((2, 2, 4, 4))).as_text()
    # The one convolution is the unused forward pass.
    assert text.count("stablehlo.convolution") <= 1


def test_gpu_convolves_in_bfloat16():
    lines = [line for line in lowered("cuda", jnp.bfloat16).splitlines() if "stablehlo.convolution" in line]
    assert lines
    assert all("f32" not in line for line in lines)


def test_cpu_rounds_bfloat16_once():
    image, kernel = normal(0, 2, 8, 8, 64).astype(jnp.bfloat16), normal(1, 3, 3, 64, 64).astype(jnp.bfloat16)
    found = jax.jit(convolution)(image, kernel)
    assert found.dtype == jnp.bfloat16
    exact = by_xla(image.astype(jnp.float32), kernel.astype(jnp.float32), 1, 1)
    np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)


def test_chosen_way_replaces_the_platform():
    def convolutions() -> int:
        image, kernel = jnp.zeros((1, 16, 16, 256)), jnp.zeros((3, 3, 256, 256))
        # A new function object each time, because JAX caches traces.
        function = jax.jit(functools.partial(convolution, stride=1))
        return function.lower(image, kernel).as_text().count("stablehlo.convolution")

    for way in ("cuda", "plain"):
        with convolutions_of(way):
            assert convolutions() == 1
    assert convolutions() == 0


def test_unknown_way_is_refused():
    with pytest.raises(ConfigError, match="unknown way to convolve 'gpu': choose one of cpu, cuda, plain, tpu"):
        convolutions_of("gpu").__enter__()


def test_bias_gradients_sum_in_float32():
    layer = Convolution(Layer("conv", 1), 1, jnp.bfloat16)
    image = jnp.ones((1, 41, 39, 1))
    variables = layer.init(jax.random.key(0), image)
    gradients = jax.jit(jax.grad(lambda v: layer.apply(v, image).astype(jnp.float32).sum()))(variables)
    assert gradients["params"]["bias"] == 41 * 39  # 1599 is no bfloat16.

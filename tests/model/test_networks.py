"""The networks against an independent float64 reference, and against the published sizes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import reference
from scipy import signal

from glcic_jax.errors import ConfigError
from glcic_jax.model.networks import (
    BRANCHES,
    LAYER_ORDERS,
    CompletionNetwork,
    ContextDiscriminator,
    Convolution,
    GlobalDiscriminator,
    Layer,
    LocalDiscriminator,
    last_layer,
)

WIDTH = 1 / 16
# A quarter of each side is above 16: else every tap of the widest dilation but the central one sees padding
# only, and a wrong dilation goes unnoticed.
HEIGHT, WIDE = 72, 80

# Both values of both options in two networks instead of four, because compilation takes the time.
COMPLETION_FORMS = (("conv_bn_relu", "sigmoid"), ("conv_relu_bn", "clip"))

BRANCH_CHANNELS = {"global": (4, 6, 8), "local": (5, 7), "texture": (3, 6)}
# What the fully connected layer reads: C, H, W.
BRANCH_MAPS = {"global": (8, 4, 5), "local": (7, 4, 4), "texture": (6, 1, 1)}
BRANCH_FEATURES = 64  # 1024 at a sixteenth of the width.
IMAGE_CORNERS = np.array([[0, 0], [0, 24], [16, 0], [16, 24]], np.int32)


def close(actual, expected, tolerance=2e-4):
    """Equal within `tolerance` of the largest value: float32 rounding accumulates over the layers."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


def statistics_close(variables, expected):
    """Compares running statistics with the reference's flat dict."""
    assert expected
    leaf = {"running_mean": "mean", "running_var": "var"}
    for key, value in expected.items():
        *path, kind = key.split(".")
        node = variables["batch_stats"]
        for name in path:
            node = node[name]
        close(node[leaf[kind]], value)


def count(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def shapes_of(module, *shapes, **kwargs):
    """The shapes of the variables that `module.init` creates."""
    inputs = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    return jax.eval_shape(lambda *xs: module.init(jax.random.key(0), *xs, **kwargs), *inputs)


def completion_shapes(**fields):
    return shapes_of(CompletionNetwork(**fields), ((1, 32, 32, 4), jnp.float32))


def discriminator_shapes(size, **fields):
    image, box = ((2, size, size, 3), jnp.float32), ((2, 2), jnp.int32)
    return shapes_of(ContextDiscriminator(**fields), image, box)


@pytest.fixture(scope="module")
def completion_weights():
    return reference.random_completion_weights(np.random.default_rng(1), WIDTH)


@pytest.fixture(scope="module")
def completion_input():
    """[2, H, W, 4]: noise and a mask, different in the two images."""
    rng = np.random.default_rng(2)
    image = rng.normal(0, 1, (2, HEIGHT, WIDE, 4))
    image[..., 3] = 0
    image[0, 20:50, 10:40, 3] = 1
    image[1, 5:35, 45:70, 3] = 1
    return image.astype(np.float32)


@pytest.fixture(scope="module", params=COMPLETION_FORMS, ids="-".join)
def completed(request, completion_weights, completion_input):
    """One completion at inference: `(output, {layer: its output}, activation, reference's output and layers)`."""
    order, activation = request.param
    network = CompletionNetwork(width=WIDTH, layer_order=order, output_activation=activation)
    variables = reference.to_flax(completion_weights)
    run = jax.jit(lambda v, x: network.apply(v, x, capture_intermediates=True, mutable=["intermediates"]))
    output, captured = run(variables, completion_input)
    captured = captured["intermediates"]
    (last_input,) = captured.pop("last_input")
    alone = last_layer(network, variables["params"]["conv17"], last_input, completion_input)
    np.testing.assert_allclose(alone, output, rtol=1e-5, atol=1e-6)
    layers = {name: value["__call__"][0] for name, value in captured.items() if name != "__call__"}
    first = reference.to_channels_first(completion_input)
    expected, expected_layers, _ = reference.complete(completion_weights, first, order, activation)
    return output, layers, activation, expected, expected_layers


def test_reference_convolution_agrees_with_scipy():
    rng = np.random.default_rng(0)
    image, weight, bias = rng.normal(size=(1, 2, 13, 16)), rng.normal(size=(3, 2, 3, 3)), rng.normal(size=3)
    for stride, dilation in ((1, 1), (2, 1), (1, 4)):
        spread = np.zeros((3, 2, 2 * dilation + 1, 2 * dilation + 1))
        spread[:, :, ::dilation, ::dilation] = weight
        padded = np.pad(image[0], ((0, 0), (dilation, dilation), (dilation, dilation)))
        expected = [
            sum(signal.correlate2d(padded[i], spread[o, i], "valid") for i in range(2)) + bias[o] for o in range(3)
        ]
        expected = np.stack(expected)[:, ::stride, ::stride]
        actual = reference.convolution(image, weight, bias, stride, dilation, padding=dilation)
        np.testing.assert_allclose(actual[0], expected, atol=1e-12)


def test_reference_transposed_convolution_is_the_adjoint():
    # <convolve(a), b> = <a, transpose(b)>: the definition of a transposed convolution.
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 2, 4, 4))
    fine, coarse = rng.normal(size=(1, 2, 12, 16)), rng.normal(size=(1, 3, 6, 8))
    down = reference.convolution(fine, weight, np.zeros(3), stride=2, padding=1)
    up = reference.transposed_convolution(coarse, weight, np.zeros(2))
    assert (down * coarse).sum() == pytest.approx((fine * up).sum(), rel=1e-12)


def test_completion_network_has_the_published_number_of_parameters():
    shapes = completion_shapes()
    assert count(shapes["params"]) == 6_072_131
    assert count(shapes["batch_stats"]) == 5_952


@pytest.mark.parametrize(
    ("branch", "size", "expected"),
    [(GlobalDiscriminator(), 256, 25_808_384), (LocalDiscriminator(), 128, 19_253_248)],
    ids=["global", "local"],
)
def test_discriminator_branch_has_the_published_number_of_parameters(branch, size, expected):
    assert count(shapes_of(branch, ((1, size, size, 3), jnp.float32))["params"]) == expected


def test_context_discriminator_joins_two_vectors_of_1024():
    params = discriminator_shapes(256)["params"]
    assert set(params) == {"global_branch", "local_branch", "linear"}
    assert params["global_branch"]["linear"]["kernel"].shape == (512 * 4 * 4, 1024)
    assert params["local_branch"]["linear"]["kernel"].shape == (512 * 4 * 4, 1024)
    assert params["linear"]["kernel"].shape == (2048, 1)
    assert count(params) == 25_808_384 + 19_253_248 + 2048 + 1


def test_context_discriminator_shapes_for_celeba():
    # One convolution fewer in the global branch: 160 px end at 5 x 5, 96 px at 3 x 3.
    channels = (64, 128, 256, 512, 512)
    params = discriminator_shapes(160, local_size=96, channels=(channels, channels))["params"]
    assert "conv6" not in params["global_branch"]
    assert params["global_branch"]["linear"]["kernel"].shape == (512 * 5 * 5, 1024)
    assert params["local_branch"]["linear"]["kernel"].shape == (512 * 3 * 3, 1024)


@pytest.mark.parametrize("order", LAYER_ORDERS)
def test_completion_network_layers_match_table_1(order):
    shapes = completion_shapes(layer_order=order)
    params, statistics = {}, {}
    for index, (name, kernel, _, _, inputs, outputs) in enumerate(reference.COMPLETION_TABLE, start=1):
        params[name] = {"kernel": (kernel, kernel, inputs, outputs), "bias": (outputs,)}
        if name != "conv17":
            params[f"bn{index}"] = {"scale": (outputs,), "bias": (outputs,)}
            statistics[f"bn{index}"] = {"mean": (outputs,), "var": (outputs,)}
    assert jax.tree.map(lambda leaf: leaf.shape, shapes["params"]) == params
    assert jax.tree.map(lambda leaf: leaf.shape, shapes["batch_stats"]) == statistics


def test_discriminator_branch_layers_match_table_2():
    params = shapes_of(GlobalDiscriminator(), ((1, 256, 256, 3), jnp.float32))["params"]
    channels = (3, 64, 128, 256, 512, 512, 512)
    expected = {"linear": {"kernel": (8192, 1024), "bias": (1024,)}}
    for index, (inputs, outputs) in enumerate(itertools.pairwise(channels), start=1):
        expected[f"conv{index}"] = {"kernel": (5, 5, inputs, outputs), "bias": (outputs,)}
        expected[f"bn{index}"] = {"scale": (outputs,), "bias": (outputs,)}
    assert jax.tree.map(lambda leaf: leaf.shape, params) == expected


def test_width_scales_every_layer_except_the_last():
    params = completion_shapes(width=1 / 8)["params"]
    assert params["conv1"]["kernel"].shape == (5, 5, 4, 8)
    assert params["deconv13"]["kernel"].shape == (4, 4, 32, 16)
    assert params["conv17"]["kernel"].shape == (3, 3, 4, 3)
    params = discriminator_shapes(256, width=1 / 8)["params"]
    assert params["global_branch"]["conv6"]["kernel"].shape == (5, 5, 64, 64)
    assert params["linear"]["kernel"].shape == (256, 1)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (160, 160), (4, 8)])
def test_completion_network_keeps_the_size_of_its_input(height, width):
    network, variables = CompletionNetwork(width=WIDTH), completion_shapes(width=WIDTH)
    image = jax.ShapeDtypeStruct((3, height, width, 4), jnp.float32)
    output = jax.eval_shape(network.apply, variables, image)
    assert output.shape == (3, height, width, 3)
    assert output.dtype == jnp.float32


@pytest.mark.parametrize("layer", [row[0] for row in reference.COMPLETION_TABLE])
def test_every_layer_agrees_with_the_reference(completed, layer):
    _, layers, _, _, expected = completed
    close(reference.to_channels_first(layers[layer]), expected[layer])
    norm = f"bn{[row[0] for row in reference.COMPLETION_TABLE].index(layer) + 1}"
    assert (norm in layers) == (norm in expected) == (layer != "conv17")
    if norm in layers:
        close(reference.to_channels_first(layers[norm]), expected[norm])


def test_completed_image_agrees_with_the_reference(completed):
    output, layers, activation, expected, expected_layers = completed
    assert set(layers) == set(expected_layers)
    close(reference.to_channels_first(output), expected)
    assert output.min() >= 0
    assert output.max() <= 1
    # The comparison says something only if the outputs spread; and clipping only if some pixels are clipped.
    assert np.std(expected) > 0.1
    if activation == "clip":
        assert 0.02 < np.mean((expected == 0) | (expected == 1)) < 0.9


@pytest.fixture(scope="module")
def train(completion_weights, completion_input):
    """A training pass of the network, run once for each layer order, activation and type."""

    @functools.cache
    def run(order, activation, dtype=jnp.float32):
        network = CompletionNetwork(width=WIDTH, layer_order=order, output_activation=activation, dtype=dtype)
        call = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]))
        return call(reference.to_flax(completion_weights), completion_input)

    return run


@pytest.mark.parametrize(("order", "activation"), COMPLETION_FORMS)
def test_training_pass_agrees_with_the_reference(train, completion_weights, completion_input, order, activation):
    output, updated = train(order, activation)
    first = reference.to_channels_first(completion_input)
    expected, _, statistics = reference.complete(completion_weights, first, order, activation, train=True)
    close(reference.to_channels_first(output), expected, tolerance=1e-3)
    statistics_close(updated, statistics)
    assert len(statistics) == 32
    before = reference.to_flax(completion_weights)["batch_stats"]
    assert all(not np.allclose(updated["batch_stats"][norm]["mean"], before[norm]["mean"]) for norm in before)


def test_bfloat16_keeps_parameters_statistics_and_output_float32(train):
    network = CompletionNetwork(width=WIDTH, dtype=jnp.bfloat16)
    created = shapes_of(network, ((1, 32, 32, 4), jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(created)} == {np.dtype(np.float32)}

    output, updated = train("conv_bn_relu", "sigmoid", jnp.bfloat16)
    exact, exact_updated = train("conv_bn_relu", "sigmoid")
    assert output.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {np.dtype(np.float32)}
    difference = np.abs(np.asarray(output) - np.asarray(exact))
    assert 0 < difference.mean() < 0.02  # Above 0: the arithmetic was bfloat16.
    for actual, expected in zip(jax.tree.leaves(updated), jax.tree.leaves(exact_updated), strict=True):
        close(actual, expected, tolerance=0.02)


@pytest.mark.parametrize(("height", "width"), [(34, 32), (32, 30), (33, 33)])
def test_sides_not_multiples_of_4_are_refused(height, width):
    with pytest.raises(ValueError, match=f"multiples of 4, not {height} x {width}"):
        shapes_of(CompletionNetwork(width=WIDTH), ((1, height, width, 4), jnp.float32))


def test_unknown_names_are_refused_with_a_list_of_valid_names():
    with pytest.raises(ConfigError, match=r"'tanh'.*clip, residual, sigmoid"):
        completion_shapes(output_activation="tanh")
    with pytest.raises(ConfigError, match=r"'relu_first'.*conv_bn_relu, conv_relu_bn"):
        completion_shapes(layer_order="relu_first")
    with pytest.raises(ConfigError, match=r"'relu_first'.*conv_bn_relu, conv_relu_bn"):
        discriminator_shapes(32, local_size=16, layer_order="relu_first")
    with pytest.raises(ConfigError, match=r"'middle'.*global, local"):
        discriminator_shapes(32, local_size=16, branches=("global", "middle"))
    with pytest.raises(ConfigError, match="at least one branch"):
        discriminator_shapes(32, local_size=16, branches=())


@pytest.fixture(scope="module")
def deconvolution():
    """A small deconvolution: the input, Torch-layout weights, ours, and both modules."""
    rng = np.random.default_rng(3)
    image = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    weights = {"deconv.weight": rng.normal(size=(3, 2, 4, 4)), "deconv.bias": rng.normal(size=2)}
    variables = {"params": reference.to_flax(weights)["params"]["deconv"]}
    ours = Convolution(Layer("deconv13", 2, kernel=4), 2)
    return image, weights, variables, ours, nn.ConvTranspose(2, (4, 4), strides=(2, 2), padding="SAME")


def test_deconvolution_agrees_with_torch(deconvolution):
    image, weights, variables, ours, _ = deconvolution
    expected = reference.transposed_convolution(
        reference.to_channels_first(image), weights["deconv.weight"], weights["deconv.bias"]
    )
    assert expected.shape == (2, 2, 10, 14)
    close(reference.to_channels_first(ours.apply(variables, image)), expected, tolerance=1e-6)


def test_deconvolution_and_gradients_agree_with_flax(deconvolution):
    image, _, variables, ours, theirs = deconvolution
    weight = np.random.default_rng(4).normal(size=(2, 10, 14, 2)).astype(np.float32)

    def value_and_gradients(module):
        def loss(v, x):
            output = module.apply(v, x)
            return (weight * output**2).sum(), output

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(variables, image)

    actual, expected = value_and_gradients(ours), value_and_gradients(theirs)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        close(one, other, tolerance=1e-5)
    shapes = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes_of(module, ((1, 4, 4, 3), jnp.float32)))
        for module in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]


def make_discriminator(branches, **fields):
    channels = tuple(tuple(c * 16 for c in BRANCH_CHANNELS[name]) for name in branches)
    return ContextDiscriminator(branches=branches, local_size=16, channels=channels, width=WIDTH, **fields)


def discriminator_weights(branches):
    """Random Torch-layout weights, and the same as Flax variables."""
    sizes = [(name, BRANCH_MAPS[name][1:], BRANCH_CHANNELS[name], BRANCH_FEATURES) for name in branches]
    weights = reference.random_discriminator_weights(np.random.default_rng(5), sizes)
    return weights, reference.to_flax(weights, {f"{name}_branch.linear": BRANCH_MAPS[name] for name in branches})


@pytest.fixture(scope="module")
def judged_images():
    return np.random.default_rng(6).uniform(0, 1, (4, 32, 40, 3)).astype(np.float32)


BOTH = ("global", "local")


@pytest.mark.parametrize(
    ("branches", "order", "train"),
    [
        (BOTH, "conv_bn_relu", False),
        (BOTH, "conv_bn_relu", True),
        (BOTH, "conv_relu_bn", False),
        (BOTH, "conv_relu_bn", True),
        (("global",), "conv_bn_relu", False),
        (("local",), "conv_relu_bn", False),
        (("local", "texture"), "conv_bn_relu", True),
    ],
)
def test_discriminator_agrees_with_the_reference(judged_images, branches, order, train):
    weights, variables = discriminator_weights(branches)
    network = make_discriminator(branches, layer_order=order)
    call = jax.jit(lambda v, x, box: network.apply(v, x, box, train=train, mutable=["batch_stats"]))
    logits, updated = call(variables, judged_images, IMAGE_CORNERS)
    first = reference.to_channels_first(judged_images)
    expected, statistics = reference.discriminate(weights, first, IMAGE_CORNERS, 16, branches, order, train)
    assert logits.shape == (4,)
    assert logits.dtype == jnp.float32
    close(logits, expected)
    statistics_close(updated, statistics)


def test_every_registered_branch_is_tested():
    assert set(BRANCHES) == set(BRANCH_MAPS)


def test_logits_are_unbounded():
    # The loss applies the sigmoid, not the network.
    weights, _ = discriminator_weights(("local",))
    weights["linear.weight"] = weights["linear.weight"] * 1000
    variables = reference.to_flax(weights, {"local_branch.linear": BRANCH_MAPS["local"]})
    image = np.random.default_rng(7).uniform(0, 1, (4, 16, 16, 3)).astype(np.float32)
    logits = make_discriminator(("local",)).apply(variables, image, np.zeros((4, 2), np.int32))
    expected, _ = reference.discriminate(
        weights, reference.to_channels_first(image), np.zeros((4, 2), int), 16, ("local",)
    )
    close(logits, expected)
    assert np.abs(expected).max() > 50


def test_local_branch_depends_on_its_patch_alone(judged_images):
    _, variables = discriminator_weights(("local",))
    network = make_discriminator(("local",))
    call = jax.jit(lambda x: network.apply(variables, x, IMAGE_CORNERS))
    before = call(judged_images)
    inside = np.zeros((4, 32, 40, 1), bool)
    for index, (top, left) in enumerate(IMAGE_CORNERS):
        inside[index, top : top + 16, left : left + 16] = True
    np.testing.assert_array_equal(call(np.where(inside, judged_images, 0.77)), before)

    # The pixels in the patch's own corners count, in every image.
    for row, column in ((0, 0), (0, 15), (15, 0), (15, 15)):
        changed = judged_images.copy()
        for index, (top, left) in enumerate(IMAGE_CORNERS):
            changed[index, top + row, left + column] += 3.0
        assert (np.abs(call(changed) - before) > 1e-4).all(), (row, column)


def test_patch_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="64 px does not fit an image of 32 x 32"):
        discriminator_shapes(32, local_size=64, width=WIDTH)


def test_discriminator_in_bfloat16_keeps_parameters_and_logits_float32(judged_images):
    created = discriminator_shapes(32, local_size=16, width=WIDTH, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(created)} == {np.dtype(np.float32)}
    weights, variables = discriminator_weights(BOTH)
    network = make_discriminator(BOTH, dtype=jnp.bfloat16)
    call = jax.jit(lambda v, x, box: network.apply(v, x, box, train=True, mutable=["batch_stats"]))
    logits, updated = call(variables, judged_images, IMAGE_CORNERS)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {np.dtype(np.float32)}
    first = reference.to_channels_first(judged_images)
    expected, _ = reference.discriminate(weights, first, IMAGE_CORNERS, 16, BOTH, train=True)
    close(logits, expected, tolerance=0.05)


def test_axis_name_averages_batch_statistics_over_the_axis(judged_images):
    # Four devices with one image each, simulated by vmap, normalise like one device with four images.
    weights, variables = discriminator_weights(("local",))
    network = make_discriminator(("local",), axis_name="devices")

    def one_device(image, box):
        return network.apply(variables, image[None], box[None], train=True, mutable=["batch_stats"])

    logits, updated = jax.jit(jax.vmap(one_device, axis_name="devices"))(judged_images, IMAGE_CORNERS)
    first = reference.to_channels_first(judged_images)
    expected, statistics = reference.discriminate(weights, first, IMAGE_CORNERS, 16, ("local",), train=True)
    close(logits[:, 0], expected)
    for device in range(4):
        statistics_close(jax.tree.map(lambda leaf, device=device: leaf[device], updated), statistics)


def test_axis_name_is_not_needed_at_inference(judged_images):
    # Outside pmap the axis is unbound, and averaging over it would raise.
    weights, variables = discriminator_weights(("local",))
    network = make_discriminator(("local",), axis_name="devices")
    logits = network.apply(variables, judged_images, IMAGE_CORNERS, train=False)
    first = reference.to_channels_first(judged_images)
    close(logits, reference.discriminate(weights, first, IMAGE_CORNERS, 16, ("local",))[0])


@pytest.mark.parametrize(
    ("layer_order", "sizes"),
    [("conv_bn_relu", [(4, 4), (20, 36), (64, 8), (64, 48)]), ("conv_relu_bn", [(20, 36), (64, 48)])],
)
def test_valid_part_of_an_image_is_completed_as_alone(layer_order, sizes):
    network = CompletionNetwork(WIDTH, layer_order)
    key = jax.random.key(0)
    canvas = jax.random.uniform(key, (len(sizes), 64, 48, 4))
    variables = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.uniform(key, leaf.shape), jax.jit(network.init)(key, canvas)
    )
    apply = jax.jit(network.apply)
    together = apply(variables, canvas, valid_size=jnp.array(sizes, jnp.int32))
    for index, (height, width) in enumerate(sizes):
        alone = apply(variables, canvas[index : index + 1, :height, :width])
        np.testing.assert_allclose(together[index, :height, :width], alone[0], rtol=0, atol=2e-6)

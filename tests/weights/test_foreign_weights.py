"""Imported weights against the reference with the preprocessing of their origin; files that are refused."""

import json
import tracemalloc

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers import foreign_files as ff
from helpers import reference
from helpers.common import one_line

from glcic_jax.errors import WeightsError
from glcic_jax.model.images import network_input
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.weights.file import load_weights, save_weights
from glcic_jax.weights.foreign.layouts import completion_shapes
from glcic_jax.weights.foreign.reader import read_foreign
from glcic_jax.weights.foreign.tensors import MAX_FILE_SIZE

WIDTH = 1 / 16
MEAN = np.array([0.5, 0.4, 0.3])
SIDE = 72  # A quarter is above 16, so that the largest dilation reads more than padding.
GREY = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling takes nearly all the time of these tests."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def torch_weights():
    """Random weights of the reference, rounded to float32."""
    weights = reference.random_completion_weights(np.random.default_rng(1), WIDTH)
    return {name: array.astype(np.float32).astype(np.float64) for name, array in weights.items()}


@pytest.fixture(scope="module")
def tiny():
    """Two features where the paper has 64: files of a few kilobytes."""
    return reference.random_completion_weights(np.random.default_rng(2), 1 / 32)


@pytest.fixture(scope="module")
def picture():
    """An image [1, H, W, 3] in [0, 1] and its hole [1, H, W, 1]."""
    image = np.random.default_rng(3).uniform(0, 1, (1, SIDE, SIDE, 3))
    mask = np.zeros((1, SIDE, SIDE, 1))
    mask[:, 20:50, 10:40] = 1
    return image, mask


def output_of(weights, image, mask):
    """Runs the imported network."""
    description = weights.description
    given = network_input(
        image.astype(np.float32),
        mask.astype(np.float32),
        np.array(description.mean_pixel),
        description.input_form,
    )
    return np.asarray(jax.jit(weights.network.apply)(weights.variables, given))


def reference_output(weights, colours, mask, *form, **activation):
    given = reference.to_channels_first(np.concatenate([colours, mask], -1))
    return reference.to_channels_last(reference.complete(weights, given, *form, **activation)[0])


def assert_same_variables(found, expected, tolerance=0.0):
    assert jax.tree.structure(found.variables) == jax.tree.structure(expected.variables)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=tolerance),
        found.variables,
        expected.variables,
    )


def write(path, data):
    path.write_bytes(data)
    return path


def refusal(path, data=None, mean_pixel=None) -> str:
    """The one line of error, beginning with the name of the file, that a file must end with."""
    with pytest.raises(WeightsError) as caught:
        read_foreign(path if data is None else write(path, data), mean_pixel)
    assert one_line(caught).startswith(f"{path}: ")
    return str(caught.value)


@pytest.fixture(scope="module")
def from_authors(torch_weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("authors") / "completionnet_celeba.t7"
    return read_foreign(write(path, ff.torch7(ff.authors(ff.authors_modules(torch_weights), MEAN))))


def test_authors_networks(from_authors, torch_weights, picture):
    variance = from_authors.variables["batch_stats"]["bn1"]["var"]
    np.testing.assert_array_equal(variance, torch_weights["bn1.running_var"])
    image, mask = picture
    # The mean is subtracted and the hole then 0; BatchNorm before ReLU.
    expected = reference_output(torch_weights, (image - MEAN) * (1 - mask), mask)
    np.testing.assert_allclose(output_of(from_authors, *picture), expected, atol=1e-4)
    assert from_authors.network == CompletionNetwork(WIDTH)
    description = from_authors.description
    np.testing.assert_allclose(description.mean_pixel, MEAN)
    assert (description.image_size, description.hole_sides) == (160, (48, 96))
    assert description.licence == "CC BY-NC-SA 4.0"
    assert "completionnet_celeba.t7, sha256 " in description.origin


def test_other_forms_of_the_authors_networks(torch_weights, from_authors, tmp_path):
    cudnn = ff.authors(ff.authors_modules(torch_weights, "cudnn"))
    assert_same_variables(read_foreign(write(tmp_path / "a", ff.torch7(cudnn))), from_authors)
    old = ff.authors(ff.authors_modules(torch_weights, old=True))
    assert_same_variables(read_foreign(write(tmp_path / "a", ff.torch7(old))), from_authors, 2e-6)

    modules = ff.authors_modules(torch_weights)
    # Another epsilon, and a variance that makes up for it; modules inside another.
    modules[1].fields["eps"] = 1e-3
    stored = modules[1].fields["running_var"].storage
    modules[1].fields["running_var"] = ff.single(stored - np.float32(1e-3 - 1e-5))
    inner = ff.Module("nn.Sequential", {"modules": dict(enumerate(modules[:20], start=1))})
    nested = ff.torch7(ff.authors([inner, *modules[20:]]))
    assert_same_variables(read_foreign(write(tmp_path / "a", nested)), from_authors, 1e-6)


def test_data_set_of_the_authors_networks(tiny, tmp_path):
    for name, mean, size in (
        ("completionnet_places2_freeform.t7", (0.5, 0.4, 0.3), 256),
        ("a.t7", (0.45603, 0.44721, 0.41546), 256),
        ("a.t7", (0.5, 0.4, 0.3), 160),
    ):
        value = ff.authors(ff.authors_modules(tiny), mean)
        assert read_foreign(write(tmp_path / name, ff.torch7(value))).description.image_size == size


def test_mean_pixel_must_be_given_where_the_file_lacks_it(tiny, tmp_path):
    value = ff.authors(ff.authors_modules(tiny))
    unusable = ["grey", {"r": 0.1}, ff.torch7_tensor(np.array([0.1, 0.2])), ff.Lua(8)]
    for saved in (value["model"], *(value | {"mean": mean} for mean in unusable)):
        path = write(tmp_path / "a.t7", ff.torch7(saved))
        assert "lacks the mean colour" in refusal(path)
        assert read_foreign(path, (0.1, 0.2, 0.3)).description.mean_pixel == (0.1, 0.2, 0.3)


def otenim_files(weights):
    plain = ff.state_dict(weights | {"bn1.num_batches_tracked": np.array(3.0)})
    parallel = ff.state_dict({f"module.{name}": array for name, array in weights.items()})
    wide = ff.ordered_dict({name: ff.tensor(array) for name, array in weights.items()})
    named = {name: np.asarray(array, np.float32) for name, array in weights.items()}
    return {
        "zip": ff.torch_zip(plain),
        "legacy": ff.torch_legacy(parallel),
        "nested": ff.torch_zip({"epoch": 3, "networks": {"model_cn": parallel}, "name": "x"}),
        "double": ff.torch_legacy(wide, ">"),
        "safetensors": safetensors.numpy.save(named),
    }


def test_otenims_completion_network(torch_weights, picture, tmp_path):
    mean_pixel = tuple(MEAN.tolist())
    files = otenim_files(torch_weights)
    weights = read_foreign(write(tmp_path / "model_cn_step90000", files.pop("zip")), mean_pixel)
    image, mask = picture
    # The hole is filled with the mean; ReLU before BatchNorm.
    expected = reference_output(torch_weights, image - image * mask + MEAN * mask, mask, "conv_relu_bn")
    np.testing.assert_allclose(output_of(weights, *picture), expected, atol=1e-4)
    assert weights.network == CompletionNetwork(WIDTH, "conv_relu_bn")
    assert weights.description.input_form == "mean_filled"
    save_weights(weights, tmp_path / "ours.safetensors")
    assert load_weights(tmp_path / "ours.safetensors").description == weights.description
    for data in files.values():
        assert_same_variables(read_foreign(write(tmp_path / "a", data), mean_pixel), weights)


def test_otenims_mean_pixel_comes_from_the_config_of_its_training(tiny, tmp_path):
    (tmp_path / "phase_3").mkdir()
    path = write(tmp_path / "phase_3" / "model_cn", ff.torch_zip(ff.state_dict(tiny)))
    message = refusal(path)
    assert "mean colour" in message
    assert "--mean-pixel" in message
    assert "config.json" in message
    config = {"mpv": [0.1, 0.2, 0.3], "cn_input_size": 256, "hole_max_w": 128, "hole_max_h": 112}
    (tmp_path / "config.json").write_text(json.dumps(config))
    description = read_foreign(path).description
    assert (description.mean_pixel, description.image_size) == ((0.1, 0.2, 0.3), 256)
    assert description.hole_sides == (48, 128)
    beside = tmp_path / "phase_3" / "config.json"
    beside.write_text('{"mpv": 0.25}')
    assert read_foreign(path).description.mean_pixel == (0.25, 0.25, 0.25)
    assert read_foreign(path, GREY).description.mean_pixel == GREY
    too_large = '{"mpv": 0.25}' + " " * (1 << 20)
    for damaged in ("{", '{"mpv": "x"}', '{"mpv": [1, 2]}', '{"mpv": [1, 2, 3]}', "[" * 100_000, too_large):
        beside.write_text(damaged)
        with pytest.raises(WeightsError) as caught:
            read_foreign(path)
        one_line(caught)
        # It may be another program's, and nothing is needed from it.
        if "mpv" not in damaged or damaged == too_large:
            assert read_foreign(path, GREY).description.mean_pixel == GREY


def test_state_dicts_are_found_at_any_depth(tiny, tmp_path):
    arrays = ff.state_dict(tiny)
    loop = []
    loop.append(loop)
    log = [[step, {"loss": 0.5}] for step in range(12_000)]
    for value in (
        [arrays],
        (arrays, 3),
        {"a": {"b": {"c": {"d": arrays}}}},
        {"log": log, "loop": loop, "a": [[arrays]]},
    ):
        weights = read_foreign(write(tmp_path / "a.pth", ff.torch_zip(value)), GREY)
        assert weights.network == CompletionNetwork(1 / 32, "conv_relu_bn")


def test_long_names_are_not_copied(tmp_path):
    # One name of a megabyte in 500 dicts.
    name = "x" * (1 << 20)
    array = ff.tensor(np.zeros(1, np.float32))
    path = write(tmp_path / "a.pth", ff.torch_zip([{name: array} for _ in range(500)] + [{"short": array}]))
    tracemalloc.start()
    message = refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "unknown arrays (short)" in message
    assert peak < 30_000_000


BRANCHES = [("local", (12, 12), (4, 6), 64), ("global", (8, 8), (4, 6, 8), 64)]


def test_otenims_context_discriminator(tmp_path):
    weights = reference.random_discriminator_weights(np.random.default_rng(4), BRANCHES)
    named = ff.to_otenim_discriminator(weights, {"local": 2, "global": 3})
    assert {"model_ld.linear3.weight", "model_gd.linear4.bias", "linear1.weight"} <= set(named)
    imported = read_foreign(write(tmp_path / "model_cd", ff.torch_legacy(ff.state_dict(named))))
    assert imported.network.branches == ("local", "global")
    assert (imported.network.local_size, imported.description.image_size) == (48, 64)
    image = np.random.default_rng(5).uniform(0, 1, (2, 64, 64, 3))
    boxes = np.array([[0, 16], [9, 3]])
    logits = jax.jit(imported.network.apply)(imported.variables, image.astype(np.float32), boxes)
    expected, _ = reference.discriminate(
        weights, reference.to_channels_first(image), boxes, 48, ("local", "global"), "conv_relu_bn"
    )
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    save_weights(imported, tmp_path / "ours.safetensors")
    assert load_weights(tmp_path / "ours.safetensors").network == imported.network


def mmagic_file(arrays) -> bytes:
    """A checkpoint with all that a training saves beside its arrays."""
    history = ff.Global("mmengine.logging.history_buffer", "HistoryBuffer")
    method = ff.Call(ff.Global("__builtin__", "getattr"), (history, "min"))
    state = {"_statistics_methods": {"min": method}}
    return ff.torch_zip(
        {
            "meta": {"time": ff.Call(ff.Global("datetime", "datetime"), (b"x",)), "cfg": "model = 1"},
            "state_dict": ff.state_dict(arrays | {"disc.fc.weight": np.zeros((1, 2))}),
            "message_hub": {"log_scalars": {"loss": ff.Call(history, (), state)}},
        }
    )


def test_mmagics_completion_network(torch_weights, picture, tmp_path):
    path = write(tmp_path / "gl.pth", mmagic_file(ff.to_mmagic(torch_weights)))
    weights = read_foreign(path)
    image, mask = picture
    # BGR in [0, 255], the hole 127.5, then in [-1, 1]; no bias before a BatchNorm; the output is BGR and clipped.
    colours = (image[..., ::-1] * 255 * (1 - mask) + 127.5 * mask - 127.5) / 127.5
    unbiased = {
        name: np.zeros_like(array) if ".bias" in name and "conv" in name and name != "conv17.bias" else array
        for name, array in torch_weights.items()
    }
    expected = reference_output(unbiased, colours, mask, activation="clip")[..., ::-1]
    np.testing.assert_allclose(output_of(weights, *picture), expected, atol=1e-4)
    assert weights.network == CompletionNetwork(WIDTH, output_activation="clip")
    description = weights.description
    assert (description.input_form, description.mean_pixel) == ("signed", GREY)

    parallel = mmagic_file(ff.to_mmagic(torch_weights, "module.generator."))
    assert_same_variables(read_foreign(write(path, parallel)), weights)
    others = {name: array + 1 for name, array in ff.to_mmagic(torch_weights).items()}
    averaged = mmagic_file(others | ff.to_mmagic(torch_weights, "generator_ema."))
    assert_same_variables(read_foreign(write(path, averaged)), weights)


def test_shapes_of_the_full_network():
    shapes = completion_shapes(1.0)
    running = sum(np.prod(shape) for name, shape in shapes.items() if "running" in name)
    assert running == 5952
    assert sum(np.prod(shape) for shape in shapes.values()) - running == 6_072_131


def test_arrays_that_do_not_fit_are_named(tiny, tmp_path):
    for name, array, message in (
        ("conv5.weight", None, "array conv5.weight (8, 8, 3, 3) is missing"),
        ("conv5.weight", np.zeros((8, 8, 5, 5)), "conv5.weight has the shape (8, 8, 5, 5), not (8, 8, 3, 3)"),
        ("conv1.weight", np.zeros((2, 3, 5, 5)), "conv1.weight has the shape (2, 3, 5, 5), not (2, 4, 5, 5)"),
        ("conv1.weight", np.zeros(3), "conv1.weight has the shape (3,)"),
        ("conv99.weight", np.zeros(3), "conv99.weight (3,) belongs to no layer"),
        ("bn3.running_var", np.full(4, -1.0), "bn3.running_var has a variance below 0"),
        ("conv3.bias", np.full(4, np.nan), "not finite"),
        ("conv3.bias", np.full(4, np.inf), "not finite"),
    ):
        changed = {key: value for key, value in (tiny | {name: array}).items() if value is not None}
        assert message in refusal(tmp_path / "a.pth", ff.torch_zip(ff.state_dict(changed)), GREY)
    named = ff.to_mmagic(tiny)
    named["generator.encoder.enc5.conv.weight"] = np.zeros((8, 8, 1, 1))
    message = refusal(tmp_path / "a", ff.torch_zip({"state_dict": ff.state_dict(named)}))
    assert "generator.encoder.enc5.conv.weight has the shape" in message


def test_other_networks_are_refused_by_name(tmp_path):
    first = "encoder.enc1.conv.weight"
    for names, message in (
        ([f"generator.stage1.{first}"], "DeepFill"),
        ([f"stage1.{first}"], "DeepFill"),
        ([f"generator.{first}", "generator.encoder.enc7.conv.weight"], "PConv"),
        ([f"generator.{first}"], "without dilated"),
        (["generator.dilation_neck.dilation_blocks.0.x"], "AOT-GAN"),
        (["fc.weight", "fc.bias", "a", "b", "c"], "unknown arrays (fc.weight, fc.bias, a, b, ...)"),
        ([], "no arrays"),
    ):
        data = ff.torch_zip({"state_dict": ff.state_dict({name: np.zeros(3) for name in names})})
        found = refusal(tmp_path / "a", data)
        assert message in found
        assert "supported are" in found


def set_field(index, **fields):
    return lambda modules: modules[index].fields.update(fields)


def set_class(index, class_name):
    def change(modules):
        modules[index] = modules[index]._replace(class_name=class_name)

    return change


def insert(class_name, **fields):
    return lambda modules: modules.insert(3, ff.Module(class_name, fields))


CHANGED_MODULES = {
    "module 4, nn.SpatialConvolution: dW is 1, not 2 as in conv2": set_field(3, dW=1),
    "dilationH is 1, not 2 as in conv7": set_field(18, dilationH=1),
    "padH is 1, not 2 as in conv1": set_field(0, padH=1),
    "adjW is 1, not 0 as in deconv13": set_field(36, adjW=1),
    "kW is 3, not 5": set_field(0, kW=3),
    "groups is 2, not 1": set_field(0, groups=2),
    "its weight is missing": set_field(0, weight=None),
    "its running_std is missing": set_field(1, running_var=None),
    "its running_mean is missing": set_field(1, running_mean="x"),
    "module 3 of its network is nn.LeakyReLU, not nn.ReLU": set_class(2, "nn.LeakyReLU"),
    "module 1 of its network is os": set_class(0, "os.SpatialConvolution"),
    "module 4 of its network is nn.SpatialDropout": insert("nn.SpatialDropout", p=0.5),
    "module 4 of its network is nn.Dropout": insert("nn.Dropout", p=0.5),
    "module 4 of its network is nn.Dropout,": insert("nn.Dropout", p=0.5, v2=False),
    "nn.Tanh, not nn.Sigmoid": set_class(49, "nn.Tanh"),
    "ends after 49 modules": lambda modules: modules.pop(),
    "51 modules, not 50": lambda modules: modules.append(modules[2]),
    "element 1 of its nn.Sequential is not a module": lambda modules: modules.insert(0, "x"),
}


def test_modules_with_another_effect_are_refused(tiny, tmp_path):
    for message, change in CHANGED_MODULES.items():
        modules = ff.authors_modules(tiny)
        change(modules)
        assert message in refusal(tmp_path / "a.t7", ff.torch7(ff.authors(modules)))


def test_modules_without_effect_are_skipped(tiny, tmp_path):
    modules = ff.authors_modules(tiny)
    expected = read_foreign(write(tmp_path / "a.t7", ff.torch7(ff.authors(modules))))
    idle = [
        ff.Module("nn.Identity", {}),
        ff.Module("nn.Copy", {}),
        ff.Module("nn.Contiguous", {}),
        ff.Module("nn.Dropout", {"p": 0.5, "v2": True}),
        ff.Module("nn.Dropout", {"p": 0}),
        ff.Module("nn.SpatialDropout", {"p": 0}),
        ff.Module("nn.Sequential", {"modules": {}}),
    ]
    changed = ff.authors([modules[0], *idle, *modules[1:], *idle])
    assert_same_variables(read_foreign(write(tmp_path / "b.t7", ff.torch7(changed))), expected)


def test_recursive_modules_end(tmp_path):
    module = ff.Module("nn.Dropout", {"v2": True})
    for _ in range(3):
        module = ff.Module("nn.Sequential", {"modules": dict.fromkeys(range(1, 31), module)})
    itself = ff.Module("nn.Sequential", {"modules": {}})
    itself.fields["modules"][1] = itself
    wide = ff.Module("nn.Sequential", {"modules": dict.fromkeys(range(1, 1002), ff.Module("nn.Identity", {}))})
    for network in (module, itself, wide):
        message = refusal(tmp_path / "a.t7", ff.torch7({"model": network}))
        assert "its network has more than 1,000 modules" in message


def test_files_that_hold_no_weights_are_one_line(tiny, tmp_path):
    path = write(tmp_path / "cn", ff.torch_zip(ff.state_dict(tiny)))
    ours = read_foreign(path, GREY)._replace(network=CompletionNetwork(1 / 32))
    save_weights(ours, tmp_path / "ours.safetensors")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_FILE_SIZE + 1)
    for name, (data, message) in {
        "none": (None, "no such file"),
        "": (None, "not a file"),
        "empty": (b"", "is empty"),
        "large": (None, "bytes exceed"),
        "text": (b"hello world", "not a binary file"),
        "ascii.t7": (b"4\n1\n3\nV 1\n", "not a binary file"),
        "table.t7": (ff.torch7({"a": 1}), "a table with a"),
        "object.t7": (ff.torch7(ff.Module("nn.Linear", {})), "nn.Linear"),
        "st": ((8).to_bytes(8, "little") + b"{}      ", "no arrays"),
        "damaged.st": ((8).to_bytes(8, "little") + b"{xxxxxxx", "cannot be read as safetensors"),
        "ours.safetensors": (None, "glcic_jax's own"),
    }.items():
        assert message in refusal(tmp_path / name, data)


def test_damage_gives_weights_or_one_line(tiny, tmp_path):
    """Truncations and changed bytes in every kind of file, mostly near the ends."""
    generator = np.random.default_rng(6)
    files = [ff.torch7(ff.authors(ff.authors_modules(tiny))), *otenim_files(tiny).values()]
    messages: list[str | None] = []
    for whole in files:
        damaged = [whole[: len(whole) * part // 12] for part in range(12)]
        for trial in range(16):
            changed = bytearray(whole)
            span = len(whole) if trial % 4 == 0 else 400
            places = generator.integers(0, span, generator.integers(1, 4))
            # A zip archive has its directory at the end.
            for place in places if trial % 2 else -1 - places:
                changed[place] = generator.integers(256)
            damaged.append(bytes(changed))
        messages += [ff.refusal(read_foreign, write(tmp_path / "a", data), GREY) for data in damaged]
    assert messages.count(None) > 3
    assert messages.count(None) < len(messages) - 60
    assert all(message is None or len(message.splitlines()) == 1 for message in messages)

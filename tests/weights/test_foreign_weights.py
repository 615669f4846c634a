"""Imported weights against the reference, with what each home does around its network; and what is refused."""

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
from glcic_jax.weights.foreign.tensors import LARGEST_FILE

WIDTH = 1 / 16
MEAN = np.array([0.5, 0.4, 0.3])
SIDE = 72  # A quarter is above 16, so that the widest dilation sees more than padding.


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiling takes nearly all the time of these tests."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def torch_weights():
    """Random weights of the reference, as float32 holds them."""
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


def completed_by(weights, image, mask):
    """What the imported network makes of a picture."""
    fields = weights.description
    given = network_input(
        image.astype(np.float32), mask.astype(np.float32), np.array(fields.mean_pixel), fields.input_form
    )
    return np.asarray(jax.jit(weights.network.apply)(weights.variables, given))


@pytest.fixture(scope="module")
def at_authors(torch_weights, picture):
    """Mean subtracted, the hole then 0; BatchNorm before ReLU."""
    image, mask = picture
    given = np.concatenate([(image - MEAN) * (1 - mask), mask], -1)
    return reference.to_channels_last(reference.complete(torch_weights, reference.to_channels_first(given))[0])


@pytest.fixture(scope="module")
def at_otenim(torch_weights, picture):
    """The hole filled with the mean; ReLU before BatchNorm."""
    image, mask = picture
    given = reference.to_channels_first(np.concatenate([image - image * mask + MEAN * mask, mask], -1))
    return reference.to_channels_last(reference.complete(torch_weights, given, "conv_relu_bn")[0])


@pytest.fixture(scope="module")
def at_mmagic(torch_weights, picture):
    """BGR in [0, 255], the hole 127.5, then to [-1, 1]; no bias before a BatchNorm; BGR comes out, clipped."""
    image, mask = picture
    blue_first = image[..., ::-1] * 255
    given = (blue_first * (1 - mask) + 127.5 * mask - 127.5) / 127.5
    weights = {
        name: np.zeros_like(array) if ".bias" in name and "conv" in name and name != "conv17.bias" else array
        for name, array in torch_weights.items()
    }
    first = reference.to_channels_first(np.concatenate([given, mask], -1))
    return reference.to_channels_last(reference.complete(weights, first, activation="clip")[0])[..., ::-1]


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


@pytest.fixture(scope="module")
def from_authors(torch_weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("authors") / "completionnet_celeba.t7"
    return read_foreign(write(path, ff.torch7(ff.authors(ff.authors_modules(torch_weights), MEAN))))


def test_the_authors_networks(from_authors, torch_weights, picture, at_authors):
    variance = from_authors.variables["batch_stats"]["bn1"]["var"]
    np.testing.assert_array_equal(variance, torch_weights["bn1.running_var"])
    np.testing.assert_allclose(completed_by(from_authors, *picture), at_authors, atol=1e-4)
    assert from_authors.network == CompletionNetwork(WIDTH)
    description = from_authors.description
    np.testing.assert_allclose(description.mean_pixel, MEAN)
    assert (description.image_size, description.hole_sides) == (160, (48, 96))
    assert description.licence == "CC BY-NC-SA 4.0"
    assert "completionnet_celeba.t7, sha256 " in description.origin


def test_the_authors_networks_in_other_forms_are_the_same(torch_weights, from_authors, tmp_path):
    cudnn = ff.authors(ff.authors_modules(torch_weights, "cudnn"))
    assert_same_variables(read_foreign(write(tmp_path / "a", ff.torch7(cudnn, True))), from_authors)
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


@pytest.mark.parametrize(
    ("name", "mean", "size"),
    [
        ("completionnet_places2_freeform.t7", (0.5, 0.4, 0.3), 256),
        ("a.t7", (0.45603, 0.44721, 0.41546), 256),
        ("a.t7", (0.5, 0.4, 0.3), 160),
    ],
)
def test_which_of_the_authors_data_sets(name, mean, size, tiny, tmp_path):
    value = ff.authors(ff.authors_modules(tiny), mean)
    assert read_foreign(write(tmp_path / name, ff.torch7(value))).description.image_size == size


def test_a_mean_that_is_not_in_the_file_has_to_be_given(tiny, tmp_path):
    path = write(tmp_path / "a.t7", ff.torch7(ff.authors(ff.authors_modules(tiny))["model"]))
    with pytest.raises(WeightsError, match=r"a\.t7: the mean colour"):
        read_foreign(path)
    assert read_foreign(path, (0.1, 0.2, 0.3)).description.mean_pixel == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("mean", ["grey", {"r": 0.1}, [0.1, 0.2], ff.Lua(8)])
def test_a_given_mean_serves_where_the_files_own_is_none(mean, tiny, tmp_path):
    value = ff.authors(ff.authors_modules(tiny))
    value["mean"] = ff.torch7_tensor(np.array(mean)) if isinstance(mean, list) else mean
    path = write(tmp_path / "a.t7", ff.torch7(value))
    with pytest.raises(WeightsError, match=r"a\.t7: the mean colour"):
        read_foreign(path)
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


def test_otenims_completion_network(torch_weights, picture, at_otenim, tmp_path):
    mean_pixel = tuple(MEAN.tolist())
    files = otenim_files(torch_weights)
    weights = read_foreign(write(tmp_path / "model_cn_step90000", files.pop("zip")), mean_pixel)
    np.testing.assert_allclose(completed_by(weights, *picture), at_otenim, atol=1e-4)
    assert weights.network == CompletionNetwork(WIDTH, "conv_relu_bn")
    assert weights.description.input_form == "mean_filled"
    save_weights(weights, tmp_path / "ours.safetensors")
    assert load_weights(tmp_path / "ours.safetensors").description == weights.description
    for form in files.values():
        assert_same_variables(read_foreign(write(tmp_path / "a", form), mean_pixel), weights)


def test_otenims_mean_comes_from_the_configuration_of_its_training(tiny, tmp_path):
    (tmp_path / "phase_3").mkdir()
    path = write(tmp_path / "phase_3" / "model_cn", ff.torch_zip(ff.state_dict(tiny)))
    with pytest.raises(WeightsError, match=r"model_cn: the mean colour .*--mean-pixel.*config\.json") as caught:
        read_foreign(path)
    one_line(caught)
    config = {"mpv": [0.1, 0.2, 0.3], "cn_input_size": 256, "hole_max_w": 128, "hole_max_h": 112}
    (tmp_path / "config.json").write_text(json.dumps(config))
    description = read_foreign(path).description
    assert (description.mean_pixel, description.image_size) == ((0.1, 0.2, 0.3), 256)
    assert description.hole_sides == (48, 128)
    (tmp_path / "phase_3" / "config.json").write_text('{"mpv": 0.25}')
    assert read_foreign(path).description.mean_pixel == (0.25, 0.25, 0.25)
    assert read_foreign(path, (0.5, 0.5, 0.5)).description.mean_pixel == (0.5, 0.5, 0.5)
    for damaged in ("{", '{"mpv": "x"}', '{"mpv": [1, 2]}', '{"mpv": [1, 2, 3]}', "[" * 100_000):
        (tmp_path / "phase_3" / "config.json").write_text(damaged)
        with pytest.raises(WeightsError) as caught:
            read_foreign(path)
        one_line(caught)

    # It may be another program's.
    assert read_foreign(path, (0.5, 0.5, 0.5)).description.mean_pixel == (0.5, 0.5, 0.5)
    (tmp_path / "phase_3" / "config.json").write_text('{"mpv": 0.25}' + " " * (1 << 20))
    with pytest.raises(WeightsError, match=r"config\.json: too large"):
        read_foreign(path)


def test_state_dicts_are_found_wherever_they_lie(tiny, tmp_path):
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
        weights = read_foreign(write(tmp_path / "a.pth", ff.torch_zip(value)), (0.5, 0.5, 0.5))
        assert weights.network == CompletionNetwork(1 / 32, "conv_relu_bn")


def test_long_names_are_not_copied(tmp_path):
    # One name of a megabyte, in 2000 dicts.
    name = "x" * (1 << 20)
    array = ff.tensor(np.zeros(1, np.float32))
    data = ff.torch_zip([{name: array} for _ in range(2000)] + [{"short": array}])
    path = write(tmp_path / "a.pth", data)
    tracemalloc.start()
    told = ff.refusal(read_foreign, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "unknown arrays (short)" in told
    assert peak < 30_000_000


BRANCHES = [("local", (48, 48), (4, 6), 64), ("global", (64, 64), (4, 6, 8), 64)]


def test_otenims_context_discriminator(tmp_path):
    weights = reference.random_discriminator_weights(np.random.default_rng(4), BRANCHES)
    named = ff.to_otenim_discriminator(weights, {"local": 2, "global": 3})
    assert {"model_ld.linear3.weight", "model_gd.linear4.bias", "linear1.weight"} <= set(named)
    imported = read_foreign(write(tmp_path / "model_cd", ff.torch_legacy(ff.state_dict(named))))
    assert imported.network.branches == ("local", "global")
    assert (imported.network.local_size, imported.description.image_size) == (48, 64)
    image = np.random.default_rng(5).uniform(0, 1, (2, 64, 64, 3))
    boxes = np.array([[0, 16], [9, 3]])
    logits = imported.network.apply(imported.variables, image.astype(np.float32), boxes)
    expected, _ = reference.discriminate(
        weights, reference.to_channels_first(image), boxes, 48, ("local", "global"), "conv_relu_bn"
    )
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    save_weights(imported, tmp_path / "ours.safetensors")
    assert load_weights(tmp_path / "ours.safetensors").network == imported.network


def mmagic_file(arrays) -> bytes:
    """A checkpoint with all that a training puts beside its arrays."""
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


def test_mmagics_completion_network(torch_weights, picture, at_mmagic, tmp_path):
    path = write(tmp_path / "gl.pth", mmagic_file(ff.to_mmagic(torch_weights)))
    weights = read_foreign(path)
    np.testing.assert_allclose(completed_by(weights, *picture), at_mmagic, atol=1e-4)
    assert weights.network == CompletionNetwork(WIDTH, output_activation="clip")
    description = weights.description
    assert (description.input_form, description.mean_pixel) == ("signed", (0.5, 0.5, 0.5))

    parallel = mmagic_file(ff.to_mmagic(torch_weights, "module.generator."))
    assert_same_variables(read_foreign(write(path, parallel)), weights)
    others = {name: array + 1 for name, array in ff.to_mmagic(torch_weights).items()}
    averaged = mmagic_file(others | ff.to_mmagic(torch_weights, "generator_ema."))
    assert_same_variables(read_foreign(write(path, averaged)), weights)


def test_the_shapes_of_the_full_network():
    # Trainable numbers and running statistics of the paper's network.
    shapes = completion_shapes(1.0)
    running = sum(np.prod(shape) for name, shape in shapes.items() if "running" in name)
    assert running == 5952
    assert sum(np.prod(shape) for shape in shapes.values()) - running == 6_072_131


def changed(arrays, **changes):
    """Arrays with some replaced, added or (None) left out; `__` stands for a dot."""
    after = arrays | {name.replace("__", "."): array for name, array in changes.items()}
    return {name: array for name, array in after.items() if array is not None}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"conv5__weight": None}, r"array conv5\.weight .* is missing"),
        (
            {"conv5__weight": np.zeros((8, 8, 5, 5))},
            r"conv5\.weight has the shape \(8, 8, 5, 5\), not \(8, 8, 3, 3\)",
        ),
        (
            {"conv1__weight": np.zeros((2, 3, 5, 5))},
            r"conv1\.weight has the shape \(2, 3, 5, 5\), not \(2, 4, 5, 5\)",
        ),
        ({"conv1__weight": np.zeros(3)}, r"conv1\.weight has the shape \(3,\)"),
        ({"conv99__weight": np.zeros(3)}, r"conv99\.weight .* belongs to no layer"),
        ({"bn3__running_var": np.full(4, -1.0)}, r"bn3\.running_var has a variance below 0"),
        ({"conv3__bias": np.full(4, np.nan)}, "not finite"),
        ({"conv3__bias": np.full(4, np.inf)}, "not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, told, tiny, tmp_path):
    path = write(tmp_path / "a.pth", ff.torch_zip(ff.state_dict(changed(tiny, **change))))
    with pytest.raises(WeightsError, match=told) as caught:
        read_foreign(path, (0.5, 0.5, 0.5))
    assert "a.pth: " in one_line(caught)


def test_mmagics_arrays_are_named_as_in_its_file(tiny, tmp_path):
    named = ff.to_mmagic(tiny)
    named["generator.encoder.enc5.conv.weight"] = np.zeros((8, 8, 1, 1))
    with pytest.raises(WeightsError, match=r"generator\.encoder\.enc5\.conv\.weight has the shape"):
        read_foreign(write(tmp_path / "a", ff.torch_zip({"state_dict": ff.state_dict(named)})))


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["generator.stage1.encoder.enc1.conv.weight"], "DeepFill"),
        (["generator.encoder.enc1.conv.weight", "generator.encoder.enc7.conv.weight"], "PConv"),
        (["generator.encoder.enc1.conv.weight"], "without dilated"),
        (["generator.dilation_neck.dilation_blocks.0.x"], "AOT-GAN"),
        (["stage1.encoder.enc1.conv.weight"], "DeepFill"),
        (["fc.weight", "fc.bias", "a", "b", "c"], r"unknown arrays \(fc\.weight, fc\.bias, a, b, \.\.\.\)"),
        ([], "no arrays"),
    ],
)
def test_other_networks_are_refused_by_name(names, told, tmp_path):
    data = ff.torch_zip({"state_dict": ff.state_dict({name: np.zeros(3) for name in names})})
    with pytest.raises(WeightsError, match=told) as caught:
        read_foreign(write(tmp_path / "a", data))
    assert "understood are" in one_line(caught)


def set_field(index, **fields):
    def change(modules):
        modules[index].fields.update(fields)

    return change


def set_module(index, class_name):
    def change(modules):
        modules[index] = modules[index]._replace(class_name=class_name)

    return change


def insert(class_name, **fields):
    return lambda modules: modules.insert(3, ff.Module(class_name, fields))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (set_field(3, dW=1), r"module 4, nn\.SpatialConvolution: dW is 1, not 2 as in conv2"),
        (set_field(18, dilationH=1), "dilationH is 1, not 2 as in conv7"),
        (set_field(0, padH=1), "padH is 1, not 2 as in conv1"),
        (set_field(36, adjW=1), "adjW is 1, not 0 as in deconv13"),
        (set_field(0, kW=3), "kW is 3, not 5"),
        (set_field(0, groups=2), "groups is 2, not 1"),
        (set_field(0, weight=None), "its weight is missing"),
        (set_field(1, running_var=None), "its running_std is missing"),
        (set_field(1, running_mean="x"), "its running_mean is missing"),
        (set_module(2, "nn.LeakyReLU"), r"module 3 of its network is nn\.LeakyReLU, not nn\.ReLU"),
        (set_module(0, "os.SpatialConvolution"), "module 1 of its network is os"),
        (insert("nn.SpatialDropout", p=0.5), r"module 4 of its network is nn\.SpatialDropout"),
        (insert("nn.Dropout", p=0.5), r"module 4 of its network is nn\.Dropout"),
        (insert("nn.Dropout", p=0.5, v2=False), r"module 4 of its network is nn\.Dropout"),
        (set_module(49, "nn.Tanh"), r"nn\.Tanh, not nn\.Sigmoid"),
        (lambda modules: modules.pop(), "ends after 49 modules"),
        (lambda modules: modules.append(modules[2]), "51 modules, not 50"),
        (lambda modules: modules.insert(0, "x"), "module 1 of its nn.Sequential is none"),
    ],
)
def test_modules_that_do_something_else_are_refused(change, told, tiny, tmp_path):
    modules = ff.authors_modules(tiny)
    change(modules)
    with pytest.raises(WeightsError, match=told) as caught:
        read_foreign(write(tmp_path / "a.t7", ff.torch7(ff.authors(modules))))
    assert "a.t7: " in one_line(caught)


@pytest.mark.parametrize(
    "module",
    [
        ff.Module("nn.Identity", {}),
        ff.Module("nn.Copy", {}),
        ff.Module("nn.Contiguous", {}),
        ff.Module("nn.Dropout", {"p": 0.5, "v2": True}),
        ff.Module("nn.Dropout", {"p": 0}),
        ff.Module("nn.SpatialDropout", {"p": 0}),
        ff.Module("nn.Sequential", {"modules": {}}),
    ],
)
def test_modules_that_change_nothing_are_passed_over(module, tiny, tmp_path):
    modules = ff.authors_modules(tiny)
    expected = read_foreign(write(tmp_path / "a.t7", ff.torch7(ff.authors(modules))))
    changed = ff.authors([modules[0], module, *modules[1:], module])
    assert_same_variables(read_foreign(write(tmp_path / "b.t7", ff.torch7(changed))), expected)


def test_modules_that_hold_each_other_come_to_an_end(tmp_path):
    module = ff.Module("nn.Dropout", {"v2": True})
    for _ in range(3):
        module = ff.Module("nn.Sequential", {"modules": dict.fromkeys(range(1, 31), module)})
    itself = ff.Module("nn.Sequential", {"modules": {}})
    itself.fields["modules"][1] = itself
    wide = ff.Module("nn.Sequential", {"modules": dict.fromkeys(range(1, 1002), ff.Module("nn.Identity", {}))})
    for network in (module, itself, wide):
        told = ff.refusal(read_foreign, write(tmp_path / "a.t7", ff.torch7({"model": network})))
        assert "a.t7: its network has more than 1,000 modules" in told


def test_what_is_no_file_of_weights_is_one_line(tiny, tmp_path):
    network = CompletionNetwork(1 / 32)
    path = write(tmp_path / "cn", ff.torch_zip(ff.state_dict(tiny)))
    ours = read_foreign(path, (0.5, 0.5, 0.5))._replace(network=network)
    save_weights(ours, tmp_path / "ours.safetensors")
    cases = {
        "none": (None, "no such file"),
        "empty": (b"", "is empty"),
        "text": (b"hello world", "of no format"),
        "table.t7": (ff.torch7({"a": 1}), "a table with a"),
        "object.t7": (ff.torch7(ff.Module("nn.Linear", {})), "nn.Linear"),
        "st": ((8).to_bytes(8, "little") + b"{}      ", "no arrays"),
        "damaged.st": ((8).to_bytes(8, "little") + b"{xxxxxxx", "cannot be read as safetensors"),
        "ours.safetensors": (None, "glcic_jax's own"),
    }
    for name, (data, told) in cases.items():
        with pytest.raises(WeightsError, match=told) as caught:
            read_foreign(tmp_path / name if data is None else write(tmp_path / name, data))
        assert f"{name}: " in one_line(caught)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(WeightsError, match=r"large: .* bytes are more"):
        read_foreign(tmp_path / "large")
    with pytest.raises(WeightsError, match="not a file"):
        read_foreign(tmp_path)


def test_damage_gives_weights_or_one_line(tiny, tmp_path):
    """Cuts and changed bytes in every kind of file, the beginnings above all."""
    generator = np.random.default_rng(6)
    modules = ff.authors(ff.authors_modules(tiny))
    files = [ff.torch7(modules), ff.torch7(modules, True), *otenim_files(tiny).values()]
    told: list[str | None] = []
    for whole in files:
        damaged = [whole[: len(whole) * part // 12] for part in range(12)]
        for trial in range(16):
            changed = bytearray(whole)
            span = len(whole) if trial % 4 == 0 else 400
            places = generator.integers(0, span, generator.integers(1, 4))
            # From the end too: that is where a zip archive keeps what is in it.
            for place in places if trial % 2 else -1 - places:
                changed[place] = generator.integers(256)
            damaged.append(bytes(changed))
        told += [ff.refusal(read_foreign, write(tmp_path / "a", data), (0.5, 0.5, 0.5)) for data in damaged]
    assert told.count(None) > 3
    assert told.count(None) < len(told) - 60
    assert all(line is None or len(line.splitlines()) == 1 for line in told)

"""LPIPS against a second implementation and the authors' package's numbers; files of other networks."""

import hashlib

import numpy as np
import pytest
import safetensors.numpy
from helpers.common import one_line
from helpers.feature_files import random_arrays, random_pictures, torch_file
from scipy.signal import correlate2d

from glcic_jax.errors import DataError, WeightsError
from glcic_jax.evaluation.perceptual import lpips
from glcic_jax.evaluation.perceptual.lpips import BACKBONES, Lpips

FEATURES = {"alexnet": (64, 192, 384, 256, 256), "vgg16": (64, 128, 256, 512, 512)}
# Index in torchvision's `features`, outputs, kernel, stride and padding; "pool" with its window; "tap".
LAYERS = {
    "alexnet": [
        *((0, 64, 11, 4, 2), "tap", ("pool", 3), (3, 192, 5, 1, 2), "tap", ("pool", 3)),
        *((6, 384, 3, 1, 1), "tap", (8, 256, 3, 1, 1), "tap", (10, 256, 3, 1, 1), "tap"),
    ],
    "vgg16": [
        *((0, 64, 3, 1, 1), (2, 64, 3, 1, 1), "tap", ("pool", 2), (5, 128, 3, 1, 1), (7, 128, 3, 1, 1), "tap"),
        *(("pool", 2), (10, 256, 3, 1, 1), (12, 256, 3, 1, 1), (14, 256, 3, 1, 1), "tap", ("pool", 2)),
        *((17, 512, 3, 1, 1), (19, 512, 3, 1, 1), (21, 512, 3, 1, 1), "tap", ("pool", 2)),
        *((24, 512, 3, 1, 1), (26, 512, 3, 1, 1), (28, 512, 3, 1, 1), "tap"),
    ],
}


def backbone_shapes(name, divisor=1):
    shapes, inputs = {}, 3
    for layer in LAYERS[name]:
        if isinstance(layer, tuple) and layer[0] != "pool":
            index, outputs, kernel, *_ = layer
            shapes[f"features.{index}.weight"] = (outputs // divisor, inputs, kernel, kernel)
            shapes[f"features.{index}.bias"] = (outputs // divisor,)
            inputs = outputs // divisor
    return shapes


def head_shapes(name, divisor=1):
    return {f"lin{index}.weight": (1, count // divisor, 1, 1) for index, count in enumerate(FEATURES[name])}


def published(heads):
    return {name.replace(".weight", ".model.1.weight"): array for name, array in heads.items()}


def combined(backbone, heads):
    """As the state dict of lpips.LPIPS: the stages of AlexNet."""
    slices = {"0": 1, "3": 2, "6": 3, "8": 4, "10": 5}
    arrays = {
        "scaling_layer.shift": np.array([-0.030, -0.088, -0.188], np.float32).reshape(1, 3, 1, 1),
        "scaling_layer.scale": np.array([0.458, 0.448, 0.450], np.float32).reshape(1, 3, 1, 1),
    }
    for name, array in backbone.items():
        _, index, kind = name.split(".")
        arrays[f"net.slice{slices[index]}.{index}.{kind}"] = array
    for name, array in heads.items():
        arrays[f"{name[:4]}.model.1.weight"] = arrays[f"lins.{name[3]}.model.1.weight"] = array
    return arrays


def reference_maps(name, arrays, picture):
    """The compared layers of one picture, in float64 and channels first."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    hidden = ((picture / 255 * 2 - 1 - shift) / scale).transpose(2, 0, 1)
    for layer in LAYERS[name]:
        if layer == "tap":
            yield hidden / (np.sqrt((hidden**2).sum(axis=0)) + 1e-10)
        elif layer[0] == "pool":
            windows = np.lib.stride_tricks.sliding_window_view(hidden, (layer[1], layer[1]), axis=(1, 2))
            hidden = windows[:, ::2, ::2].max(axis=(3, 4))
        else:
            index, _, _, stride, padding = layer
            padded = np.pad(hidden, [(0, 0), (padding, padding), (padding, padding)])
            kernels, biases = arrays[f"features.{index}.weight"], arrays[f"features.{index}.bias"]
            sums = [
                sum(correlate2d(channel, tap, "valid") for channel, tap in zip(padded, kernel, strict=True)) + bias
                for kernel, bias in zip(kernels.astype(np.float64), biases, strict=True)
            ]
            hidden = np.maximum(np.array(sums)[:, ::stride, ::stride], 0)


def reference_distance(name, arrays, heads, completed, image):
    pairs = zip(reference_maps(name, arrays, completed), reference_maps(name, arrays, image), strict=True)
    return sum(
        (heads[f"lin{index}.weight"][0] * (ours - theirs) ** 2).sum(axis=0).mean()
        for index, (ours, theirs) in enumerate(pairs)
    )


def small(name, divisor=32):
    """A narrow network of the same layers, and its arrays in PyTorch's order."""
    backbone, heads = random_arrays(backbone_shapes(name, divisor)), random_arrays(head_shapes(name, divisor), 1)
    params = {f"lin{index}": {"weight": heads[f"lin{index}.weight"].ravel()} for index in range(5)}
    for key, array in backbone.items():
        layer, _, kind = key.rpartition(".")
        leaf, value = ("bias", array) if kind == "bias" else ("kernel", array.transpose(2, 3, 1, 0))
        params.setdefault(layer, {})[leaf] = value
    return Lpips(BACKBONES[name], params, "small"), backbone, heads


@pytest.fixture(scope="module")
def alexnet():
    return random_arrays(backbone_shapes("alexnet")), random_arrays(head_shapes("alexnet"), 1)


@pytest.fixture
def written(tmp_path):
    def write(name, arrays):
        path = tmp_path / name
        path.write_bytes(safetensors.numpy.save(arrays) if name.endswith("safetensors") else torch_file(arrays))
        return path

    return write


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Batches are padded, and most tests have two images."""
    monkeypatch.setattr(lpips, "_BATCH_SIZE", 2)


@pytest.mark.parametrize("name", BACKBONES)
def test_distance_agrees_with_a_second_implementation(name):
    measure, backbone, heads = small(name)
    completed, image = random_pictures(2, 41, 50, 1), random_pictures(2, 41, 50, 2)
    found = measure.distances(completed, image)
    assert found.dtype == np.float32
    expected = [reference_distance(name, backbone, heads, *pair) for pair in zip(completed, image, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=2e-5)


# From lpips 0.1.4 on PyTorch 2.13 in float64 with the same weights.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet", [2.026484057798729, 2.0110353637579697]),
        ("vgg16", [1.3636677400107706, 1.2777031560535963]),
    ],
)
def test_the_full_network_agrees_with_the_package(name, expected, written):
    backbone = random_arrays(backbone_shapes(name))
    # torchvision's files also hold the classifier.
    file = written("backbone.pth", backbone | {"classifier.6.bias": np.zeros(1000, np.float32)})
    heads = written("heads.pth", published(random_arrays(head_shapes(name), 1)))
    measure = lpips.load([heads, file])
    found = measure.distances(random_pictures(2, 40, 48, 1), random_pictures(2, 40, 48, 2))
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    for path in (file, heads):
        assert f"{path.name} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}" in measure.description
    assert BACKBONES[name].title in measure.description
    assert "not verified to be the published weights" in measure.description


def test_one_file_may_hold_both_in_either_format(alexnet, written):
    pictures = random_pictures(2, 40, 48, 1), random_pictures(2, 40, 48, 2)
    arrays = combined(*alexnet)
    for name, content in (
        ("both.pth", {f"module.{key}": array for key, array in arrays.items()}),
        ("both.safetensors", arrays),
    ):
        found = lpips.load([written(name, content)]).distances(*pictures)
        np.testing.assert_allclose(found, [2.026484057798729, 2.0110353637579697], rtol=2e-6)


def test_distance_is_symmetric_and_zero_for_equal_images():
    measure, *_ = small("alexnet")
    completed, image = random_pictures(3, 40, 33, 1), random_pictures(3, 40, 33, 2)
    completed[1] = image[1]
    found = measure.distances(completed, image)
    assert found[1] == 0
    assert (found[[0, 2]] > 0.01).all()
    np.testing.assert_allclose(found, measure.distances(image, completed), rtol=1e-5)


def test_distance_does_not_depend_on_the_batch():
    measure, *_ = small("alexnet")
    completed, image = random_pictures(5, 32, 32, 1), random_pictures(5, 32, 32, 2)
    whole = measure.distances(completed, image)
    assert np.ptp(whole) > 1e-3
    backwards = measure.distances(completed[::-1], image[::-1])
    np.testing.assert_allclose(backwards[::-1], whole, rtol=1e-5)
    assert measure.distances(completed[:0], image[:0]).shape == (0,)


@pytest.mark.parametrize("name", BACKBONES)
def test_too_small_images_are_refused(name):
    measure, *_ = small(name)
    side = BACKBONES[name].smallest
    assert np.isfinite(measure.distances(*2 * [random_pictures(1, side, side + 9)])).all()
    with pytest.raises(DataError) as caught:
        measure.distances(*2 * [random_pictures(1, side + 9, side - 1)])
    assert f"at least {side} px" in one_line(caught)


def test_published_files_are_recognised_and_withdrawn_heads_refused(alexnet, written, monkeypatch):
    backbone, heads = alexnet
    paths = [written("backbone.pth", backbone), written("alex.pth", published(heads))]
    numbers = b"".join(heads[f"lin{index}.weight"].astype("<f4").tobytes() for index in range(5))
    known = BACKBONES["alexnet"]._replace(
        checksum=hashlib.sha256(paths[0].read_bytes()).hexdigest()[:8],
        heads_sha256=hashlib.sha256(numbers).hexdigest(),
    )
    monkeypatch.setitem(BACKBONES, "alexnet", known)
    description = lpips.load(paths).description
    assert description.startswith("LPIPS v0.1, AlexNet (backbone.pth sha256 ")
    assert "verified" not in description
    withdrawn = known._replace(flawed_heads_sha256=known.heads_sha256)
    monkeypatch.setitem(BACKBONES, "alexnet", withdrawn)
    with pytest.raises(WeightsError) as caught:
        lpips.load(paths)
    assert "heads of LPIPS v0.0" in one_line(caught)


def other_networks(backbone, heads):
    """By what is wrong: a part of the message, and the arrays of the files."""
    heads = published(heads)
    zeros = np.zeros((4, 4, 3, 3), np.float32)
    bias = "features.10.bias"
    vgg_heads = published(random_arrays(head_shapes("vgg16")))
    whole = combined(backbone, {name.replace(".model.1", ""): array for name, array in heads.items()})
    return {
        "no heads": ("no heads", (backbone,)),
        "no backbone": ("no backbone", (heads,)),
        "two backbones": ("two files with backbone", (backbone, backbone)),
        "heads twice": ("two files with heads", (whole, heads)),
        "SqueezeNet": ("neither AlexNet's nor VGG16's", (backbone | {"features.3.weight2": zeros}, heads)),
        "a BatchNorm": ("neither AlexNet's", (backbone | {"features.1.running_mean": zeros}, heads)),
        "a layer less": ("neither AlexNet's", ({k: v for k, v in backbone.items() if k != bias}, heads)),
        "another shape": ("features.10.bias has the shape (9,)", (backbone | {bias: zeros.ravel()[:9]}, heads)),
        "whole numbers": ("holds int64", (backbone | {bias: np.zeros(256, np.int64)}, heads)),
        "not finite": ("not finite", (backbone | {bias: np.full(256, np.nan, np.float32)}, heads)),
        "VGG16's heads": ("weights/v0.1/alex.pth", (backbone, vgg_heads)),
        "more heads": ("more than 5 layers", (backbone, heads | {"lin5.model.1.weight": zeros})),
        "another thing": ("neither a backbone nor heads", (backbone, {"fc.weight": zeros})),
        "another scale": ("scaling_layer.scale", (whole | {"scaling_layer.scale": np.ones(3, np.float32)},)),
    }


def test_other_networks_are_refused(alexnet, written):
    for case, (expected, files) in other_networks(*alexnet).items():
        paths = [written(f"{index}.safetensors", arrays) for index, arrays in enumerate(files)]
        with pytest.raises(WeightsError) as caught:
            lpips.load(paths)
        message = one_line(caught)
        assert expected in message, case
        assert "copy it again" in message or "pth of" in message, case


def test_damaged_files_are_refused(alexnet, tmp_path):
    data = torch_file(alexnet[0])
    for content, said in (
        (data[:-100], "cannot be read as a PyTorch file"),
        (b"not weights at all", "neither a PyTorch file nor safetensors"),
        (torch_file({}), "no named arrays"),
        ((5).to_bytes(8, "little") + b"{.....", "cannot be read as safetensors"),
    ):
        path = tmp_path / "file.pth"
        path.write_bytes(content)
        with pytest.raises(WeightsError) as caught:
            lpips.load([path])
        assert said in one_line(caught)
    with pytest.raises(WeightsError, match="no such file"):
        lpips.load([tmp_path / "nothing.pth"])
    with pytest.raises(WeightsError, match="one file or two"):
        lpips.load([])

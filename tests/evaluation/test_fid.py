"""FID against second implementations and pytorch-fid's numbers."""

import re

import numpy as np
import pytest
import safetensors.numpy
from helpers.common import one_line
from helpers.feature_files import random_arrays, random_pictures, torch_file
from scipy import linalg

from glcic_jax.errors import DataError, WeightsError
from glcic_jax.evaluation.perceptual import fid
from glcic_jax.evaluation.perceptual.fid import InceptionFeatures, Statistics, frechet_distance
from glcic_jax.evaluation.perceptual.inception import Inception, inception_params, inception_shapes
from glcic_jax.evaluation.perceptual.state_dict import FeatureFile

NARROW = Inception(1 / 16)


def statistics(features, parts=1) -> Statistics:
    found = Statistics()
    for part in np.array_split(features, parts):
        found.add(part)
    return found


def draw(count, dimensions, seed=0, shift=0.0):
    random = np.random.default_rng(seed)
    return random.standard_normal((count, dimensions)) @ random.standard_normal((dimensions, dimensions)) + shift


def direct_distance(a, b):
    """The formula of the paper."""
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    difference = a.mean(axis=0) - b.mean(axis=0)
    return difference @ difference + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root)


@pytest.mark.parametrize("shift", [0.0, 1e5])
@pytest.mark.parametrize("parts", [1, 7, 60])
def test_statistics_by_batches_are_those_of_all_features(parts, shift):
    features = draw(50, 6, shift=shift)
    found = statistics(features, parts)  # Some of 60 parts are empty.
    assert found.count == 50
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), rtol=1e-7, atol=1e-9)


def test_features_of_wrong_shape_or_value_leave_the_statistics_unchanged():
    found = statistics(draw(9, 3))
    with pytest.raises(ValueError, match=re.escape("not [N, 3]")):
        found.add(np.zeros((2, 4)))
    with pytest.raises(DataError, match="not finite"):
        found.add(np.array([[1, 2, np.inf]]))
    assert found.count == 9


@pytest.mark.parametrize(("count", "tolerance"), [(200, 1e-10), (6, 1e-5)])
def test_distance_agrees_with_the_direct_formula(count, tolerance):
    a, b = draw(count, 12, 1), draw(count + 3, 12, 2, shift=0.3)
    found = frechet_distance(statistics(a), statistics(b))
    assert found == pytest.approx(direct_distance(a, b), rel=tolerance)
    assert found == pytest.approx(frechet_distance(statistics(b), statistics(a)), rel=1e-10)


def test_distance_in_one_dimension_agrees_with_the_closed_form():
    a, b = np.array([[0.0], [2.0]]), np.array([[5.0], [11.0]])  # Standard deviations: the roots of 2 and 18.
    assert frechet_distance(statistics(a), statistics(b)) == pytest.approx(7**2 + (3 - 1) ** 2 * 2)


@pytest.mark.parametrize("count", [2, 5, 300])
def test_distance_of_a_set_to_itself_is_zero(count):
    features = 1e3 * draw(count, 20)
    found = frechet_distance(statistics(features), statistics(features))
    assert 0 <= found < 1e-12 * (features**2).sum()
    assert frechet_distance(statistics(features), statistics(features[::-1])) < 1e-9 * (features**2).sum()


def test_distance_of_constant_features_is_that_of_their_means():
    a, b = np.tile([1.0, 2.0, 3.0], (4, 1)), np.tile([1.0, 4.0, 3.0], (5, 1))
    assert frechet_distance(statistics(a), statistics(b)) == 4
    assert frechet_distance(statistics(a), statistics(a)) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_are_refused(count):
    with pytest.raises(DataError) as caught:
        frechet_distance(statistics(draw(9, 3)), statistics(draw(count, 3)))
    assert f"not {count}" in one_line(caught)
    with pytest.raises(ValueError, match="cannot be compared"):
        frechet_distance(statistics(draw(9, 3)), statistics(draw(9, 4)))


def test_few_images_are_noted_as_biased():
    assert "300 images is biased" in fid.bias_note(300)
    assert "2,048" in fid.bias_note(2048)
    assert fid.bias_note(2049) is None


class Reference:
    """The network in NumPy: float64, channels first, BatchNorms not folded."""

    def __init__(self, arrays):
        self.arrays = {name: array.astype(np.float64) for name, array in arrays.items()}

    def convolve(self, image, name, stride=1, padding=(0, 0)):
        image = np.pad(image, [(0, 0), *((size, size) for size in padding)])
        kernel = self.arrays[f"{name}.conv.weight"]
        windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[2:], axis=(1, 2))
        hidden = np.einsum("ihwyx,oiyx->ohw", windows[:, ::stride, ::stride], kernel, optimize=True)
        weight, bias, mean, variance = (
            self.arrays[f"{name}.bn.{kind}"][:, None, None]
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        return np.maximum((hidden - mean) / np.sqrt(variance + 0.001) * weight + bias, 0)

    def chain(self, image, block, *names):
        """Consecutive layers: (name, padding) or (name, padding, stride)."""
        for name, padding, *stride in names:
            image = self.convolve(image, f"{block}.{name}", *(stride or [1]), padding)
        return image

    @staticmethod
    def pool(image, reduce, stride, padded):
        if padded:
            image = np.pad(image, [(0, 0), (1, 1), (1, 1)], constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(1, 2))
        return reduce(windows[:, ::stride, ::stride], axis=(3, 4))

    def branch_pool(self, image, block, reduce=np.nanmean):
        return self.chain(self.pool(image, reduce, 1, True), block, ("branch_pool", (0, 0)))

    def a(self, x, block):
        one, three, five = (0, 0), (1, 1), (2, 2)
        return [
            self.chain(x, block, ("branch1x1", one)),
            self.chain(x, block, ("branch5x5_1", one), ("branch5x5_2", five)),
            self.chain(x, block, ("branch3x3dbl_1", one), ("branch3x3dbl_2", three), ("branch3x3dbl_3", three)),
            self.branch_pool(x, block),
        ]

    def b(self, x, block):
        none, three = (0, 0), (1, 1)
        names = ("branch3x3dbl_1", none), ("branch3x3dbl_2", three), ("branch3x3dbl_3", none, 2)
        single = self.chain(x, block, ("branch3x3", none, 2))
        return [single, self.chain(x, block, *names), self.pool(x, np.max, 2, False)]

    def c(self, x, block):
        none, flat, tall = (0, 0), (0, 3), (3, 0)
        twice = [(f"branch7x7dbl_{i + 1}", padding) for i, padding in enumerate((none, tall, flat, tall, flat))]
        return [
            self.chain(x, block, ("branch1x1", none)),
            self.chain(x, block, ("branch7x7_1", none), ("branch7x7_2", flat), ("branch7x7_3", tall)),
            self.chain(x, block, *twice),
            self.branch_pool(x, block),
        ]

    def d(self, x, block):
        none = (0, 0)
        sevens = ("branch7x7x3_1", none), ("branch7x7x3_2", (0, 3)), ("branch7x7x3_3", (3, 0))
        return [
            self.chain(x, block, ("branch3x3_1", none), ("branch3x3_2", none, 2)),
            self.chain(x, block, *sevens, ("branch7x7x3_4", none, 2)),
            self.pool(x, np.max, 2, False),
        ]

    def e(self, x, block, reduce=np.nanmean):
        once = self.chain(x, block, ("branch3x3_1", (0, 0)))
        twice = self.chain(x, block, ("branch3x3dbl_1", (0, 0)), ("branch3x3dbl_2", (1, 1)))
        forks = [
            self.chain(stem, block, (f"{name}{end}", padding))
            for stem, name in ((once, "branch3x3_2"), (twice, "branch3x3dbl_3"))
            for end, padding in (("a", (0, 1)), ("b", (1, 0)))
        ]
        return [self.chain(x, block, ("branch1x1", (0, 0))), *forks, self.branch_pool(x, block, reduce)]

    def features(self, image):
        x = self.convolve(image, "Conv2d_1a_3x3", 2)
        x = self.convolve(x, "Conv2d_2a_3x3")
        x = self.pool(self.convolve(x, "Conv2d_2b_3x3", 1, (1, 1)), np.max, 2, False)
        x = self.convolve(self.convolve(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3")
        x = self.pool(x, np.max, 2, False)
        blocks = [(self.a, f"Mixed_5{i}") for i in "bcd"] + [(self.b, "Mixed_6a")]
        blocks += [(self.c, f"Mixed_6{i}") for i in "bcde"] + [(self.d, "Mixed_7a"), (self.e, "Mixed_7b")]
        for block, name in blocks:
            x = np.concatenate(block(x, name))
        return np.concatenate(self.e(x, "Mixed_7c", np.nanmax)).mean(axis=(1, 2))


def resized(image, side):
    """Bilinear between pixel centres, the border replicated: [H, W, C] to [side, side, C]."""
    for axis in (0, 1):
        count = image.shape[axis]
        place = np.clip((np.arange(side) + 0.5) * count / side - 0.5, 0, None)
        first = np.minimum(place.astype(int), count - 1)
        share = np.expand_dims(place - first, [1 - axis, 2])
        second = np.minimum(first + 1, count - 1)
        image = np.take(image, first, axis) * (1 - share) + np.take(image, second, axis) * share
    return image


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Batches are padded, and most tests have two images."""
    monkeypatch.setattr(fid, "_BATCH_SIZE", 2)


@pytest.fixture(scope="module")
def narrow_arrays():
    return random_arrays(inception_shapes(NARROW))


def feature_file(arrays) -> FeatureFile:
    return FeatureFile("file.pth", "file.pth sha256 0", "0", arrays)


@pytest.fixture(scope="module")
def narrow(narrow_arrays):
    return InceptionFeatures(NARROW, inception_params(NARROW, feature_file(narrow_arrays)), "", side=79)


@pytest.mark.parametrize(("height", "width"), [(79, 79), (40, 61), (150, 200)])
def test_features_agree_with_a_second_implementation(height, width, narrow, narrow_arrays):
    pictures = random_pictures(2, height, width)
    found = narrow.features(pictures)
    assert found.dtype == np.float32
    inputs = [resized(picture / 255, 79).transpose(2, 0, 1) * 2 - 1 for picture in pictures]
    expected = [Reference(narrow_arrays).features(image) for image in inputs]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_features_do_not_depend_on_the_batch(narrow):
    pictures = random_pictures(5, 79, 79)
    whole = narrow.features(pictures)
    assert whole.shape == (5, 128)
    for index in range(5):
        np.testing.assert_allclose(narrow.features(pictures[index : index + 1])[0], whole[index], rtol=1e-5)
    assert narrow.features(pictures[:0]).shape == (0, 128)


def test_the_network_has_the_published_arrays():
    shapes = inception_shapes(Inception())
    assert len(shapes) == 94 * 5 + 2
    assert sum(np.prod(shape) for shape in shapes.values()) == 23_885_392
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_6c.branch7x7dbl_2.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert shapes["fc.weight"] == (1008, 2048)


def test_the_full_network_agrees_with_pytorch_fid(tmp_path):
    arrays = random_arrays(inception_shapes(Inception()))
    path = tmp_path / "inception.pth"
    path.write_bytes(torch_file(arrays | {"Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros((), np.int64)}))
    loaded = fid.load(path)
    assert "inception.pth sha256 " in loaded.description
    assert "not verified to be the published weights" in loaded.description
    found = loaded.features(random_pictures(1, 60, 80, 1))
    assert found.shape == (1, 2048)
    # Of pytorch-fid 0.3.0 on PyTorch 2.13, in float64 with the same weights.
    expected = [8.659587122165675, 2.3720359658139545, 0.0, 0.6168998207553635]
    np.testing.assert_allclose(found[0, :4], expected, rtol=1e-5, atol=1e-6)
    assert found.mean() == pytest.approx(2.9185412206721444, rel=1e-5)
    assert found[0] @ np.cos(np.arange(2048)) == pytest.approx(-25.122419982831097, rel=1e-4)


def test_other_networks_are_refused(narrow_arrays):
    layer = "Mixed_5b.branch1x1"
    for change, said in (
        # torchvision's own Inception v3.
        ({"fc.weight": np.zeros((1000, 128), np.float32)}, "fc.weight has the shape (1000, 128), not (1008, 128)"),
        ({"AuxLogits.conv0.conv.weight": np.zeros(3, np.float32)}, "conv0.conv.weight belongs to another network"),
        ({f"{layer}.bn.running_mean": None}, f"{layer}.bn.running_mean (4,) is missing"),
        ({f"{layer}.bn.running_mean": None, "fc.bias": None}, "and 1 other are missing"),
        ({f"{layer}.bn.running_var": np.full(4, -1, np.float32)}, "a variance below 0"),
        ({f"{layer}.bn.bias": np.full(4, np.nan, np.float32)}, "not finite"),
        ({f"{layer}.bn.bias": np.zeros(4, np.int64)}, "holds int64"),
    ):
        arrays = {name: array for name, array in (narrow_arrays | change).items() if array is not None}
        with pytest.raises(WeightsError) as caught:
            inception_params(NARROW, feature_file(arrays))
        message = one_line(caught)
        assert message.startswith("file.pth: ")
        assert said in message
        assert "copy it again" in message or "pt_inception-2015-12-05-6726825d.pth of pytorch-fid" in message


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "alexnet.safetensors"
    path.write_bytes(safetensors.numpy.save({"features.0.weight": np.zeros((64, 3, 11, 11), np.float32)}))
    with pytest.raises(WeightsError) as caught:
        fid.load(path)
    assert "Conv2d_1a_3x3.conv.weight (32, 3, 3, 3) and 471 others are missing" in one_line(caught)
    with pytest.raises(WeightsError, match="no such file"):
        fid.load(tmp_path / "nothing.pth")

"""The Inception network of FID: TensorFlow's of 2015-12-05, as its PyTorch port computes it.

It differs from torchvision's Inception v3: average pooling does not count the border, the last block pools the
maximum, and the weights are others. A BatchNorm, folded into the convolution, and a ReLU follow every convolution.
Layers have the names of the port.

Reference: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision"; pytorch-fid for the
differences.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from glcic_jax.errors import WeightsError
from glcic_jax.evaluation.perceptual.state_dict import FeatureFile, check_arrays, kernel_of
from glcic_jax.model.networks import scaled

FEATURES = 2048
PUBLISHED = (
    "pt_inception-2015-12-05-6726825d.pth of pytorch-fid, "
    "weights-inception-2015-12-05-6726825d.pth of torch-fidelity"
)
_CLASSES = 1008  # ImageNet's 1000 and eight unused ones.
_SMALLEST = 75  # Side of an image whose last feature map has one pixel.
_BATCH_NORM_EPSILON = 1e-3
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")

Params = dict[str, Any]


def _convolve(
    image: jax.Array, name: str, features: int, kernel: tuple[int, int] = (1, 1), stride: int = 1, pad: bool = True
) -> jax.Array:
    """A convolution and a ReLU; the padding keeps the size at stride 1, or is none."""
    padding = [(size // 2, size // 2) if pad else (0, 0) for size in kernel]
    # At lower precision some GPUs round to ten bits.
    layer = nn.Conv(features, kernel, stride, padding, precision=jax.lax.Precision.HIGHEST, name=name)
    return nn.relu(layer(image))


def _halve(image: jax.Array) -> jax.Array:
    """Max pooling over 3x3 pixels, stride 2."""
    return nn.max_pool(image, (3, 3), (2, 2), "VALID")


def _mean(image: jax.Array) -> jax.Array:
    """Mean pooling over 3x3 pixels, stride 1; only pixels inside the image count."""
    return nn.avg_pool(image, (3, 3), (1, 1), [(1, 1), (1, 1)], count_include_pad=False)


def _largest(image: jax.Array) -> jax.Array:
    """Max pooling over 3x3 pixels, stride 1."""
    return nn.max_pool(image, (3, 3), (1, 1), [(1, 1), (1, 1)])


def _join(*branches: jax.Array) -> jax.Array:
    return jnp.concatenate(branches, axis=-1)


class _BlockA(nn.Module):
    """Keeps the size: 1x1, 5x5 and two 3x3."""

    width: float
    pooled: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        def count(features: int) -> int:
            return scaled(features, self.width)

        ones = _convolve(image, "branch1x1", count(64))
        fives = _convolve(image, "branch5x5_1", count(48))
        fives = _convolve(fives, "branch5x5_2", count(64), (5, 5))
        threes = _convolve(image, "branch3x3dbl_1", count(64))
        threes = _convolve(threes, "branch3x3dbl_2", count(96), (3, 3))
        threes = _convolve(threes, "branch3x3dbl_3", count(96), (3, 3))
        return _join(ones, fives, threes, _convolve(_mean(image), "branch_pool", count(self.pooled)))


class _BlockB(nn.Module):
    """Halves the size: 3x3 and two 3x3."""

    width: float

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        def count(features: int) -> int:
            return scaled(features, self.width)

        one = _convolve(image, "branch3x3", count(384), (3, 3), stride=2, pad=False)
        two = _convolve(image, "branch3x3dbl_1", count(64))
        two = _convolve(two, "branch3x3dbl_2", count(96), (3, 3))
        two = _convolve(two, "branch3x3dbl_3", count(96), (3, 3), stride=2, pad=False)
        return _join(one, two, _halve(image))


class _BlockC(nn.Module):
    """Keeps the size: 1x1, and 7x7 factored into 1x7 and 7x1, once and twice."""

    width: float
    inner: int

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        inner, outer = scaled(self.inner, self.width), scaled(192, self.width)
        ones = _convolve(image, "branch1x1", outer)
        once = _convolve(image, "branch7x7_1", inner)
        once = _convolve(once, "branch7x7_2", inner, (1, 7))
        once = _convolve(once, "branch7x7_3", outer, (7, 1))
        twice = _convolve(image, "branch7x7dbl_1", inner)
        twice = _convolve(twice, "branch7x7dbl_2", inner, (7, 1))
        twice = _convolve(twice, "branch7x7dbl_3", inner, (1, 7))
        twice = _convolve(twice, "branch7x7dbl_4", inner, (7, 1))
        twice = _convolve(twice, "branch7x7dbl_5", outer, (1, 7))
        return _join(ones, once, twice, _convolve(_mean(image), "branch_pool", outer))


class _BlockD(nn.Module):
    """Halves the size: 3x3, and 7x7 before 3x3."""

    width: float

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        inner = scaled(192, self.width)
        threes = _convolve(image, "branch3x3_1", inner)
        threes = _convolve(threes, "branch3x3_2", scaled(320, self.width), (3, 3), stride=2, pad=False)
        sevens = _convolve(image, "branch7x7x3_1", inner)
        sevens = _convolve(sevens, "branch7x7x3_2", inner, (1, 7))
        sevens = _convolve(sevens, "branch7x7x3_3", inner, (7, 1))
        sevens = _convolve(sevens, "branch7x7x3_4", inner, (3, 3), stride=2, pad=False)
        return _join(threes, sevens, _halve(image))


class _BlockE(nn.Module):
    """Keeps the size: 1x1, and 1x3 beside 3x1, alone and after 3x3; `pool` precedes the last branch."""

    width: float
    pool: Any

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        def fork(stem: jax.Array, name: str) -> jax.Array:
            features = scaled(384, self.width)
            flat = _convolve(stem, f"{name}a", features, (1, 3))
            return _join(flat, _convolve(stem, f"{name}b", features, (3, 1)))

        ones = _convolve(image, "branch1x1", scaled(320, self.width))
        once = _convolve(image, "branch3x3_1", scaled(384, self.width))
        twice = _convolve(image, "branch3x3dbl_1", scaled(448, self.width))
        twice = _convolve(twice, "branch3x3dbl_2", scaled(384, self.width), (3, 3))
        pooled = _convolve(self.pool(image), "branch_pool", scaled(192, self.width))
        return _join(ones, fork(once, "branch3x3_2"), fork(twice, "branch3x3dbl_3"), pooled)


class Inception(nn.Module):
    """The network up to its pooled features.

    Attributes:
      width: Multiplies the features of every layer.
    """

    width: float = 1.0

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Runs the network.

        Args:
          image: [N, H, W, 3] float32 in [-1, 1], at least 75 x 75; 299 x 299 for FID.

        Returns:
          [N, 2048 * width] float32, not negative: the mean of the last feature map over its pixels.
        """
        width = self.width
        image = _convolve(image, "Conv2d_1a_3x3", scaled(32, width), (3, 3), stride=2, pad=False)
        image = _convolve(image, "Conv2d_2a_3x3", scaled(32, width), (3, 3), pad=False)
        image = _halve(_convolve(image, "Conv2d_2b_3x3", scaled(64, width), (3, 3)))
        image = _convolve(image, "Conv2d_3b_1x1", scaled(80, width))
        image = _halve(_convolve(image, "Conv2d_4a_3x3", scaled(192, width), (3, 3), pad=False))
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            image = _BlockA(width, pooled, name=name)(image)
        image = _BlockB(width, name="Mixed_6a")(image)
        for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            image = _BlockC(width, inner, name=name)(image)
        image = _BlockD(width, name="Mixed_7a")(image)
        image = _BlockE(width, _mean, name="Mixed_7b")(image)
        image = _BlockE(width, _largest, name="Mixed_7c")(image)
        return image.mean(axis=(1, 2))


def inception_shapes(network: Inception) -> dict[str, tuple[int, ...]]:
    """The shapes of the port's state dict by name, such as `Mixed_5b.branch1x1.conv.weight` [O, I, H, W]."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (kernel_height, kernel_width, inputs, features) in _layers(network).items():
        shapes[f"{layer}.conv.weight"] = (features, inputs, kernel_height, kernel_width)
        shapes |= {f"{layer}.bn.{kind}": (features,) for kind in _BATCH_NORM}
    last = scaled(FEATURES, network.width)
    return shapes | {"fc.weight": (_CLASSES, last), "fc.bias": (_CLASSES,)}


def inception_params(network: Inception, file: FeatureFile) -> Params:
    """The network's parameters from the port's state dict.

    Args:
      network: The network, of the file's width.
      file: From `state_dict.read_feature_file`.

    Raises:
      WeightsError: An array is missing, unknown, of another shape or not finite, or a variance is negative.
    """
    expected = inception_shapes(network)
    check_arrays(file, expected, PUBLISHED)
    for array in file.arrays:
        if array not in expected and not array.endswith(".num_batches_tracked"):
            raise WeightsError(f"{file.name}: the array {array[:80]} belongs to another network: use {PUBLISHED}")
    params: Params = {}
    for layer in _layers(network):
        node = params
        for part in layer.split("."):
            node = node.setdefault(part, {})
        node.update(_folded(file, layer))
    return {"params": params}


def _folded(file: FeatureFile, layer: str) -> dict[str, np.ndarray]:
    """A convolution with its BatchNorm folded in."""
    weight = file.arrays[f"{layer}.conv.weight"].astype(np.float64)
    scale, bias, mean, variance = (file.arrays[f"{layer}.bn.{kind}"].astype(np.float64) for kind in _BATCH_NORM)
    if (variance < 0).any():
        raise WeightsError(f"{file.name}: {layer}.bn.running_var has a variance below 0: damaged, copy it again")
    factor = scale / np.sqrt(variance + _BATCH_NORM_EPSILON)
    kernel = kernel_of(weight * factor[:, None, None, None])
    return {"kernel": kernel, "bias": (bias - mean * factor).astype(np.float32)}


@functools.cache
def _layers(network: Inception) -> dict[str, tuple[int, ...]]:
    """Kernel shape of each convolution by name."""
    image = jax.ShapeDtypeStruct((1, _SMALLEST, _SMALLEST, 3), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    flat = traverse_util.flatten_dict(params, sep=".")
    return {name.removesuffix(".kernel"): array.shape for name, array in flat.items() if name.endswith(".kernel")}

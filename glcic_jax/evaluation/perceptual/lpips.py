"""LPIPS: the distance of two images in the features of a classification network.

The user supplies the weights: a torchvision backbone, AlexNet or VGG16, and the linear heads in the authors'
package, lpips.

Reference: Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", and
version 0.1 of its authors' package.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from glcic_jax.errors import DataError, WeightsError, printable
from glcic_jax.evaluation.perceptual.state_dict import FeatureFile, check_arrays, kernel_of, read_feature_file

# Mean and standard deviation of ImageNet's colours, for images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10
# Pixels and images of a batch: they bound the memory and fix the compiled shapes.
_BATCH_PIXELS = 1 << 19
_BATCH_SIZE = 16
MOST_PIXELS = 1 << 21  # Of one image: VGG16 takes 3 GiB.

Params = dict[str, dict[str, Any]]


class Convolution(NamedTuple):
    """A convolution with bias and a ReLU; `name` is torchvision's."""

    name: str
    inputs: int
    features: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


class Backbone(NamedTuple):
    """A network whose features LPIPS compares.

    Attributes:
      title: Name of the network.
      published: Name and publisher of its file.
      checksum: First digits of that file's sha256.
      heads: Name and publisher of the file of its heads.
      heads_sha256: SHA-256 of the numbers of version 0.1's heads, float32, layer by layer.
      flawed_heads_sha256: The same of version 0.0's heads.
      stages: The convolutions up to each compared layer.
      pooled: Indices of the stages that begin with max pooling.
      window: Side of the pooling window in pixels; the stride is 2.
      smallest: Shortest side of an image whose last layer has one pixel.
    """

    title: str
    published: str
    checksum: str
    heads: str
    heads_sha256: str
    flawed_heads_sha256: str
    stages: tuple[tuple[Convolution, ...], ...]
    pooled: tuple[int, ...]
    window: int
    smallest: int


def taps(backbone: Backbone, params: Params, image: jax.Array) -> list[jax.Array]:
    """The features after each stage of a backbone.

    Args:
      backbone: The network.
      params: `kernel` [h, w, I, O] and `bias` [O] by the name of the convolution.
      image: [N, H, W, 3] float, normalised for the backbone.

    Returns:
      [N, h, w, C] for each stage.
    """
    found = []
    for index, stage in enumerate(backbone.stages):
        if index in backbone.pooled:
            window, stride = (1, backbone.window, backbone.window, 1), (1, 2, 2, 1)
            image = jax.lax.reduce_window(image, -jnp.inf, jax.lax.max, window, stride, "VALID")
        for layer in stage:
            # At lower precision some GPUs round to ten bits.
            image = jax.lax.conv_general_dilated(
                image,
                params[layer.name]["kernel"],
                (layer.stride, layer.stride),
                [(layer.padding, layer.padding)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=jax.lax.Precision.HIGHEST,
            )
            image = jax.nn.relu(image + params[layer.name]["bias"])
        found.append(image)
    return found


def distance(backbone: Backbone, params: Params, completed: jax.Array, image: jax.Array) -> jax.Array:
    """LPIPS of each pair of images.

    Args:
      backbone: The network.
      params: As in `taps`, and `weight` [C] of each stage's head, "lin0" and so on.
      completed, image: [N, H, W, 3] uint8.

    Returns:
      [N] float32, 0 for equal images.
    """
    maps = [taps(backbone, params, _network_input(picture)) for picture in (completed, image)]
    total = jnp.zeros(len(image), jnp.float32)
    for index, (ours, theirs) in enumerate(zip(*maps, strict=True)):
        squared = jnp.square(_unit(ours) - _unit(theirs)) * params[f"lin{index}"]["weight"]
        total += squared.sum(axis=-1).mean(axis=(1, 2))
    # The compiled program may round equal images differently.
    return jnp.where((completed == image).all(axis=(1, 2, 3)), 0, total)


def _network_input(picture: jax.Array) -> jax.Array:
    """[N, H, W, 3] uint8 to normalised float32."""
    signed = picture.astype(jnp.float32) / 127.5 - 1
    return (signed - jnp.asarray(_SHIFT)) / jnp.asarray(_SCALE)


def _unit(features: jax.Array) -> jax.Array:
    """Scales each pixel's features [N, h, w, C] to length 1, or 0."""
    return features / (jnp.sqrt(jnp.square(features).sum(axis=-1, keepdims=True)) + _EPSILON)


_distance = jax.jit(distance, static_argnums=0)


class Lpips:
    """Computes LPIPS.

    Attributes:
      description: Version, backbone and weights, for a report.

    Args:
      backbone: The network.
      params: As in `distance`.
      description: As above.
    """

    def __init__(self, backbone: Backbone, params: Params, description: str):
        self.description = description
        self._backbone = backbone
        self._params = jax.device_put(params)

    def distances(self, completed: np.ndarray, image: np.ndarray) -> np.ndarray:
        """LPIPS of each pair of images, at their own size.

        Args:
          completed, image: [N, H, W, 3] uint8, any N.

        Returns:
          [N] float32, 0 for equal images, mostly below 1; NaN for more than `MOST_PIXELS`, which would take many
          GiB.

        Raises:
          DataError: The images are too small for the backbone.
        """
        height, width = image.shape[1:3]
        if min(height, width) < self._backbone.smallest:
            raise DataError(
                f"LPIPS with {self._backbone.title} needs images of at least {self._backbone.smallest} px a "
                f"side, not {height} x {width}: evaluate at a larger size or without LPIPS"
            )
        if height * width > MOST_PIXELS:
            return np.full(len(image), np.nan, np.float32)
        size = max(1, min(_BATCH_SIZE, _BATCH_PIXELS // (height * width)))
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(image), size):
            pair = completed[start : start + size], image[start : start + size]
            # Padded, so that the last batch needs no program of its own.
            padding = [(0, size - len(pair[0])), (0, 0), (0, 0), (0, 0)]
            result = _distance(self._backbone, self._params, *(np.pad(part, padding) for part in pair))
            found.append(np.asarray(result)[: len(pair[0])])
        return np.concatenate(found)


def load(paths: Sequence[Path]) -> Lpips:
    """Loads LPIPS; the arrays determine the backbone.

    Args:
      paths: The files of torchvision's backbone and of its heads, in any order, or one file with both, such as the
        state dict of `lpips.LPIPS`; in PyTorch's format or safetensors.

    Raises:
      WeightsError: A file is missing, damaged, or another network's; the backbone or its heads are missing or do
        not match; or the heads are those of version 0.0, which the authors withdrew.
    """
    if not 1 <= len(paths) <= 2:
        raise WeightsError(f"LPIPS takes one file or two, not {len(paths)}: {_NEEDED}")
    files = [read_feature_file(path) for path in paths]
    backbones = [renamed for file in files if (renamed := _renamed(file, _BACKBONE_NAMES)).arrays]
    heads = [renamed for file in files if (renamed := _renamed(file, _HEAD_NAMES)).arrays]
    for file in files:
        if not any(file.name == known.name for known in (*backbones, *heads)):
            some = ", ".join(printable(str(name)[:80]) for name in list(file.arrays)[:3])
            raise WeightsError(f"{file.name}: neither a backbone nor heads of LPIPS ({some}, ...): {_NEEDED}")
    for what, found in (("backbone", backbones), ("heads", heads)):
        if len(found) != 1:
            names = " and ".join(file.name for file in found or files)
            raise WeightsError(f"{names}: {'no' if not found else 'two files with'} {what} of LPIPS: {_NEEDED}")
    _check_scaling(files)
    backbone = _backbone_of(backbones[0])
    params, heads_sha256 = _params(backbone, backbones[0], heads[0])
    if heads_sha256 == backbone.flawed_heads_sha256:
        raise WeightsError(f"{heads[0].name}: the heads of LPIPS v0.0, which is another metric: {_NEEDED}")
    published = backbones[0].sha256.startswith(backbone.checksum) and heads_sha256 == backbone.heads_sha256
    labels = ", ".join(dict.fromkeys((backbones[0].label, heads[0].label)))
    doubt = "" if published else "; not verified to be the published weights"
    return Lpips(backbone, params, f"LPIPS v0.1, {backbone.title} ({labels}{doubt})")


def _renamed(file: FeatureFile, names: re.Pattern[str]) -> FeatureFile:
    """The arrays whose names match, renamed to "features.0.weight", "lin0.weight" ..."""
    matches = {name: names.fullmatch(name) for name in file.arrays}
    arrays = {
        f"{'features.' if match[1].isdecimal() else ''}{match[1]}.{match[2]}": file.arrays[name]
        for name, match in matches.items()
        if match
    }
    return file._replace(arrays=arrays)


def _check_scaling(files: Sequence[FeatureFile]) -> None:
    """Checks the scaling of colours in a file of the whole of LPIPS."""
    for file in files:
        for kind, known in (("shift", _SHIFT), ("scale", _SCALE)):
            value = file.arrays.get(f"scaling_layer.{kind}")
            if value is not None and not (value.size == 3 and np.allclose(value.ravel(), known, atol=1e-6)):
                raise WeightsError(f"{file.name}: scaling_layer.{kind} is not LPIPS v0.1's: {_NEEDED}")


def _backbone_of(file: FeatureFile) -> Backbone:
    for backbone in BACKBONES.values():
        if set(file.arrays) == set(_shapes(backbone)):
            check_arrays(file, _shapes(backbone), backbone.published)
            return backbone
    raise WeightsError(f"{file.name}: its layers are neither AlexNet's nor VGG16's: {_NEEDED}")


def _shapes(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    layers = [layer for stage in backbone.stages for layer in stage]
    kernels = {f"{layer.name}.weight": (layer.features, layer.inputs, *2 * [layer.kernel]) for layer in layers}
    return kernels | {f"{layer.name}.bias": (layer.features,) for layer in layers}


def _params(backbone: Backbone, layers: FeatureFile, heads: FeatureFile) -> tuple[Params, str]:
    """The parameters and the sha256 of the heads' numbers."""
    shapes = {f"lin{index}.weight": (1, stage[-1].features, 1, 1) for index, stage in enumerate(backbone.stages)}
    check_arrays(heads, shapes, backbone.heads)
    if len(heads.arrays) != len(shapes):
        raise WeightsError(f"{heads.name}: heads of more than {len(shapes)} layers: use {backbone.heads}")
    params: Params = {}
    for stage in backbone.stages:
        for layer in stage:
            kernel, bias = layers.arrays[f"{layer.name}.weight"], layers.arrays[f"{layer.name}.bias"]
            params[layer.name] = {"kernel": kernel_of(kernel), "bias": np.ascontiguousarray(bias, np.float32)}
    digest = hashlib.sha256()
    for index in range(len(backbone.stages)):
        weight = np.ascontiguousarray(heads.arrays[f"lin{index}.weight"].ravel(), np.float32)
        digest.update(weight.astype("<f4").tobytes())
        params[f"lin{index}"] = {"weight": weight}
    return params, digest.hexdigest()


def _vgg_stage(first: int, inputs: int, features: int, count: int) -> tuple[Convolution, ...]:
    layers = [Convolution(f"features.{first}", inputs, features)]
    layers += [Convolution(f"features.{first + 2 * index}", features, features) for index in range(1, count)]
    return tuple(layers)


# torchvision: `features.N.weight`; the state dict of LPIPS: `net.slice1.N.weight`, and each head twice.
_BACKBONE_NAMES = re.compile(r"(?:features|net\.slice\d)\.(\d+)\.(\w+)")
_HEAD_NAMES = re.compile(r"(lin\d)\.model\.[01]\.(weight)")

BACKBONES = {
    "alexnet": Backbone(
        "AlexNet",
        "alexnet-owt-7be5be79.pth of torchvision",
        "7be5be79",
        "weights/v0.1/alex.pth of the package lpips",
        "718a8b40b0d22f96192d34ab93c0db5c7943558ff6c2407f44812dce2f29b5f4",
        "8a9f071221953c589f32ea6727d04f800af07c3f4d97ef07514bcc3c4e82f687",
        (
            (Convolution("features.0", 3, 64, kernel=11, stride=4, padding=2),),
            (Convolution("features.3", 64, 192, kernel=5, padding=2),),
            (Convolution("features.6", 192, 384),),
            (Convolution("features.8", 384, 256),),
            (Convolution("features.10", 256, 256),),
        ),
        pooled=(1, 2),
        window=3,
        smallest=31,
    ),
    "vgg16": Backbone(
        "VGG16",
        "vgg16-397923af.pth of torchvision",
        "397923af",
        "weights/v0.1/vgg.pth of the package lpips",
        "9153a2043dccf3b525d4f13db916e93ef040548ea923b6f2100de5ebac141a78",
        "e60d8ee2c0926a5b9ea5353744a0b2d63f81e12b5df5365fbfe1375a034f8619",
        (
            _vgg_stage(0, 3, 64, 2),
            _vgg_stage(5, 64, 128, 2),
            _vgg_stage(10, 128, 256, 3),
            _vgg_stage(17, 256, 512, 3),
            _vgg_stage(24, 512, 512, 3),
        ),
        pooled=(1, 2, 3, 4),
        window=2,
        smallest=16,
    ),
}

_NEEDED = "use {} with {}, or {} with {}".format(
    *(text for backbone in BACKBONES.values() for text in (backbone.published, backbone.heads))
)

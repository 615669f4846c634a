"""Converts arrays in Torch's layout, named as in a state dict, to the variables of our networks.

Torch's arrays are `conv1.weight` [O, I, H, W], `deconv13.weight` [I, O, 4, 4], `conv1.bias` [O], `bn1.weight`,
`bn1.bias`, `bn1.running_mean`, `bn1.running_var` [O] and `linear.weight` [O, I] with I = C * H * W in that order.
Our kernels are HWIO, those of deconvolutions rotated by 180 degrees, and linear layers read H, W, C.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from glcic_jax.errors import WeightsError, printable
from glcic_jax.model.networks import (
    BATCH_NORM_EPSILON,
    COMPLETION_LAYERS,
    LAST_COMPLETION_LAYER,
    ContextDiscriminator,
    scaled,
)

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
_FULL_FEATURES = 1024  # Outputs of a branch's fully connected layer at width 1.
_MAX_CONVOLUTIONS = 10

Variables = dict[str, Any]


class Arrays(NamedTuple):
    """The arrays of one network in a file.

    Attributes:
      arrays: The arrays, named as in the docstring of this module.
      labels: Their names in the file, if they differ.
      name: The name of the file in errors.
    """

    arrays: Mapping[str, np.ndarray]
    labels: Mapping[str, str]
    name: str

    def label(self, array: str) -> str:
        return printable(self.labels.get(array, array))

    def size(self, array: str, dimensions: int, axis: int) -> int:
        """Returns the size of an array along an axis; raises WeightsError unless it has `dimensions` axes."""
        if array not in self.arrays:
            raise WeightsError(f"{self.name}: the array {self.label(array)} is missing")
        shape = self.arrays[array].shape
        if len(shape) != dimensions or 0 in shape:
            raise WeightsError(
                f"{self.name}: {self.label(array)} has the shape {shape}, not {dimensions} dimensions"
            )
        return shape[axis]


def completion_shapes(width: float) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a completion network's arrays in Torch's layout, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = 4
    for index, layer in enumerate((*COMPLETION_LAYERS, LAST_COMPLETION_LAYER), start=1):
        last = layer == LAST_COMPLETION_LAYER
        outputs = layer.features if last else scaled(layer.features, width)
        channels = (inputs, outputs) if layer.name.startswith("deconv") else (outputs, inputs)
        shapes[f"{layer.name}.weight"] = (*channels, layer.kernel, layer.kernel)
        shapes[f"{layer.name}.bias"] = (outputs,)
        if not last:
            shapes |= {f"bn{index}.{kind}": (outputs,) for kind in _BATCH_NORM}
        inputs = outputs
    return shapes


def to_completion(found: Arrays) -> tuple[float, Variables]:
    """Converts a completion network of any width.

    Returns:
      The width, and the variables of `CompletionNetwork`.

    Raises:
      WeightsError: An array is missing, unexpected, of another shape, or holds no floating-point numbers.
    """
    width = found.size("conv1.weight", 4, 0) / COMPLETION_LAYERS[0].features
    _check(found, completion_shapes(width))
    return width, _variables(found, {})


def to_discriminator(found: Arrays) -> tuple[ContextDiscriminator, int, Variables]:
    """Converts a context discriminator of GLCIC-PyTorch; its sizes follow from the shapes of its arrays.

    Args:
      found: Named `model_ld.conv1.weight` and so on, the linear layer behind five convolutions `linear6`, and
        `linear1`, which reads the local features first and then the global ones.

    Returns:
      The network, the side of its images in pixels, and its variables.

    Raises:
      WeightsError: As in `to_completion`; or the sizes fit no `ContextDiscriminator`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    feature_maps: dict[str, tuple[int, int, int]] = {}
    counts, features, sides = [], [], []
    for prefix in _BRANCHES:
        channels, side = _branch(found, prefix)
        inputs = 3
        for index, outputs in enumerate(channels, start=1):
            shapes[f"{prefix}.conv{index}.weight"] = (outputs, inputs, 5, 5)
            shapes[f"{prefix}.conv{index}.bias"] = (outputs,)
            shapes |= {f"{prefix}.bn{index}.{kind}": (outputs,) for kind in _BATCH_NORM}
            inputs = outputs
        linear = f"{prefix}.linear{len(channels) + 1}"
        features.append(found.size(f"{linear}.weight", 2, 0))
        shapes[f"{linear}.weight"] = (features[-1], inputs * side**2)
        shapes[f"{linear}.bias"] = (features[-1],)
        feature_maps[f"{linear}.weight"] = (inputs, side, side)
        counts.append(channels)
        sides.append(side << len(channels))
    shapes |= {"linear1.weight": (1, sum(features)), "linear1.bias": (1,)}
    _check(found, shapes)
    if features[0] != features[1]:
        raise WeightsError(
            f"{found.name}: the branches have {features[0]} and {features[1]} features: only equal numbers can be "
            "used"
        )
    width = features[0] / _FULL_FEATURES
    full = tuple(tuple(round(count / width) for count in channels) for channels in counts)
    for channels, unscaled in zip(counts, full, strict=True):
        if tuple(scaled(count, width) for count in unscaled) != channels:
            raise WeightsError(f"{found.name}: {channels} channels do not fit {features[0]} features")
    network = ContextDiscriminator(tuple(_BRANCHES.values()), sides[0], full, width, "conv_relu_bn")
    return network, sides[1], _variables(found, feature_maps)


def _branch(found: Arrays, prefix: str) -> tuple[tuple[int, ...], int]:
    """Returns the channels of a branch's convolutions, and the side of the map that its linear layer reads."""
    channels: list[int] = []
    while f"{prefix}.conv{len(channels) + 1}.weight" in found.arrays and len(channels) < _MAX_CONVOLUTIONS:
        channels.append(found.size(f"{prefix}.conv{len(channels) + 1}.weight", 4, 0))
    if not channels:
        raise WeightsError(f"{found.name}: {found.label(f'{prefix}.conv1.weight')} is missing")
    linear = f"{prefix}.linear{len(channels) + 1}.weight"
    inputs = found.size(linear, 2, 1)
    side = math.isqrt(inputs // channels[-1])
    if side**2 * channels[-1] != inputs:
        raise WeightsError(
            f"{found.name}: {found.label(linear)} has {inputs:,} inputs, which are not a square map of "
            f"{channels[-1]} channels: only square images can be used"
        )
    return tuple(channels), side


def rename_mmagic(found: Arrays) -> Arrays:
    """Renames a completion network of MMagic's Global&Local, and turns its colours from BGR to RGB.

    Its convolutions have no bias before a BatchNorm; ours get zeros.

    Args:
      found: Named `encoder.enc1.conv.weight` and so on.
    """
    arrays: dict[str, np.ndarray] = {}
    labels: dict[str, str] = {}
    for name, array in found.arrays.items():
        layer, _, kind = name.rpartition(".")
        block, _, part = layer.rpartition(".")
        ours = f"{_MMAGIC[block][part == 'bn']}.{kind}" if block in _MMAGIC and part in ("conv", "bn") else name
        arrays[ours], labels[ours] = array, found.labels[name]
    for block, (layer, norm) in _MMAGIC.items():
        labels.setdefault(f"{layer}.weight", f"{block}.conv.weight")
        if f"{norm}.bias" in arrays and f"{layer}.bias" not in arrays:
            arrays[f"{layer}.bias"] = np.zeros_like(arrays[f"{norm}.bias"])
    for name in ("conv17.weight", "conv17.bias"):
        if name in arrays and arrays[name].shape[:1] == (3,):
            arrays[name] = arrays[name][::-1]
    if "conv1.weight" in arrays and arrays["conv1.weight"].shape[1:2] == (4,):
        arrays["conv1.weight"] = arrays["conv1.weight"][:, [2, 1, 0, 3]]
    return Arrays(arrays, labels, found.name)


def _check(found: Arrays, expected: Mapping[str, tuple[int, ...]]) -> None:
    for array in sorted(expected.keys() | found.arrays.keys()):
        label = found.label(array)
        if array not in found.arrays:
            raise WeightsError(f"{found.name}: the array {label} {expected[array]} is missing")
        value = found.arrays[array]
        if array not in expected:
            raise WeightsError(f"{found.name}: the array {label} {value.shape} belongs to no layer of the network")
        if value.shape != expected[array]:
            raise WeightsError(f"{found.name}: {label} has the shape {value.shape}, not {expected[array]}")
        if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
            raise WeightsError(f"{found.name}: {label} holds {value.dtype}, not floating-point numbers")
        if array.endswith(".running_var") and (value <= -BATCH_NORM_EPSILON).any():
            raise WeightsError(f"{found.name}: {label} has a variance below 0: damaged, copy it again")


def _variables(found: Arrays, feature_maps: Mapping[str, tuple[int, int, int]]) -> Variables:
    """Converts all arrays; `feature_maps` has the shape [C, H, W] of the map that a linear layer reads."""
    variables: Variables = {"params": {}, "batch_stats": {}}
    for name, array in found.arrays.items():
        *path, kind = name.split(".")
        layer = path[-1]
        if kind.startswith("running_"):
            collection, leaf = "batch_stats", kind.removeprefix("running_")
        elif kind == "weight":
            collection, leaf = "params", "scale" if layer.startswith("bn") else "kernel"
        else:
            collection, leaf = "params", kind
        node = variables[collection]
        for part in path:
            branch = f"{_BRANCHES[part]}_branch" if part in _BRANCHES else part
            node = node.setdefault("linear" if part.startswith("linear") else branch, {})
        converted = _kernel(array, layer, feature_maps.get(name)) if leaf == "kernel" else array
        with np.errstate(
            over="ignore"
        ):  # Numbers that are too large become infinite, which a later check reports.
            node[leaf] = np.ascontiguousarray(converted, np.float32)
    return variables


def _kernel(array: np.ndarray, layer: str, feature_map: tuple[int, int, int] | None) -> np.ndarray:
    if layer.startswith("deconv"):
        return array[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    if layer.startswith("conv"):
        return array.transpose(2, 3, 1, 0)
    if feature_map is None:
        return array.T
    return array.reshape(-1, *feature_map).transpose(2, 3, 1, 0).reshape(-1, len(array))


# GLCIC-PyTorch's names of the discriminator's branches, in the order in which `linear1` reads their features.
_BRANCHES = {"model_ld": "local", "model_gd": "global"}

# Our names of a convolution and of the BatchNorm after it, by MMagic's name of the block.
_MMAGIC = {
    **{f"encoder.enc{i}": (f"conv{i}", f"bn{i}") for i in range(1, 7)},
    **{f"dilation_neck.dilation_convs.{i}": (f"conv{i + 7}", f"bn{i + 7}") for i in range(4)},
    **{f"decoder.dec{i}": (f"{'de' if i in (3, 5) else ''}conv{i + 10}", f"bn{i + 10}") for i in range(1, 8)},
}

"""From Torch's arrays, under the names of a state dict, to the variables of our networks.

Torch's arrays are `conv1.weight` [O, I, H, W], `deconv13.weight` [I, O, 4, 4], `conv1.bias` [O], `bn1.weight`,
`bn1.bias`, `bn1.running_mean`, `bn1.running_var` [O], and `linear.weight` [O, I], where I = C * H * W in that
order. Ours are HWIO, deconvolutions turned by half a circle, and linear layers read H, W, C.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from glcic_jax.errors import WeightsError, printable
from glcic_jax.model.networks import BATCH_NORM_EPSILON, COMPLETION_LAYERS, LAST_COMPLETION_LAYER, scaled

_BRANCHES = (("local", "model_ld"), ("global", "model_gd"))
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
_FULL_FEATURES = 1024  # Of a branch's fully connected layer at width 1.
_MOST_CONVOLUTIONS = 10

Variables = dict[str, Any]


class Arrays(NamedTuple):
    """A network's arrays under the names above.

    Attributes:
      arrays: By name.
      labels: What the file itself calls them, where that is something else.
      name: The file's, for errors.
    """

    arrays: Mapping[str, np.ndarray]
    labels: Mapping[str, str]
    name: str


class Branch(NamedTuple):
    """What the shapes of a discriminator's branch tell.

    Attributes:
      name: In `networks.BRANCHES`.
      channels: Of each convolution.
      features: Of the fully connected layer.
      side: Of the feature map that this one reads, in pixels.
    """

    name: str
    channels: tuple[int, ...]
    features: int
    side: int


def completion_shapes(width: float) -> dict[str, tuple[int, ...]]:
    """The arrays of a completion network in Torch's layout: name to shape."""
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
    """Reads a completion network of any width.

    Returns:
      The width, and the variables of `CompletionNetwork`.

    Raises:
      WeightsError: An array is missing, superfluous, of another shape or no array of weights.
    """
    width = _size(found, "conv1.weight", 4, 0) / COMPLETION_LAYERS[0].features
    _check(found, completion_shapes(width))
    return width, _variables(found, {})


def to_discriminator(found: Arrays) -> tuple[float, tuple[Branch, Branch], Variables]:
    """Reads a context discriminator; channels and sizes are what its shapes say.

    Args:
      found: The names are `model_ld.conv1.weight` and so on, `linear6` for that behind five convolutions, and
        `linear1`, which reads the local features, then the global ones.

    Returns:
      The width, the branches in the order in which they are joined, and the variables of `ContextDiscriminator`.

    Raises:
      WeightsError: As in `to_completion`.
    """
    branches = tuple(_branch(found, name, prefix) for name, prefix in _BRANCHES)
    shapes: dict[str, tuple[int, ...]] = {}
    for branch, (_, prefix) in zip(branches, _BRANCHES, strict=True):
        inputs = 3
        for index, outputs in enumerate(branch.channels, start=1):
            shapes[f"{prefix}.conv{index}.weight"] = (outputs, inputs, 5, 5)
            shapes[f"{prefix}.conv{index}.bias"] = (outputs,)
            shapes |= {f"{prefix}.bn{index}.{kind}": (outputs,) for kind in _BATCH_NORM}
            inputs = outputs
        linear = f"{prefix}.linear{len(branch.channels) + 1}"
        shapes[f"{linear}.weight"] = (branch.features, inputs * branch.side**2)
        shapes[f"{linear}.bias"] = (branch.features,)
    shapes |= {"linear1.weight": (1, sum(branch.features for branch in branches)), "linear1.bias": (1,)}
    _check(found, shapes)
    local, full = branches
    if local.features != full.features:
        raise WeightsError(
            f"{found.name}: the branches give {local.features} and {full.features} features: only equal numbers "
            "can be used"
        )
    flattened = {
        f"{prefix}.linear{len(branch.channels) + 1}.weight": (branch.channels[-1], branch.side, branch.side)
        for branch, (_, prefix) in zip(branches, _BRANCHES, strict=True)
    }
    return local.features / _FULL_FEATURES, (local, full), _variables(found, flattened)


def renamed_from_mmagic(found: Arrays) -> Arrays:
    """A completion network of MMagic's Global&Local under our names, reading and writing RGB.

    Its convolutions have no bias where a BatchNorm follows; ours get zeros. Its colours are in the order BGR.

    Args:
      found: The names are `encoder.enc1.conv.weight` and so on.
    """
    arrays: dict[str, np.ndarray] = {}
    labels: dict[str, str] = {}
    for name, array in found.arrays.items():
        layer, _, kind = name.rpartition(".")
        home, _, part = layer.rpartition(".")
        ours = f"{_MMAGIC[home][part == 'bn']}.{kind}" if home in _MMAGIC and part in ("conv", "bn") else name
        arrays[ours], labels[ours] = array, found.labels[name]
    for home, (layer, norm) in _MMAGIC.items():
        labels.setdefault(f"{layer}.weight", f"{home}.conv.weight")
        if f"{norm}.bias" in arrays and f"{layer}.bias" not in arrays:
            arrays[f"{layer}.bias"] = np.zeros_like(arrays[f"{norm}.bias"])
    for name in ("conv17.weight", "conv17.bias"):
        if name in arrays and arrays[name].shape[:1] == (3,):
            arrays[name] = arrays[name][::-1]
    if "conv1.weight" in arrays and arrays["conv1.weight"].shape[1:2] == (4,):
        arrays["conv1.weight"] = arrays["conv1.weight"][:, [2, 1, 0, 3]]
    return Arrays(arrays, labels, found.name)


def _branch(found: Arrays, name: str, prefix: str) -> Branch:
    channels: list[int] = []
    while f"{prefix}.conv{len(channels) + 1}.weight" in found.arrays and len(channels) < _MOST_CONVOLUTIONS:
        channels.append(_size(found, f"{prefix}.conv{len(channels) + 1}.weight", 4, 0))
    if not channels:
        raise WeightsError(f"{found.name}: {_label(found, f'{prefix}.conv1.weight')} is missing")
    linear = f"{prefix}.linear{len(channels) + 1}.weight"
    inputs = _size(found, linear, 2, 1)
    side = math.isqrt(inputs // channels[-1])
    if side**2 * channels[-1] != inputs:
        raise WeightsError(
            f"{found.name}: {_label(found, linear)} reads {inputs:,} numbers, which are no square map of "
            f"{channels[-1]} channels: only square images can be used"
        )
    return Branch(name, tuple(channels), _size(found, linear, 2, 0), side)


def _size(found: Arrays, array: str, dimensions: int, axis: int) -> int:
    if array not in found.arrays:
        raise WeightsError(f"{found.name}: the array {_label(found, array)} is missing")
    shape = found.arrays[array].shape
    if len(shape) != dimensions or 0 in shape:
        raise WeightsError(
            f"{found.name}: {_label(found, array)} has the shape {shape}, not {dimensions} dimensions"
        )
    return shape[axis]


def _check(found: Arrays, expected: Mapping[str, tuple[int, ...]]) -> None:
    for array in sorted(expected.keys() | found.arrays.keys()):
        label = _label(found, array)
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


def _label(found: Arrays, array: str) -> str:
    return printable(found.labels.get(array, array))


def _variables(found: Arrays, flattened: Mapping[str, tuple[int, int, int]]) -> Variables:
    """`flattened`: of each linear layer that reads a feature map, that map's shape [C, H, W]."""
    variables: Variables = {"params": {}, "batch_stats": {}}
    for name, array in found.arrays.items():
        *path, kind = name.split(".")
        collection, leaf = _leaf(path[-1], kind)
        node = variables[collection]
        for part in path:
            node = node.setdefault(_OURS.get(part, "linear" if part.startswith("linear") else part), {})
        turned = _kernel(array, path[-1], flattened.get(name)) if leaf == "kernel" else array
        with np.errstate(over="ignore"):  # What is too large becomes infinite, and is told as that.
            node[leaf] = np.ascontiguousarray(turned, np.float32)
    return variables


def _leaf(layer: str, kind: str) -> tuple[str, str]:
    if kind.startswith("running_"):
        return "batch_stats", kind.removeprefix("running_")
    if kind == "weight":
        return "params", "scale" if layer.startswith("bn") else "kernel"
    return "params", kind


def _kernel(array: np.ndarray, layer: str, flattened: tuple[int, int, int] | None) -> np.ndarray:
    if layer.startswith("deconv"):
        return array[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    if layer.startswith("conv"):
        return array.transpose(2, 3, 1, 0)
    if flattened is None:
        return array.T
    return array.reshape(-1, *flattened).transpose(2, 3, 1, 0).reshape(-1, len(array))


_OURS = {prefix: f"{name}_branch" for name, prefix in _BRANCHES}

# MMagic's name of each layer: ours, and that of its BatchNorm.
_MMAGIC = {
    **{f"encoder.enc{i}": (f"conv{i}", f"bn{i}") for i in range(1, 7)},
    **{f"dilation_neck.dilation_convs.{i}": (f"conv{i + 7}", f"bn{i + 7}") for i in range(4)},
    **{f"decoder.dec{i}": (f"{'de' if i in (3, 5) else ''}conv{i + 10}", f"bn{i + 10}") for i in range(1, 8)},
}

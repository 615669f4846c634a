"""Converts the nn modules in a Torch7 file to arrays named as in a state dict.

Every module states how it convolves and is compared with our network: another stride or padding would give wrong
images without an error.
"""

from typing import TypeGuard

import numpy as np

from glcic_jax.errors import WeightsError, printable
from glcic_jax.model.networks import BATCH_NORM_EPSILON, COMPLETION_LAYERS, LAST_COMPLETION_LAYER, Layer
from glcic_jax.weights.foreign.torch7_file import TorchObject

# Our network has 50. Containers count too, which ends the flattening of two that contain each other.
_MAX_MODULES = 1000
_CONVOLUTIONS = ("SpatialConvolution", "SpatialConvolutionMM", "SpatialDilatedConvolution")
_DECONVOLUTIONS = ("SpatialFullConvolution",)
_IDENTITIES = ("nn.Identity", "nn.Copy", "nn.Contiguous")


def is_network(value: object) -> TypeGuard[TorchObject]:
    """Returns whether a value is a container of modules, as the authors' networks are."""
    return isinstance(value, TorchObject) and isinstance(value.fields.get("modules"), dict)


def completion_arrays(network: TorchObject, name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a completion network: 16 of convolution, BatchNorm, ReLU; then convolution, sigmoid.

    Args:
      network: An nn.Sequential, whose nested ones are flattened; modules without effect are skipped.
      name: The name of the file in errors.

    Returns:
      Arrays named as in `layouts`; missing biases are zeros.

    Raises:
      WeightsError: A module has another class or another geometry than in our network.
    """
    modules = _flatten(network, name)
    arrays: dict[str, np.ndarray] = {}

    def take(index: int, *classes: str) -> tuple[TorchObject, str]:
        """Returns a module, which must have one of these classes, and its place for errors."""
        if index >= len(modules):
            raise WeightsError(f"{name}: its network ends after {len(modules)} modules, before nn.{classes[0]}")
        found = modules[index].class_name
        package, _, class_name = found.partition(".")
        if package not in ("nn", "cudnn") or class_name not in classes:
            raise WeightsError(
                f"{name}: module {index + 1} of its network is {printable(found[:80])}, not nn.{classes[0]}: "
                "it is not a completion network of the authors' release"
            )
        return modules[index], f"{name}: module {index + 1}, {found}"

    for index, layer in enumerate((*COMPLETION_LAYERS, LAST_COMPLETION_LAYER)):
        classes = _DECONVOLUTIONS if layer.name.startswith("deconv") else _CONVOLUTIONS
        arrays |= _convolution(*take(3 * index, *classes), layer)
        if layer == LAST_COMPLETION_LAYER:
            take(3 * index + 1, "Sigmoid")
        else:
            arrays |= _norm(*take(3 * index + 1, "SpatialBatchNormalization"), f"bn{index + 1}")
            take(3 * index + 2, "ReLU")
    expected = 3 * len(COMPLETION_LAYERS) + 2
    if len(modules) > expected:
        raise WeightsError(f"{name}: its network has {len(modules)} modules, not {expected}")
    return arrays


def _flatten(network: TorchObject, name: str) -> list[TorchObject]:
    """Returns the modules with an effect, in their order."""
    found: list[TorchObject] = []
    waiting = _children(network, name)[::-1]
    for _ in range(_MAX_MODULES):
        if not waiting:
            return found
        module = waiting.pop()
        if is_network(module) and module.class_name == "nn.Sequential":
            waiting += _children(module, name)[::-1]
        elif not _is_identity(module):
            found.append(module)
    raise WeightsError(f"{name}: its network has more than {_MAX_MODULES:,} modules")


def _children(container: TorchObject, name: str) -> list[TorchObject]:
    modules = container.fields["modules"]
    if len(modules) > _MAX_MODULES:
        raise WeightsError(f"{name}: its network has more than {_MAX_MODULES:,} modules")
    children = [modules.get(index) for index in range(1, len(modules) + 1)]
    for index, module in enumerate(children, start=1):
        if not isinstance(module, TorchObject):
            raise WeightsError(
                f"{name}: element {index} of its {printable(container.class_name[:80])} is not a module"
            )
    return children


def _is_identity(module: TorchObject) -> bool:
    """Returns whether a module returns its input unchanged at inference.

    At inference, SpatialDropout and the first version of Dropout scale their input by 1 - p.

    Reference: torch/nn's Dropout.lua and SpatialDropout.lua.
    """
    if module.class_name in ("nn.Dropout", "nn.SpatialDropout"):
        scales = module.class_name == "nn.SpatialDropout" or module.fields.get("v2") is not True
        return not scales or module.fields.get("p") == 0
    return module.class_name in _IDENTITIES


def _number(module: TorchObject, field: str, default: float) -> float:
    value = module.fields.get(field)
    return value if isinstance(value, float) else default


def _array(module: TorchObject, field: str, where: str) -> np.ndarray:
    value = module.fields.get(field)
    if not isinstance(value, np.ndarray):
        raise WeightsError(f"{where}: its {field} is missing")
    return value


def _convolution(module: TorchObject, where: str, layer: Layer) -> dict[str, np.ndarray]:
    deconvolution = layer.name.startswith("deconv")
    stride, pad = (2, 1) if deconvolution else (layer.stride, layer.dilation * (layer.kernel // 2))
    padding = _number(module, "padding", 0.0)  # The name of padW and padH in old files.
    # (Field, its value where the module does not have it, our network's value.)
    geometry: list[tuple[str, float, int]] = [("groups", 1.0, 1)]
    for side in "WH":
        geometry += [
            (f"k{side}", 0.0, layer.kernel),
            (f"d{side}", 1.0, stride),
            (f"pad{side}", padding, pad),
            (f"dilation{side}", 1.0, layer.dilation),
            (f"adj{side}", 0.0, 0),
        ]
    for field, default, expected in geometry:
        if (found := _number(module, field, default)) != expected:
            raise WeightsError(f"{where}: {field} is {found:g}, not {expected} as in {layer.name}")
    weight = _array(module, "weight", where)
    planes = _number(module, "nInputPlane", 0.0)
    if weight.ndim == 2 and planes.is_integer() and planes * layer.kernel**2 == weight.shape[1]:
        weight = weight.reshape(len(weight), int(planes), layer.kernel, layer.kernel)
    if module.fields.get("bias") is not None:
        bias = _array(module, "bias", where)
    else:
        bias = np.zeros(weight.shape[1 if deconvolution else 0] if weight.ndim == 4 else 0, np.float32)
    return {f"{layer.name}.weight": weight, f"{layer.name}.bias": bias}


def _norm(module: TorchObject, where: str, norm: str) -> dict[str, np.ndarray]:
    mean = _array(module, "running_mean", where)
    epsilon = _number(module, "eps", BATCH_NORM_EPSILON)
    if module.fields.get("running_var") is not None:
        variance = _array(module, "running_var", where).astype(np.float64) + epsilon
    else:
        # Before 2016: the reciprocal of the standard deviation.
        with np.errstate(all="ignore"):  # An infinite result is reported by a later check.
            variance = _array(module, "running_std", where).astype(np.float64) ** -2
    # Our network adds its own epsilon to the variance again.
    arrays = {f"{norm}.running_mean": mean, f"{norm}.running_var": variance - BATCH_NORM_EPSILON}
    for field, default in (("weight", np.ones_like(mean)), ("bias", np.zeros_like(mean))):
        missing = module.fields.get(field) is None
        arrays[f"{norm}.{field}"] = default if missing else _array(module, field, where)
    return arrays

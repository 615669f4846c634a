"""From nn's modules, as a Torch7 file holds them, to arrays under the names of a state dict.

Each module says how it convolves, and is compared with our network: a stride or a padding that differs would give
wrong pictures and no error.
"""

from typing import Any

import numpy as np

from glcic_jax.errors import WeightsError, printable
from glcic_jax.model.networks import BATCH_NORM_EPSILON, COMPLETION_LAYERS, LAST_COMPLETION_LAYER, Layer
from glcic_jax.weights.foreign.torch7_file import TorchObject

# Ours has 50. Sequences and what is passed over count too, so that ones that hold each other come to an end.
_MOST_MODULES = 1000
_CONVOLUTIONS = ("SpatialConvolution", "SpatialConvolutionMM", "SpatialDilatedConvolution")
_DECONVOLUTIONS = ("SpatialFullConvolution",)
_NORMS = ("SpatialBatchNormalization",)
_INERT = ("nn.Identity", "nn.Copy", "nn.Contiguous")


def is_network(value: Any) -> bool:
    """If a value is a sequence of modules, as the authors' networks are."""
    return isinstance(value, TorchObject) and isinstance(value.fields.get("modules"), dict)


def completion_arrays(network: TorchObject, name: str) -> dict[str, np.ndarray]:
    """The arrays of a completion network: convolution, BatchNorm, ReLU, sixteen times; convolution, sigmoid.

    Args:
      network: An nn.Sequential; others inside it are unfolded, and modules that change nothing passed over.
      name: What errors call the file.

    Returns:
      As `torch_layouts` names them; biases that are left out are zeros.

    Raises:
      WeightsError: A module is another, or convolves in another way, than in our network.
    """
    modules = _modules(network, name)
    arrays: dict[str, np.ndarray] = {}
    for index, layer in enumerate(COMPLETION_LAYERS, start=1):
        at = 3 * (index - 1)
        convolution, norm, _ = (
            _expect(modules, at, _DECONVOLUTIONS if _is_deconvolution(layer) else _CONVOLUTIONS, name),
            _expect(modules, at + 1, _NORMS, name),
            _expect(modules, at + 2, ("ReLU",), name),
        )
        arrays |= _convolution(convolution, layer, f"{name}: module {at + 1}, {convolution.class_name}")
        arrays |= _norm(norm, f"bn{index}", f"{name}: module {at + 2}, {norm.class_name}")
    at = 3 * len(COMPLETION_LAYERS)
    last = _expect(modules, at, _CONVOLUTIONS, name)
    arrays |= _convolution(last, LAST_COMPLETION_LAYER, f"{name}: module {at + 1}, {last.class_name}")
    _expect(modules, at + 1, ("Sigmoid",), name)
    if len(modules) > at + 2:
        raise WeightsError(f"{name}: its network has {len(modules)} modules, not {at + 2}")
    return arrays


def _modules(network: TorchObject, name: str) -> list[TorchObject]:
    """The modules that do something, in their order."""
    found: list[TorchObject] = []
    waiting = _children(network, name)[::-1]
    for _ in range(_MOST_MODULES):
        if not waiting:
            return found
        module = waiting.pop()
        if is_network(module) and module.class_name == "nn.Sequential":
            waiting += _children(module, name)[::-1]
        elif not _changes_nothing(module):
            found.append(module)
    raise WeightsError(f"{name}: its network has more than {_MOST_MODULES:,} modules")


def _children(sequence: TorchObject, name: str) -> list[TorchObject]:
    modules = sequence.fields["modules"]
    children = [modules.get(index) for index in range(1, min(len(modules), _MOST_MODULES) + 1)]
    for index, module in enumerate(children, start=1):
        if not isinstance(module, TorchObject):
            raise WeightsError(f"{name}: module {index} of its {printable(sequence.class_name[:80])} is none")
    if len(modules) > len(children):
        raise WeightsError(f"{name}: its network has more than {_MOST_MODULES:,} modules")
    return children


def _changes_nothing(module: TorchObject) -> bool:
    """If a module hands on what it gets when pictures are completed.

    Reference: torch/nn's Dropout.lua and SpatialDropout.lua. The latter, and the former's first version, scale by
    1 - p then: only where p is 0 do they change nothing.
    """
    if module.class_name in ("nn.Dropout", "nn.SpatialDropout"):
        scales = module.class_name == "nn.SpatialDropout" or module.fields.get("v2") is not True
        return not scales or module.fields.get("p") == 0
    return module.class_name in _INERT


def _expect(modules: list[TorchObject], index: int, classes: tuple[str, ...], name: str) -> TorchObject:
    if index >= len(modules):
        raise WeightsError(f"{name}: its network ends after {len(modules)} modules, before nn.{classes[0]}")
    package, _, class_name = modules[index].class_name.partition(".")
    if package not in ("nn", "cudnn") or class_name not in classes:
        found = printable(modules[index].class_name[:80])
        raise WeightsError(
            f"{name}: module {index + 1} of its network is {found}, not nn.{classes[0]}: this is no completion "
            "network of the authors' release"
        )
    return modules[index]


def _is_deconvolution(layer: Layer) -> bool:
    return layer.name.startswith("deconv")


def _number(module: TorchObject, field: str, default: float) -> float:
    value = module.fields.get(field)
    return float(value) if isinstance(value, float) else default


def _convolution(module: TorchObject, layer: Layer, where: str) -> dict[str, np.ndarray]:
    padding = _number(module, "padding", 0.0)  # What padW and padH were in old files.
    stride, pad = (2, 1) if _is_deconvolution(layer) else (layer.stride, layer.dilation * (layer.kernel // 2))
    # Field, what it is where a module does not say it, what our network has.
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
    outputs = weight.shape[1 if _is_deconvolution(layer) else 0] if weight.ndim == 4 else 0
    bias = np.zeros(outputs, np.float32) if module.fields.get("bias") is None else _array(module, "bias", where)
    return {f"{layer.name}.weight": weight, f"{layer.name}.bias": bias}


def _norm(module: TorchObject, norm: str, where: str) -> dict[str, np.ndarray]:
    mean = _array(module, "running_mean", where)
    epsilon = _number(module, "eps", BATCH_NORM_EPSILON)
    if module.fields.get("running_var") is not None:
        variance = _array(module, "running_var", where).astype(np.float64) + epsilon
    else:
        # Before 2016: the reciprocal of the deviation.
        with np.errstate(all="ignore"):  # What becomes infinite is told as that.
            variance = _array(module, "running_std", where).astype(np.float64) ** -2
    # Another epsilon goes into the variance, to which ours is added again.
    arrays = {f"{norm}.running_mean": mean, f"{norm}.running_var": variance - BATCH_NORM_EPSILON}
    for field, default in (("weight", np.ones_like(mean)), ("bias", np.zeros_like(mean))):
        left_out = module.fields.get(field) is None
        arrays[f"{norm}.{field}"] = default if left_out else _array(module, field, where)
    return arrays


def _array(module: TorchObject, field: str, where: str) -> np.ndarray:
    value = module.fields.get(field)
    if not isinstance(value, np.ndarray):
        raise WeightsError(f"{where}: its {field} is missing")
    return value

"""Reads the weights of other GLCIC implementations, each with the pre- and postprocessing of its origin.

The content of a file identifies it, not its name. Known are

- the authors' completion networks, nn modules in Torch7's format;
- the completion networks and context discriminators of GLCIC-PyTorch (otenim), state dicts of PyTorch;
- the Global&Local completion networks of MMEditing and MMagic, state dicts in checkpoints.
"""

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from glcic_jax.errors import WeightsError, one_line, printable
from glcic_jax.model.networks import CompletionNetwork
from glcic_jax.weights.file import Description, Weights, check_arrays
from glcic_jax.weights.foreign.layouts import Arrays, rename_mmagic, to_completion, to_discriminator
from glcic_jax.weights.foreign.tensors import read_bytes
from glcic_jax.weights.foreign.torch7_file import TorchObject, looks_like_torch7, parse_torch7
from glcic_jax.weights.foreign.torch7_modules import completion_arrays, is_network
from glcic_jax.weights.foreign.torch_file import looks_like_torch, parse_torch

_SUPPORTED = (
    "supported are the authors' completion networks (.t7), the state dicts of GLCIC-PyTorch and the checkpoints "
    "of MMEditing's and MMagic's Global&Local"
)
_PLACES2_MEAN = (0.456, 0.447, 0.415)
# Side of the images and range of the holes' sides in training, in pixels.
_PLACES2 = 256, (96, 128)
_CELEBA = 160, (48, 96)
_GREY = (0.5, 0.5, 0.5)
# A file may store a long name once and refer to it a million times.
_MAX_NAME = 500
_MAX_CONFIG_SIZE = 1 << 20

# Parts of array names that identify MMagic's other inpainters.
_OTHER_INPAINTERS = {
    ".stage1.": "DeepFill",
    ".mask_conv.": "DeepFill v2",
    ".dilation_blocks.": "AOT-GAN",
    ".encoder.enc7.": "PConv",
}


@dataclasses.dataclass(frozen=True)
class _File:
    """A file, its name in errors, and the mean pixel that the user gave."""

    path: Path
    name: str
    sha256: str
    mean_pixel: tuple[float, float, float] | None

    def origin(self, what: str) -> str:
        return f"{what}: {printable(self.path.name)}, sha256 {self.sha256}"


def read_foreign(path: Path, mean_pixel: tuple[float, float, float] | None = None) -> Weights:
    """Reads the weights of another implementation.

    Args:
      path: A .t7 file, a file of `torch.save`, or a safetensors file with the names of a state dict.
      mean_pixel: (r, g, b) in [0, 1], the mean colour of the training set where the file does not state it. None:
        for GLCIC-PyTorch, it is read from the config.json beside the file or one directory above.

    Raises:
      WeightsError: The file is missing, damaged, malicious or unsupported, its arrays do not fit their network, or
        the mean colour is unknown.
    """
    data = read_bytes(path)
    file = _File(path, printable(str(path)), hashlib.sha256(data).hexdigest(), mean_pixel)
    if looks_like_torch7(data):
        return _from_torch7(parse_torch7(data, file.name), file)
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return _from_state_dicts(_read_safetensors(file), file)
    if looks_like_torch(data):
        return _from_state_dicts(parse_torch(data, file.name), file)
    raise WeightsError(f"{file.name}: not a binary file of Torch7, PyTorch or safetensors: {_SUPPORTED}")


def _read_safetensors(file: _File) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(file.path, framework="np") as opened:
            if (opened.metadata() or {}).get("format", "").startswith("glcic_jax"):
                raise WeightsError(f"{file.name}: glcic_jax's own weights need no import: use the file as it is")
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a dict.
    except WeightsError:
        raise
    except Exception as error:  # The library raises its own type, OSError and TypeError on damaged files.
        raise WeightsError(f"{file.name}: cannot be read as safetensors ({printable(one_line(error))})") from error


def _weights(network: Any, variables: dict[str, Any], fields: dict[str, Any], file: _File) -> Weights:
    try:
        description = Description(**fields)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{file.name}: cannot be described ({printable(one_line(error))})") from error
    return check_arrays(Weights(network, variables, description), file.name)


def _from_torch7(value: Any, file: _File) -> Weights:
    network = value.get("model") if isinstance(value, dict) else value
    if not is_network(network):
        found = type(value).__name__
        if isinstance(value, TorchObject):
            found = printable(value.class_name[:80])
        elif isinstance(value, dict):
            found = f"a table with {_list(list(value)) or 'nothing'}"
        raise WeightsError(f"{file.name}: a Torch7 file of {found}, without a network in 'model': {_SUPPORTED}")
    width, variables = to_completion(Arrays(completion_arrays(network, file.name), {}, file.name))
    mean = value.get("mean") if isinstance(value, dict) else None
    if isinstance(mean, dict):
        mean = [mean.get(channel) for channel in (1, 2, 3)]
    mean_pixel = _as_pixel(mean) or file.mean_pixel
    if mean_pixel is None:
        raise WeightsError(f"{file.name}: it lacks the mean colour of its training set: give it (--mean-pixel)")
    file_name = file.path.name.lower()
    has_places2_mean = max(abs(a - b) for a, b in zip(mean_pixel, _PLACES2_MEAN, strict=True)) < 0.02
    is_celeba = "celeb" in file_name or ("places" not in file_name and not has_places2_mean)
    image_size, hole_sides = _CELEBA if is_celeba else _PLACES2
    fields = {
        "input_form": "mean_subtracted",
        "mean_pixel": mean_pixel,
        "image_size": image_size,
        "hole_sides": hole_sides,
        "origin": file.origin("the authors' release"),
        "licence": "CC BY-NC-SA 4.0",
    }
    return _weights(CompletionNetwork(width), variables, fields, file)


def _list(names: list[Any]) -> str:
    shown = ", ".join(printable(str(name)[:80]) for name in names[:4])
    return f"{shown}, ..." if len(names) > 4 else shown


def _as_pixel(value: Any) -> tuple[float, float, float] | None:
    """Returns (r, g, b), or None; one number, as in early configurations of GLCIC-PyTorch, becomes three."""
    try:
        numbers = np.asarray(value, np.float64).ravel()
    except (TypeError, ValueError):
        return None
    if numbers.size == 1:
        numbers = np.repeat(numbers, 3)
    if numbers.size != 3 or not np.isfinite(numbers).all():  # NumPy turns None into NaN.
        return None
    red, green, blue = numbers.tolist()
    return red, green, blue


def _from_state_dicts(value: Any, file: _File) -> Weights:
    """Prefers completion networks to discriminators, and moving averages to the networks that were trained."""
    dicts = list(_state_dicts(value))
    for mark, convert in _LAYOUTS.items():
        found = [
            (arrays, name.removesuffix(mark))
            for arrays in dicts
            for name in arrays
            if name == mark or name.endswith(f".{mark}")
        ]
        if found:
            arrays, prefix = min(found, key=lambda pair: "_ema." not in pair[1])
            labels = {name.removeprefix(prefix): name for name in arrays if name.startswith(prefix)}
            return convert(Arrays({key: arrays[name] for key, name in labels.items()}, labels, file.name), file)
    names = [name for arrays in dicts for name in arrays]
    if not names:
        raise WeightsError(f"{file.name}: it holds no arrays: {_SUPPORTED}")
    _refuse_other_inpainters(names, file)
    raise WeightsError(f"{file.name}: unknown arrays ({_list(names)}): {_SUPPORTED}")


def _refuse_other_inpainters(names: Collection[str], file: _File) -> None:
    for part, inpainter in _OTHER_INPAINTERS.items():
        if any(part in name or name.startswith(part[1:]) for name in names):
            raise WeightsError(
                f"{file.name}: arrays of MMagic's {inpainter}, not of its Global&Local: {_SUPPORTED}"
            )


def _state_dicts(value: Any) -> Iterator[dict[str, np.ndarray]]:
    """Yields the arrays of every dict in a saved value, outer dicts first."""
    waiting, seen = deque([value]), set[int]()
    while waiting:
        node = waiting.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        items = node
        if isinstance(node, dict):
            items = node.values()
            arrays = {
                key: item
                for key, item in node.items()
                if isinstance(item, np.ndarray)
                and isinstance(key, str)
                and len(key) <= _MAX_NAME
                and not key.endswith(".num_batches_tracked")
            }
            if arrays:
                yield arrays
        waiting.extend(item for item in items if isinstance(item, dict | list | tuple))


def _from_mmagic(found: Arrays, file: _File) -> Weights:
    _refuse_other_inpainters(found.labels.values(), file)
    if not any(name.startswith("dilation_neck.dilation_convs.") for name in found.arrays):
        raise WeightsError(f"{file.name}: an inpainter of MMagic without dilated convolutions: {_SUPPORTED}")
    width, variables = to_completion(rename_mmagic(found))
    fields = {
        "input_form": "signed",
        "mean_pixel": _GREY,
        "image_size": 256,
        "hole_sides": (88, 128),
        "origin": file.origin("MMagic's Global&Local"),
    }
    return _weights(CompletionNetwork(width, output_activation="clip"), variables, fields, file)


def _from_otenim(found: Arrays, file: _File) -> Weights:
    width, variables = to_completion(found)
    try:
        config = _training_config(file)
    except WeightsError:
        if file.mean_pixel is None:
            raise
        config = {}  # Not needed, and it may belong to another program.
    mean_pixel = file.mean_pixel or _as_pixel(config.get("mpv"))
    if mean_pixel is None:
        raise WeightsError(
            f"{file.name}: it lacks the mean colour of its training set: give it (--mean-pixel), or put the "
            "config.json of its training (with 'mpv') beside it"
        )
    # The sizes in the config.json, or the defaults of GLCIC-PyTorch.
    image_size, (smallest, largest) = _CELEBA
    sizes = [config.get("cn_input_size", image_size)]
    for bound, default in (("min", smallest), ("max", largest)):
        sizes += [config.get(f"hole_{bound}_{side}", default) for side in "wh"]
    if all(isinstance(size, int) for size in sizes):
        image_size, smallest, largest = sizes[0], min(sizes[1:3]), max(sizes[3:5])
    fields = {
        "input_form": "mean_filled",
        "mean_pixel": mean_pixel,
        "image_size": image_size,
        "hole_sides": (smallest, largest),
        "origin": file.origin("GLCIC-PyTorch's completion network"),
    }
    return _weights(CompletionNetwork(width, "conv_relu_bn"), variables, fields, file)


def _training_config(file: _File) -> dict[str, Any]:
    """Reads the config.json of GLCIC-PyTorch's training, which lies one directory above its weights."""
    for directory in (file.path.parent, file.path.absolute().parent.parent):
        path = directory / "config.json"
        if not path.is_file():
            continue
        name = printable(str(path))
        try:
            if path.stat().st_size > _MAX_CONFIG_SIZE:
                raise WeightsError(f"{name}: too large for the configuration of a training")
            config = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise WeightsError(f"{name}: cannot be read as JSON ({printable(one_line(error))})") from error
        if isinstance(config, dict) and "mpv" in config:
            return config
    return {}


def _from_otenim_discriminator(found: Arrays, file: _File) -> Weights:
    network, image_size, variables = to_discriminator(found)
    fields = {
        "input_form": "mean_filled",
        "mean_pixel": file.mean_pixel or _GREY,  # Without effect: it reads whole images.
        "image_size": image_size,
        "hole_sides": (network.local_size // 2, network.local_size),
        "origin": file.origin("GLCIC-PyTorch's context discriminator"),
    }
    return _weights(network, variables, fields, file)


# By the array that identifies a layout, behind any prefix.
_LAYOUTS: dict[str, Callable[[Arrays, _File], Weights]] = {
    "deconv13.weight": _from_otenim,
    "encoder.enc1.conv.weight": _from_mmagic,
    "model_ld.conv1.weight": _from_otenim_discriminator,
}

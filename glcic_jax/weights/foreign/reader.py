"""Reads the weights of other GLCIC implementations, each with what its home does around the network.

A layout is recognised by what is in a file, not by its name. Known are

- the authors' networks, nn modules in Torch7's format;
- the completion networks and context discriminators of GLCIC-PyTorch (otenim), state dicts of PyTorch;
- the Global&Local completion networks of MMEditing and MMagic, state dicts in their checkpoints.
"""

import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from glcic_jax.errors import WeightsError, one_line, printable
from glcic_jax.model.networks import CompletionNetwork, ContextDiscriminator, scaled
from glcic_jax.weights.file import Description, Weights, check_arrays
from glcic_jax.weights.foreign.layouts import Arrays, renamed_from_mmagic, to_completion, to_discriminator
from glcic_jax.weights.foreign.tensors import read_bytes
from glcic_jax.weights.foreign.torch7_file import TorchObject, looks_like_torch7, parse_torch7
from glcic_jax.weights.foreign.torch7_modules import completion_arrays, is_network
from glcic_jax.weights.foreign.torch_file import looks_like_torch, parse_torch

_UNDERSTOOD = (
    "understood are the authors' completion networks (.t7), the state dicts of GLCIC-PyTorch and the checkpoints "
    "of MMEditing's and MMagic's Global&Local"
)
_PLACES2_MEAN = (0.456, 0.447, 0.415)
_PLACES2 = 256, (96, 128)
_CELEBA = 160, (48, 96)
_GREY = (0.5, 0.5, 0.5)
# A name may stand in a file once and be used in a million places.
_LONGEST_NAME = 500
_LARGEST_CONFIG = 1 << 20
_IGNORED = ".num_batches_tracked"

# By what MMagic's other inpainters are told: a part of their arrays' names.
_OTHER_INPAINTERS = {
    ".stage1.": "DeepFill",
    ".mask_conv.": "DeepFill v2",
    ".dilation_blocks.": "AOT-GAN",
    ".encoder.enc7.": "PConv",
}


@dataclasses.dataclass(frozen=True)
class _File:
    path: Path
    name: str
    sha256: str
    mean_pixel: tuple[float, float, float] | None

    def origin(self, what: str) -> str:
        return f"{what}: {printable(self.path.name)}, sha256 {self.sha256}"


def read_foreign(path: Path, mean_pixel: tuple[float, float, float] | None = None) -> Weights:
    """Reads a file of another implementation's weights, of any layout that the module names.

    Args:
      path: A .t7, a file of `torch.save`, or a safetensors file with a state dict's names.
      mean_pixel: (r, g, b) in [0, 1], the mean colour of the training set, where the file does not say it. None:
        GLCIC-PyTorch's is looked for in the config.json of its training, beside the file or one folder above.

    Raises:
      WeightsError: It is not there, damaged, hostile, of no layout that is understood, or its arrays do not fit
        their network; or the mean colour is needed and unknown.
    """
    data = read_bytes(path)
    file = _File(path, printable(str(path)), hashlib.sha256(data).hexdigest(), mean_pixel)
    if looks_like_torch7(data):
        return _from_torch7(parse_torch7(data, file.name), file)
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return _from_state_dicts(_read_safetensors(file), file)
    if looks_like_torch(data):
        return _from_state_dicts(parse_torch(data, file.name), file)
    raise WeightsError(f"{file.name}: of no format of Torch7, PyTorch or safetensors: {_UNDERSTOOD}")


def _read_safetensors(file: _File) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(file.path, framework="np") as opened:
            if (opened.metadata() or {}).get("format", "").startswith("glcic_jax"):
                raise WeightsError(
                    f"{file.name}: glcic_jax's own weights: nothing is to be imported, use it as it is"
                )
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - it is no dict.
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
        raise WeightsError(
            f"{file.name}: a Torch7 file of {_told(value)}, and no network in 'model': {_UNDERSTOOD}"
        )
    assert isinstance(network, TorchObject)
    width, variables = to_completion(Arrays(completion_arrays(network, file.name), {}, file.name))
    mean = value.get("mean") if isinstance(value, dict) else None
    if isinstance(mean, dict):
        mean = [mean.get(channel) for channel in (1, 2, 3)]
    mean_pixel = _three_numbers(mean) or file.mean_pixel
    if mean_pixel is None:
        raise WeightsError(
            f"{file.name}: the mean colour of its training set is not in it: give it (--mean-pixel)"
        )
    known = file.path.name.lower()
    of_places2 = max(abs(a - b) for a, b in zip(mean_pixel, _PLACES2_MEAN, strict=True)) < 0.02
    celeba = "celeb" in known or ("places" not in known and not of_places2)
    image_size, hole_sides = _CELEBA if celeba else _PLACES2
    fields = {
        "input_form": "mean_subtracted",
        "mean_pixel": mean_pixel,
        "image_size": image_size,
        "hole_sides": hole_sides,
        "origin": file.origin("the authors' release"),
        "licence": "CC BY-NC-SA 4.0",
    }
    return _weights(CompletionNetwork(width), variables, fields, file)


def _told(value: Any) -> str:
    if isinstance(value, TorchObject):
        return printable(value.class_name[:80])
    if isinstance(value, dict):
        return f"a table with {_some(list(value)) or 'nothing in it'}"
    return type(value).__name__


def _some(names: list[Any]) -> str:
    shown = ", ".join(printable(str(name)[:80]) for name in names[:4])
    return f"{shown}, ..." if len(names) > 4 else shown


def _three_numbers(value: Any) -> tuple[float, float, float] | None:
    """One number stands for three: early configurations of GLCIC-PyTorch have that."""
    try:
        numbers = np.asarray(value, np.float64).ravel()
    except (TypeError, ValueError):
        return None
    if not np.isfinite(numbers).all():  # None is made into one, too.
        return None
    if numbers.size == 1:
        numbers = np.repeat(numbers, 3)
    if numbers.size != 3:
        return None
    red, green, blue = numbers.tolist()
    return red, green, blue


def _from_state_dicts(value: Any, file: _File) -> Weights:
    """Of several networks a completion network is taken, and of those a moving average."""
    dicts = list(_state_dicts(value))
    for mark, convert in _LAYOUTS.items():
        found = [
            (arrays, name[: -len(mark)])
            for arrays in dicts
            for name in arrays
            if name == mark or name.endswith(f".{mark}")
        ]
        if found:
            arrays, prefix = min(found, key=lambda pair: "_ema." not in pair[1])
            return convert(_without_prefix(arrays, prefix, file), file)
    names = [name for arrays in dicts for name in arrays]
    if not names:
        raise WeightsError(f"{file.name}: no arrays in it: {_UNDERSTOOD}")
    _refuse_other_inpainters(names, file)
    raise WeightsError(f"{file.name}: unknown arrays ({_some(names)}): {_UNDERSTOOD}")


def _refuse_other_inpainters(names: Collection[str], file: _File) -> None:
    for part, home in _OTHER_INPAINTERS.items():
        if any(part in name or name.startswith(part[1:]) for name in names):
            raise WeightsError(
                f"{file.name}: arrays of MMagic's {home}, another inpainter than its Global&Local: {_UNDERSTOOD}"
            )


def _state_dicts(value: Any) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of each dict in what was saved, outer dicts first."""
    waiting, seen = deque([value]), set[int]()
    while waiting:
        node = waiting.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        items = node
        if isinstance(node, dict):
            items = node.values()
            if arrays := {key: item for key, item in node.items() if _is_named_array(key, item)}:
                yield arrays
        waiting.extend(item for item in items if isinstance(item, dict | list | tuple))


def _is_named_array(key: Any, item: Any) -> bool:
    named = isinstance(key, str) and len(key) <= _LONGEST_NAME and not key.endswith(_IGNORED)
    return named and isinstance(item, np.ndarray)


def _without_prefix(arrays: Mapping[str, np.ndarray], prefix: str, file: _File) -> Arrays:
    names = [name for name in arrays if name.startswith(prefix)]
    return Arrays(
        {name.removeprefix(prefix): arrays[name] for name in names},
        {name.removeprefix(prefix): name for name in names},
        file.name,
    )


def _from_mmagic(found: Arrays, file: _File) -> Weights:
    _refuse_other_inpainters(found.labels.values(), file)
    if not any(name.startswith("dilation_neck.dilation_convs.") for name in found.arrays):
        raise WeightsError(
            f"{file.name}: arrays of an inpainter of MMagic without dilated convolutions: {_UNDERSTOOD}"
        )
    width, variables = to_completion(renamed_from_mmagic(found))
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
        # With the mean colour at hand it may be another program's.
        if file.mean_pixel is None:
            raise
        config = {}
    mean_pixel = file.mean_pixel or _three_numbers(config.get("mpv"))
    if mean_pixel is None:
        raise WeightsError(
            f"{file.name}: the mean colour of its training set is not in it: give it (--mean-pixel), or put the "
            "config.json of its training (with 'mpv') beside it"
        )
    fields = _otenim_fields(config, *_CELEBA) | {
        "mean_pixel": mean_pixel,
        "origin": file.origin("GLCIC-PyTorch's completion network"),
    }
    return _weights(CompletionNetwork(width, "conv_relu_bn"), variables, fields, file)


def _from_otenim_discriminator(found: Arrays, file: _File) -> Weights:
    width, (local, full), variables = to_discriminator(found)
    channels = tuple(tuple(round(count / width) for count in branch.channels) for branch in (local, full))
    for branch, counts in zip((local, full), channels, strict=True):
        if tuple(scaled(count, width) for count in counts) != branch.channels:
            raise WeightsError(
                f"{file.name}: {branch.channels} channels do not go with {branch.features} features"
            )
    local_size, image_size = (branch.side << len(branch.channels) for branch in (local, full))
    network = ContextDiscriminator((local.name, full.name), local_size, channels, width, "conv_relu_bn")
    fields = _otenim_fields({}, image_size, (local_size // 2, local_size)) | {
        "mean_pixel": file.mean_pixel or _GREY,  # It reads whole images: nothing is filled.
        "origin": file.origin("GLCIC-PyTorch's context discriminator"),
    }
    return _weights(network, variables, fields, file)


def _otenim_fields(config: Mapping[str, Any], image_size: int, hole_sides: tuple[int, int]) -> dict[str, Any]:
    """What its config.json says of the sizes trained on, or its defaults."""
    smallest, largest = (
        [config.get(f"hole_{bound}_{side}", default) for side in "wh"]
        for bound, default in zip(("min", "max"), hole_sides, strict=True)
    )
    sizes = [config.get("cn_input_size", image_size), *smallest, *largest]
    if not all(isinstance(size, int) for size in sizes):
        sizes = [image_size, *(2 * [hole_sides[0]]), *(2 * [hole_sides[1]])]
    return {
        "input_form": "mean_filled",
        "image_size": sizes[0],
        "hole_sides": (min(sizes[1:3]), max(sizes[3:5])),
    }


def _training_config(file: _File) -> dict[str, Any]:
    """The config.json that its training wrote: one folder above its weights, unless they were moved."""
    for folder in (file.path.parent, file.path.absolute().parent.parent):
        path = folder / "config.json"
        if not path.is_file():
            continue
        name = printable(str(path))
        try:
            if path.stat().st_size > _LARGEST_CONFIG:
                raise WeightsError(f"{name}: too large for the configuration of a training")
            config = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise WeightsError(f"{name}: cannot be read as JSON ({printable(one_line(error))})") from error
        if isinstance(config, dict) and "mpv" in config:
            return config
    return {}


# An array that tells each layout, whatever stands before its name.
_LAYOUTS: dict[str, Callable[[Arrays, _File], Weights]] = {
    "deconv13.weight": _from_otenim,
    "encoder.enc1.conv.weight": _from_mmagic,
    "model_ld.conv1.weight": _from_otenim_discriminator,
}

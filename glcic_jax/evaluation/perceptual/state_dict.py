"""State dicts of the networks behind perceptual metrics, in PyTorch's format or safetensors."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from glcic_jax.errors import WeightsError, one_line, printable
from glcic_jax.weights.foreign.tensors import read_bytes
from glcic_jax.weights.foreign.torch_file import looks_like_torch, parse_torch

_NESTED = "state_dict"  # Key of the state dict in a checkpoint.
_PARALLEL = "module."  # Prefix that DataParallel adds to each name.


class FeatureFile(NamedTuple):
    """The arrays of a state dict, and its file.

    Attributes:
      name: Path of the file, for errors.
      label: For descriptions: file name and the first twelve digits of its sha256.
      sha256: SHA-256 of the file's bytes, in hexadecimal digits.
      arrays: By name, of any shape and dtype.
    """

    name: str
    label: str
    sha256: str
    arrays: Mapping[str, np.ndarray]


def read_feature_file(path: Path) -> FeatureFile:
    """Reads a state dict, without PyTorch and without executing anything in the file.

    Args:
      path: A file of `torch.save`, old or new, or a safetensors file. The state dict may be nested under
        "state_dict", and its names may have the prefix "module.".

    Raises:
      WeightsError: The file is missing, damaged or hostile, or holds no named arrays.
    """
    data = read_bytes(path)
    name = printable(str(path))
    sha256 = hashlib.sha256(data).hexdigest()
    arrays = {key: value for key, value in _state_dict(data, name).items() if isinstance(value, np.ndarray)}
    if not arrays:
        raise WeightsError(f"{name}: holds no named arrays: give a PyTorch state dict")
    if all(key.startswith(_PARALLEL) for key in arrays):
        arrays = {key.removeprefix(_PARALLEL): value for key, value in arrays.items()}
    return FeatureFile(name, f"{printable(path.name)} sha256 {sha256[:12]}", sha256, arrays)


def _state_dict(data: bytes, name: str) -> Mapping[str, Any]:
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        try:
            return safetensors.numpy.load(data)
        except Exception as error:  # safetensors raises several types on damaged files.
            reason = printable(one_line(error))
            raise WeightsError(f"{name}: cannot be read as safetensors ({reason}): copy it again") from error
    if not looks_like_torch(data):
        raise WeightsError(f"{name}: neither a PyTorch file nor safetensors: give a state dict")
    value = parse_torch(data, name)
    if isinstance(value, dict) and isinstance(value.get(_NESTED), dict):
        value = value[_NESTED]
    if not isinstance(value, dict):
        return {}
    return {key: item for key, item in value.items() if isinstance(key, str)}


def check_arrays(file: FeatureFile, expected: Mapping[str, tuple[int, ...]], needed: str) -> None:
    """Checks that a file holds a network's arrays; additional arrays are allowed.

    Args:
      file: From `read_feature_file`.
      expected: Shapes by name.
      needed: The expected file and its publisher, for errors.

    Raises:
      WeightsError: An array is missing, of another shape, or not of finite floating-point numbers.
    """
    for array, shape in expected.items():
        value = file.arrays.get(array)
        if value is None:
            missing = sum(other not in file.arrays for other in expected)
            plural = "s" if missing > 2 else ""
            others = f" and {missing - 1} other{plural} are" if missing > 1 else " is"
            raise WeightsError(f"{file.name}: the array {array} {shape}{others} missing: use {needed}")
        if value.shape != shape:
            raise WeightsError(
                f"{file.name}: the array {array} has the shape {value.shape}, not {shape}, and belongs to another "
                f"network: use {needed}"
            )
        # NumPy does not count bfloat16 as a floating-point type.
        if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
            raise WeightsError(
                f"{file.name}: the array {array} holds {value.dtype}, not floating-point numbers: use {needed}"
            )
        with np.errstate(over="ignore"):  # Too large for float32: reported as not finite.
            finite = np.isfinite(value.astype(np.float32)).all()
        if not finite:
            raise WeightsError(f"{file.name}: the array {array} holds numbers that are not finite: copy it again")


def kernel_of(weight: np.ndarray) -> np.ndarray:
    """PyTorch's kernel [O, I, H, W] of any float type to [H, W, I, O] float32."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0), np.float32)

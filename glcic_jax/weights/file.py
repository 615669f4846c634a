"""Portable weights: one safetensors file with everything that inference needs.

The arrays are named by their paths in Flax's variables, such as "params/conv1/kernel" or "batch_stats/bn1/mean".
They are float32; in a file of half the size the parameters are float16. The metadata has the keys "format",
"network" and "description" (JSON), "sha256" (of the arrays as float32, with their names) and "metadata_sha256" (of
the other metadata; files of early versions lack it).

JAX and the networks are imported inside: `summarise` needs neither.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors.numpy

from glcic_jax.errors import ConfigError, WeightsError, lookup, one_line, printable
from glcic_jax.files import write_atomically
from glcic_jax.runtime import start_backend

if TYPE_CHECKING:
    import jax

FORMAT_FAMILY = "glcic_jax weights "
FORMAT = f"{FORMAT_FAMILY}1"
LICENCE_NOT_STATED = "not stated"
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in ("float32", "float16")}

_MAX_SIDE = 1 << 14
_MAX_TEXT = 10_000
_MAX_WIDTH = 64.0


@dataclasses.dataclass(frozen=True)
class Description:
    """What inference and readers need of a completion network or a context discriminator beside its arrays.

    Attributes:
      input_form: A name in `images.INPUT_FORMS`.
      mean_pixel: (r, g, b) in [0, 1], the mean colour of the training set.
      image_size: Side of the training crops, in pixels.
      hole_sides: Smallest and largest side of the training holes, or thickness of their strokes, in pixels.
      origin: Where the weights come from, in one line.
      licence: The licence of the weights, in one line.
    """

    input_form: str
    mean_pixel: tuple[float, float, float]
    image_size: int
    hole_sides: tuple[int, int]
    origin: str
    licence: str = LICENCE_NOT_STATED

    def __post_init__(self) -> None:
        """Raises ValueError for impossible values, which a file may hold."""
        from glcic_jax.model.images import INPUT_FORMS

        _check_texts(self.origin, self.licence)
        if self.input_form not in INPUT_FORMS:
            raise ValueError(f"unknown input form {self.input_form!r}: one of {', '.join(INPUT_FORMS)}")
        if len(self.mean_pixel) != 3 or not all(0.0 <= value <= 1.0 for value in self.mean_pixel):
            raise ValueError(f"the mean pixel {self.mean_pixel} is not three numbers in [0, 1]")
        sizes = (self.image_size, *self.hole_sides)
        valid = len(sizes) == 3 and all(type(size) is int and 0 < size <= _MAX_SIDE for size in sizes)
        if not valid or sizes[1] > sizes[2]:
            raise ValueError(
                f"image size {self.image_size} and hole sides {self.hole_sides} are not sizes in pixels"
            )


@dataclasses.dataclass(frozen=True)
class GeneratorDescription:
    """What readers need of a generator of images beside its arrays; attributes as in `Description`."""

    origin: str
    licence: str = LICENCE_NOT_STATED

    def __post_init__(self) -> None:
        """Raises ValueError for impossible values, which a file may hold."""
        _check_texts(self.origin, self.licence)


def _check_texts(*texts: str) -> None:
    if not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in texts):
        raise ValueError(f"origin and licence must be texts of at most {_MAX_TEXT:,} characters")


class Weights(NamedTuple):
    """A trained network.

    Attributes:
      network: The module, of one of the `_kinds`.
      variables: Its collections of NumPy float32 arrays.
      description: A `Description`, or of a generator a `GeneratorDescription`.
    """

    network: Any
    variables: dict[str, Any]
    description: Any


def description_type(network: Any) -> type[Any]:
    """Returns the type of the description that belongs to a network."""
    return _kinds()[kind_of(network)].description


def kind_of(network: Any) -> str:
    """Returns the kind of a network, such as "completion"."""
    return next(name for name, kind in _kinds().items() if isinstance(network, kind.module))


def check_arrays(weights: Weights, name: str) -> Weights:
    """Compares the arrays with those that the network needs, and returns the weights.

    Args:
      weights: The weights.
      name: Their name in errors.

    Raises:
      WeightsError: An array is missing, unexpected, of another shape, not finite, or a negative variance.
      ConfigError: JAX has no device.
    """
    from flax.errors import FlaxError

    start_backend()
    try:
        shapes = _shapes(weights.network, weights.description)
    # Fields may fit no network together.
    except (ConfigError, FlaxError, ArithmeticError, TypeError, ValueError) as error:
        raise WeightsError(f"{name}: no such network can be built ({printable(one_line(error))})") from error
    expected = {path: leaf.shape for path, leaf in _flatten(shapes).items()}
    found = _flatten(weights.variables)
    for path in sorted(expected.keys() | found.keys()):
        if path not in found:
            raise WeightsError(f"{name}: the array {path} {expected[path]} is missing")
        if path not in expected:
            raise WeightsError(f"{name}: the array {path} {found[path].shape} belongs to no layer of the network")
        if found[path].shape != expected[path]:
            raise WeightsError(f"{name}: {path} has the shape {found[path].shape}, not {expected[path]}")
        if found[path].dtype != np.float32:
            raise WeightsError(f"{name}: {path} is {found[path].dtype}, not float32")
        if not np.isfinite(found[path]).all():
            raise WeightsError(f"{name}: {path} holds numbers that are not finite")
        if path.endswith("/var") and found[path].min() < 0:
            raise WeightsError(f"{name}: {path} holds variances below 0")
    return weights


def save_weights(weights: Weights, path: Path, dtype: str = "float32") -> None:
    """Writes weights to a safetensors file.

    Args:
      weights: The weights.
      path: The file.
      dtype: Of the parameters, a name in `DTYPES`. Running statistics stay float32: float16 cannot hold small
        variances.

    Raises:
      WeightsError: The arrays do not fit the network or the dtype.
      DataError: The file cannot be written.
    """
    check_arrays(weights, "the weights")
    stored_dtype = lookup(DTYPES, dtype, "dtype of weights")
    arrays = {name: np.ascontiguousarray(array) for name, array in _flatten(weights.variables).items()}
    for name, array in arrays.items():
        if not name.startswith("params/"):
            continue
        if array.size and np.abs(array).max() > float(np.finfo(stored_dtype).max):
            raise WeightsError(f"the weights: {name} holds numbers beyond {dtype}: write them as float32")
        arrays[name] = array.astype(stored_dtype)
    metadata = {
        "format": FORMAT,
        "network": json.dumps(_network_fields(weights.network)),
        "description": json.dumps(dataclasses.asdict(weights.description)),
        "sha256": _sha256({name: _as_float32(array) for name, array in arrays.items()}),
    }
    metadata["metadata_sha256"] = _metadata_sha256(metadata)
    write_atomically(path, safetensors.numpy.save(arrays, metadata))


def load_weights(path: Path) -> Weights:
    """Reads a file that `save_weights` wrote, and verifies its checksums.

    Raises:
      WeightsError: The file is missing, of another format, damaged, or its arrays do not fit its network.
    """
    name = printable(str(path))
    arrays, metadata = _read(path, name)
    try:
        network = _network(json.loads(metadata["network"]))
        fields: dict[str, Any] = json.loads(metadata["description"])
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        description = description_type(network)(**fields)
    except _UNUSABLE as error:
        raise _unusable(name, error) from error
    from flax import traverse_util

    variables = traverse_util.unflatten_dict(arrays, sep="/")
    return check_arrays(Weights(network, variables, description), name)


class Summary(NamedTuple):
    """What a file says of its network: the kind, the side of the training crops in pixels, the licence."""

    kind: str
    image_size: int
    licence: str


def summarise(path: Path) -> Summary:
    """Reads what a file of weights says, and verifies its checksums, without JAX.

    Raises:
      WeightsError: As in `load_weights`, but the arrays are not compared with the network.
    """
    name = printable(str(path))
    _, metadata = _read(path, name)
    try:
        network, description = (json.loads(metadata[key]) for key in ("network", "description"))
        found = Summary(network["kind"], (network | description)["image_size"], description["licence"])
        if not all(map(isinstance, found, (str, int, str))):
            raise ValueError(f"kind, image size and licence are {found[0]!r}, {found[1]!r} and {found[2]!r}")
        return found
    except _UNUSABLE as error:
        raise _unusable(name, error) from error


_UNUSABLE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


def _unusable(name: str, error: Exception) -> WeightsError:
    return WeightsError(f"{name}: its description cannot be used ({printable(one_line(error))})")


def arrays_sha256(weights: Weights) -> str:
    """Returns the SHA-256 of names and arrays in hexadecimal: "sha256" in the metadata of a float32 file."""
    return _sha256(_flatten(weights.variables))


def _read(path: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays, as float32, and the metadata of a file, once its checksums are verified."""
    arrays, metadata = _read_safetensors(path, name)
    file_format = metadata.get("format", "none")
    if file_format != FORMAT and file_format.startswith(FORMAT_FAMILY):
        raise WeightsError(
            f"{name}: {printable(file_format)} of a newer glcic_jax; this version reads {FORMAT}: upgrade it"
        )
    if file_format != FORMAT:
        raise WeightsError(
            f"{name}: a safetensors file without glcic_jax's description (metadata format: "
            f"{printable(file_format)}, not {FORMAT!r}): import it with 'glcic weights import'"
        )
    expected = metadata.get("metadata_sha256")
    if _sha256(arrays) != metadata.get("sha256") or expected not in (None, _metadata_sha256(metadata)):
        raise WeightsError(f"{name}: damaged (its sha256 is wrong): copy or export it again")
    return arrays, metadata


def _read_safetensors(path: Path, name: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not path.is_file():
        raise WeightsError(f"{name}: {'not a file' if path.exists() else 'no such file'}")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {key: _as_float32(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 - not a dict.
            return arrays, metadata
    except Exception as error:  # The library raises its own type, OSError and TypeError on damaged files.
        raise WeightsError(f"{name}: cannot be read as safetensors ({printable(one_line(error))})") from error


def _as_float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _network_fields(network: Any) -> dict[str, Any]:
    kind = kind_of(network)
    return {"kind": kind} | {field: getattr(network, field) for field in _kinds()[kind].fields}


def _network(fields: Mapping[str, Any]) -> Any:
    """Builds a network from the fields in a file; raises ValueError where one is unknown or out of range."""
    from glcic_jax.model.images import OUTPUT_ACTIVATIONS
    from glcic_jax.model.networks import BRANCHES, LAYER_ORDERS

    chosen = dict(fields)
    module, names, *_ = _kinds()[chosen.pop("kind")]
    if set(chosen) != set(names):
        raise ValueError(f"the network has the fields {sorted(chosen)}, not {sorted(names)}")
    if chosen.get("layer_order", "conv_bn_relu") not in LAYER_ORDERS:
        raise ValueError(f"unknown layer order {chosen['layer_order']!r}")
    if chosen.get("output_activation", "sigmoid") not in OUTPUT_ACTIVATIONS:
        raise ValueError(f"unknown output activation {chosen['output_activation']!r}")
    if not (math.isfinite(chosen["width"]) and 0 < chosen["width"] <= _MAX_WIDTH):
        raise ValueError(f"the width {chosen['width']} is out of range")
    if "latent_size" in chosen:
        sizes = [chosen[name] for name in ("image_size", "latent_size")]
        if not all(type(size) is int and 0 < size <= _MAX_SIDE for size in sizes) or chosen["channels"] not in (
            1,
            3,
        ):
            raise ValueError(f"image size, latents and channels {sizes}, {chosen['channels']!r} are out of range")
    if "branches" in chosen:
        chosen["branches"] = tuple(chosen["branches"])
        chosen["channels"] = tuple(tuple(int(count) for count in channels) for channels in chosen["channels"])
        if set(chosen["branches"]) - set(BRANCHES) or len(set(chosen["branches"])) < len(chosen["branches"]):
            raise ValueError(f"the branches {chosen['branches']} are not some of {', '.join(BRANCHES)}, each once")
        if len(chosen["channels"]) != len(chosen["branches"]) or type(chosen["local_size"]) is not int:
            raise ValueError("the branches do not fit their channels and the local size")
    return module(**chosen)


@functools.lru_cache
def _shapes(network: Any, description: Any) -> Any:
    import jax

    inputs = _kinds()[kind_of(network)].inputs(network, description)
    return jax.eval_shape(network.init, jax.random.key(0), *inputs)


def _flatten(variables: Any) -> dict[str, Any]:
    from flax import traverse_util

    return traverse_util.flatten_dict(variables, sep="/")


def _sha256(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _metadata_sha256(metadata: Mapping[str, str]) -> str:
    covered = {key: value for key, value in metadata.items() if key != "metadata_sha256"}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


class _Kind(NamedTuple):
    """A kind of network: its module, the fields that define it, its description, inputs that shape its arrays."""

    module: type[Any]
    fields: tuple[str, ...]
    description: type[Any]
    inputs: Callable[[Any, Any], tuple["jax.ShapeDtypeStruct", ...]]


@functools.cache
def _kinds() -> dict[str, _Kind]:
    """Returns the kinds of network that a file may hold."""
    import jax
    import jax.numpy as jnp

    from glcic_jax.model.gans import GANS
    from glcic_jax.model.networks import CompletionNetwork, ContextDiscriminator

    def completion_inputs(network: Any, description: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        return (jax.ShapeDtypeStruct((1, 8, 8, 4), jnp.float32),)

    def discriminator_inputs(network: Any, description: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        image = jax.ShapeDtypeStruct((1, description.image_size, description.image_size, 3), jnp.float32)
        return image, jax.ShapeDtypeStruct((1, 2), jnp.int32)

    def generator_inputs(network: Any, description: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
        return (jax.ShapeDtypeStruct((1, network.latent_size), jnp.float32),)

    return {
        "completion": _Kind(
            CompletionNetwork, ("width", "layer_order", "output_activation"), Description, completion_inputs
        ),
        "context_discriminator": _Kind(
            ContextDiscriminator,
            ("branches", "local_size", "channels", "width", "layer_order"),
            Description,
            discriminator_inputs,
        ),
        **{
            f"{name}_generator": _Kind(
                gan.generator,
                ("image_size", "channels", "latent_size", "width"),
                GeneratorDescription,
                generator_inputs,
            )
            for name, gan in GANS.items()
        },
    }

"""Times each kind of convolution of the networks, forward and both gradients, or compares them with references."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from glcic_jax.benchmark.common import devices_here, load_config, print_heading, print_table
from glcic_jax.benchmark.operation_counts import nominal_flops
from glcic_jax.errors import ConfigError, as_user_error, lookup, one_line, printable
from glcic_jax.files import write_atomically
from glcic_jax.model.convolutions import WAYS, convolution, convolutions_of, upsampling_convolution
from glcic_jax.model.networks import COMPLETION_LAYERS, LAST_COMPLETION_LAYER, Layer, scaled

FUNCTIONS = ("forward", "image gradient", "kernel gradient")
_SECONDS = 0.2  # Of timed calls.
_REFERENCE_BATCH = 2
_REFERENCE_VALUES = 4096  # Of each result, at random places.


class Case(NamedTuple):
    """A layer and the images that it takes, [N, side, side, inputs]."""

    layer: Layer
    inputs: int
    side: int

    def shapes(self, batch_size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the shapes of the images and of the kernel."""
        layer = self.layer
        image = batch_size, self.side, self.side, self.inputs
        return image, (layer.kernel, layer.kernel, self.inputs, layer.features)

    def apply(self, image: jax.Array, kernel: jax.Array) -> jax.Array:
        """Runs the convolution, without bias."""
        if self.layer.name.startswith("deconv"):
            return upsampling_convolution(image, kernel)
        return convolution(image, kernel, self.layer.stride, self.layer.dilation)


def cases(config: Any) -> dict[str, Case]:
    """Returns the convolutions of C and of the global branch of D by name, such as "C.conv1"; equal ones once.

    The local branch has the same ones at half the size.
    """
    completion, side = config.completion, config.data.image_size
    layers = [layer._replace(features=scaled(layer.features, completion.width)) for layer in COMPLETION_LAYERS]
    found = _chain("C", [*layers, LAST_COMPLETION_LAYER], 4, side)
    if "global" in config.discriminator.branches:
        features = [scaled(one, config.discriminator.width) for one in config.discriminator.global_channels]
        layers = [Layer(f"conv{index}", one, kernel=5, stride=2) for index, one in enumerate(features, start=1)]
        found |= _chain("D", layers, 3, side)
    distinct = {_key(case): name for name, case in reversed(found.items())}
    return {name: case for name, case in found.items() if name in distinct.values()}


def print_layers(
    config_path: str,
    batch_size: int | None,
    dtype: str,
    layers: str | None,
    way: str | None,
    references: Path | None,
    make_references: Path | None,
) -> None:
    """Prints a row for each layer: its times, or how far it is from references.

    Args:
      config_path: Configuration that gives the sizes.
      batch_size: Images per call; None takes the configuration's.
      dtype: Type of the arithmetic to time.
      layers: Names in `cases`, comma-separated; None for all.
      way: A name in `convolutions.WAYS`; None for the device's own.
      references: A file to compare with, in float32 and bfloat16, instead of timing.
      make_references: A file to write for that on a CPU, from results in float32.

    Raises:
      ConfigError: Names or sizes do not fit; nothing has been printed then.
      DataError: The references cannot be read.
    """
    config = load_config(config_path, batch_size)
    found = cases(config)
    chosen = {name: lookup(found, name, "layer") for name in (layers.split(",") if layers else found)}
    lookup(WAYS, way or "plain", "way to convolve")
    if make_references is not None:
        results = {_key(case): _samples(case, "float32") for case in chosen.values()}
        write_atomically(make_references, safetensors.numpy.save(results))
        return
    known = _read(references, chosen) if references is not None else None
    print_heading(devices_here())
    with convolutions_of(way) if way else contextlib.nullcontext():
        if known is None:
            columns = ["layer", "output"] + [f"{name} {unit}" for name in FUNCTIONS for unit in ("ms", "TFLOP/s")]
            rows = ([name, *_times(case, config.batch_size, dtype)] for name, case in chosen.items())
        else:
            columns = ["layer", *(f"{name}, {dtype}" for dtype in ("float32", "bfloat16") for name in FUNCTIONS)]
            rows = ([name, *_differences(case, known[_key(case)])] for name, case in chosen.items())
        print_table(columns, rows)


def _chain(network: str, layers: Sequence[Layer], inputs: int, side: int) -> dict[str, Case]:
    found = {}
    for layer in layers:
        found[f"{network}.{layer.name}"] = Case(layer, inputs, side)
        inputs, side = layer.features, side * 2 if layer.name.startswith("deconv") else side // layer.stride
    return found


def _functions(case: Case) -> list[Callable[..., Any]]:
    """Returns `(image, kernel, cotangent) -> result` for each of `FUNCTIONS`, as new function objects."""

    def gradients(*arrays: jax.Array) -> Any:
        return jax.vjp(case.apply, *arrays[:2])[1](arrays[2])

    return [
        lambda image, kernel, cotangent: case.apply(image, kernel),
        lambda *arrays: gradients(*arrays)[0],
        lambda *arrays: gradients(*arrays)[1],
    ]


def _times(case: Case, batch_size: int, dtype: str) -> Iterator[str]:
    """Yields the shape of the output, and ms and TFLOP/s of each function; "fails" where the device has no way."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in case.shapes(batch_size)]
    output = jax.eval_shape(case.apply, *shapes)
    arrays = [jax.random.normal(jax.random.key(0), one.shape, one.dtype) for one in (*shapes, output)]
    yield "x".join(map(str, output.shape))
    for name, function in zip(FUNCTIONS, _functions(case), strict=True):
        try:
            seconds = _seconds(jax.jit(function), *arrays)
        except jax.errors.JaxRuntimeError as error:
            click.echo(f"{case.layer.name}, {name}: {one_line(error)}", err=True)
            yield from ("fails", "")
        else:
            yield f"{1e3 * seconds:.4g}"
            yield f"{nominal_flops(function, *arrays) / seconds / 1e12:.4g}"


def _seconds(function: Callable[..., Any], *arrays: jax.Array) -> float:
    seconds, count = 0.0, 1
    for limit in (1, 3, 1000):  # The first call compiles; the next ones show how many fit.
        count = min(limit, max(1, round(_SECONDS / seconds))) if seconds else 1
        begin = time.perf_counter()
        for _ in range(count):
            last = function(*arrays)
        last.block_until_ready()
        seconds = (time.perf_counter() - begin) / count
    return seconds


def _samples(case: Case, dtype: str) -> np.ndarray:
    """Returns some values of each result, [3, values] float32, for fixed random arguments."""
    random = np.random.default_rng(0)
    output = jax.eval_shape(
        case.apply, *(jax.ShapeDtypeStruct(one, dtype) for one in case.shapes(_REFERENCE_BATCH))
    )
    shapes = (*case.shapes(_REFERENCE_BATCH), output.shape)
    arrays = [jnp.asarray(random.standard_normal(shape, np.float32), dtype) for shape in shapes]
    functions = _functions(case)
    with jax.default_matmul_precision("highest"):  # Without TF32.
        results = jax.jit(lambda *arrays: [function(*arrays) for function in functions])(*arrays)
    flat = [np.asarray(result, np.float32).ravel() for result in results]
    return np.stack([values[random.integers(0, values.size, _REFERENCE_VALUES)] for values in flat])


def _differences(case: Case, reference: np.ndarray) -> Iterator[str]:
    """Yields the relative difference (L2) of each result in float32 and bfloat16."""
    for dtype in ("float32", "bfloat16"):
        difference = np.linalg.norm(_samples(case, dtype) - reference, axis=1) / np.linalg.norm(reference, axis=1)
        yield from (f"{value:.1e}" for value in difference)


def _key(case: Case) -> str:
    """Names a case with its sizes; the layer's number does not matter."""
    return " ".join(map(str, (*case.layer[1:], case.layer.name.startswith("deconv"), case.inputs, case.side)))


def _read(path: Path, chosen: dict[str, Case]) -> dict[str, np.ndarray]:
    with as_user_error(f"{printable(str(path))}: the references cannot be read"):
        known = safetensors.numpy.load_file(path)
    missing = [name for name, case in chosen.items() if _key(case) not in known]
    if missing:
        raise ConfigError(
            f"{printable(str(path))} has no references for {', '.join(missing)} at these sizes: "
            "make them with --make-references and the same --config"
        )
    return known

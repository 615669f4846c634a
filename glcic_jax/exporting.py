"""Programs that complete images without this package: the network with its weights, for any size.

They take

  image: [b, 4 * h, 4 * w, 3] float32 in [0, 1].
  mask: [b, 4 * h, 4 * w, 1] float32, 1 = hole.

and return the completed image, [b, 4 * h, 4 * w, 3] float32 in [0, 1], as `completion.complete` does.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from glcic_jax.completion import complete
from glcic_jax.errors import ConfigError
from glcic_jax.files import write_aside
from glcic_jax.networks import CompletionNetwork
from glcic_jax.weights import Weights

_PLATFORMS = ("cpu", "cuda")

_STABLEHLO = """\
To run it, with jax and numpy alone:

    import pathlib, jax.export
    program = jax.export.deserialize(bytearray(pathlib.Path({path!r}).read_bytes()))
    completed = program.call(image, mask)

{arguments}; on a CPU or a CUDA GPU.
Written by JAX {version}. JAX promises that versions released up to 6 months after that one, or up to 3 weeks
before it, can read it (docs.jax.dev/en/latest/export/export.html, "Compatibility guarantees"). To keep the weights
for longer: 'glcic weights export'."""

_ONNX = """\
To run it, with onnxruntime and numpy alone:

    import onnxruntime
    program = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
    (completed,) = program.run(None, {{"image": image, "mask": mask}})

{arguments}."""

_ARGUMENTS = "image [b, 4h, 4w, 3] float32 in [0, 1]; mask [b, 4h, 4w, 1] float32, 1 in the hole"


def export_stablehlo(weights: Weights, path: Path) -> str:
    """Writes a completion network as `jax.export` serialises it, aside and then renamed.

    Args:
      weights: A completion network's.
      path: The file; one that is there is replaced.

    Returns:
      How to run it, and for how long JAX promises to read it, for the person who asked for it.

    Raises:
      DataError: It cannot be written.
    """
    shapes = export.symbolic_shape("b, 4*h, 4*w")
    image, mask = (jax.ShapeDtypeStruct((*shapes, channels), jnp.float32) for channels in (3, 1))
    exported = export.export(jax.jit(_program(weights)), platforms=_PLATFORMS)(image, mask)
    write_aside(path, bytes(exported.serialize()))
    return _STABLEHLO.format(path=str(path), arguments=_ARGUMENTS, version=jax.__version__)


def export_onnx(weights: Weights, path: Path) -> str:
    """Writes a completion network as ONNX, aside and then renamed; by jax2onnx, which is an extra.

    Args, Returns, Raises: As in `export_stablehlo`; ConfigError: jax2onnx is not installed.
    """
    try:
        import jax2onnx
        import onnx
    except ImportError as error:
        raise ConfigError(
            f"ONNX needs the extra: pip install 'glcic-jax[onnx]' ({error.name} is missing)"
        ) from error
    with _quiet("onnx_ir"):
        model = jax2onnx.to_onnx(
            _program(weights),
            [("b", "4*h", "4*w", 3), ("b", "4*h", "4*w", 1)],
            input_names=["image", "mask"],
            output_names=["completed"],
        )
    # What it notes of shapes inside is wrong at some places, and a runtime may believe it.
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    write_aside(path, model.SerializeToString())
    return _ONNX.format(path=str(path), arguments=_ARGUMENTS)


def _program(weights: Weights) -> Callable[[jax.Array, jax.Array], jax.Array]:
    network, variables, description = weights
    assert isinstance(network, CompletionNetwork)

    def completed(image: jax.Array, mask: jax.Array) -> jax.Array:
        # All but the arguments become constants of the program.
        mean_pixel = jnp.asarray(description.mean_pixel, jnp.float32)
        return complete(network, variables, image, mask, mean_pixel, description.input_form)[1]

    return completed


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keeps a package's warnings, which no user can do anything about, from the terminal."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


EXPORTERS: dict[str, Callable[[Weights, Path], str]] = {"stablehlo": export_stablehlo, "onnx": export_onnx}

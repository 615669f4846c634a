"""Exports a completion network with its weights as a program that runs without this package.

The program takes an image [b, 4 * h, 4 * w, 3] and a mask [b, 4 * h, 4 * w, 1], both float32 in [0, 1], 1 in the
hole, for any b, h and w, and returns the completed image, as `networks.complete` does.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from glcic_jax.files import write_atomically
from glcic_jax.model.networks import CompletionNetwork, complete
from glcic_jax.weights.file import Weights

_PLATFORMS = ("cpu", "cuda")

_USAGE = """\
To run it, with jax and numpy alone:

    import pathlib, jax.export
    program = jax.export.deserialize(bytearray(pathlib.Path({path!r}).read_bytes()))
    completed = program.call(image, mask)

image [b, 4h, 4w, 3] float32 in [0, 1]; mask [b, 4h, 4w, 1] float32, 1 in the hole; on a CPU or a CUDA GPU.
Written by JAX {version}. JAX promises that versions released up to 6 months after it, or up to 3 weeks before it,
can read the file (docs.jax.dev/en/latest/export/export.html, "Compatibility guarantees"). To keep the weights
for longer: 'glcic weights export'."""


def export_stablehlo(weights: Weights, path: Path) -> str:
    """Writes a completion network as `jax.export` serialises it.

    Args:
      weights: Of a completion network.
      path: The file; an existing one is replaced.

    Returns:
      How to run the file, and for how long JAX promises to read it.

    Raises:
      DataError: The file cannot be written.
    """
    network, variables, description = weights
    assert isinstance(network, CompletionNetwork)

    def program(image: jax.Array, mask: jax.Array) -> jax.Array:
        # Everything but the arguments becomes a constant of the program.
        mean_pixel = jnp.asarray(description.mean_pixel, jnp.float32)
        return complete(network, variables, image, mask, mean_pixel, description.input_form)[1]

    shapes = export.symbolic_shape("b, 4*h, 4*w")
    image, mask = (jax.ShapeDtypeStruct((*shapes, channels), jnp.float32) for channels in (3, 1))
    exported = export.export(jax.jit(program), platforms=_PLATFORMS)(image, mask)
    write_atomically(path, bytes(exported.serialize()))
    return _USAGE.format(path=str(path), version=jax.__version__)


EXPORTERS: dict[str, Callable[[Weights, Path], str]] = {"stablehlo": export_stablehlo}

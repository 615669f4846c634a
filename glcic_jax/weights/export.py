"""Programs that complete images without this package: the network with its weights, for any size.

They take

  image: [b, 4 * h, 4 * w, 3] float32 in [0, 1].
  mask: [b, 4 * h, 4 * w, 1] float32, 1 = hole.

and return the completed image, [b, 4 * h, 4 * w, 3] float32 in [0, 1], as `completion.complete` does.
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

_STABLEHLO = """\
To run it, with jax and numpy alone:

    import pathlib, jax.export
    program = jax.export.deserialize(bytearray(pathlib.Path({path!r}).read_bytes()))
    completed = program.call(image, mask)

{arguments}; on a CPU or a CUDA GPU.
Written by JAX {version}. JAX promises that versions released up to 6 months after that one, or up to 3 weeks
before it, can read it (docs.jax.dev/en/latest/export/export.html, "Compatibility guarantees"). To keep the weights
for longer: 'glcic weights export'."""

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
    write_atomically(path, bytes(exported.serialize()))
    return _STABLEHLO.format(path=str(path), arguments=_ARGUMENTS, version=jax.__version__)


def _program(weights: Weights) -> Callable[[jax.Array, jax.Array], jax.Array]:
    network, variables, description = weights
    assert isinstance(network, CompletionNetwork)

    def completed(image: jax.Array, mask: jax.Array) -> jax.Array:
        # All but the arguments become constants of the program.
        mean_pixel = jnp.asarray(description.mean_pixel, jnp.float32)
        return complete(network, variables, image, mask, mean_pixel, description.input_form)[1]

    return completed


EXPORTERS: dict[str, Callable[[Weights, Path], str]] = {"stablehlo": export_stablehlo}

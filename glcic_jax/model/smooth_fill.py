"""Fills holes smoothly from the pixels around them: an approximation of Laplace's equation in few operations.

Known pixels are averaged down a pyramid until every cell has a colour. On the way back up, the unknown cells of
each level start from the coarser level's colour, and Jacobi relaxation moves them towards the mean of their
neighbours. The pyramid is that of pull-push (Gortler et al., "The Lumigraph", SIGGRAPH 1996).
"""

import jax
import jax.numpy as jnp

_SYMBOLIC_LEVELS = 12  # For images up to 4,096 px; the inside of larger holes gets the mean pixel.
# Iterations per level. More would be closer to Laplace's equation, but weight files do not record the number: a
# different number needs a new input form.
_RELAXATIONS = 24


def smooth_fill(image: jax.Array, hole: jax.Array, known: jax.Array, mean_pixel: jax.Array) -> jax.Array:
    """Fills holes with a smooth continuation of their surroundings.

    Args:
      image: [N, H, W, 3] float in [0, 1]; pixels in holes are ignored.
      hole: [N, H, W, 1] bool.
      known: [N, H, W, 1] bool, the rest of the picture. Pixels that are neither lie outside it and are ignored.
      mean_pixel: [3] float in [0, 1], the colour of an image that is all hole.

    Returns:
      [N, H, W, 3], the dtype of `image`: the image itself outside the holes.
    """
    # Selects instead of multiplying, because pixels in a hole may be NaN or Inf.
    colour = jnp.where(known, image, 0.0)
    inside = (known | hole).astype(image.dtype)
    filled = _fill(colour, known.astype(image.dtype), inside, mean_pixel, _levels(*hole.shape[1:3]))
    return jnp.where(hole, filled, image).astype(image.dtype)


def _levels(height: int, width: int) -> int:
    """How often a picture is halved until one cell is left."""
    # Sizes are symbolic in a program that is exported for pictures of any size.
    if isinstance(height, int) and isinstance(width, int):
        return (max(height, width) - 1).bit_length()
    return _SYMBOLIC_LEVELS


def _fill(colour: jax.Array, known: jax.Array, inside: jax.Array, mean_pixel: jax.Array, levels: int) -> jax.Array:
    """Fills one level.

    Args:
      colour: [N, H, W, 3], the colours of known cells, 0 elsewhere.
      known: [N, H, W, 1], 1 for known cells.
      inside: [N, H, W, 1], 1 for cells of the picture.
      mean_pixel: As in `smooth_fill`.
      levels: Number of coarser levels.
    """
    height, width = colour.shape[1:3]
    if not levels:
        return colour + (1.0 - known) * mean_pixel
    weight = _sums_of_four(known)
    scale = 1.0 / jnp.maximum(weight, 1.0)
    inside_above = jnp.minimum(_sums_of_four(inside), 1.0)
    above = _fill(_sums_of_four(colour) * scale, weight * scale, inside_above, mean_pixel, levels - 1)
    start = jnp.repeat(jnp.repeat(above, 2, axis=1), 2, axis=2)[:, :height, :width]
    neighbours = _sums_of_neighbours(inside)

    def relax(_: int, value: jax.Array) -> jax.Array:
        mean = _sums_of_neighbours(value * inside) / jnp.maximum(neighbours, 1.0)
        return colour + (1.0 - known) * jnp.where(neighbours > 0, mean, value)

    return jax.lax.fori_loop(0, _RELAXATIONS, relax, colour + (1.0 - known) * start)


def _sums_of_four(cells: jax.Array) -> jax.Array:
    """[N, H, W, C] to [N, ceil(H / 2), ceil(W / 2), C]: sums over 2x2 cells."""
    count, height, width, channels = cells.shape
    even = jnp.pad(cells, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    return even.reshape(count, (height + 1) // 2, 2, (width + 1) // 2, 2, channels).sum(axis=(2, 4))


def _sums_of_neighbours(cells: jax.Array) -> jax.Array:
    """The sum of each cell's four neighbours, which are 0 outside the image."""
    wide = jnp.pad(cells, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]

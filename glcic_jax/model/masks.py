"""Random holes, drawn on the device: a key to a mask and the local box around it.

A sampler draws one example: `sampler(key, image_size, local_size, **options)` returns `(mask, local_box)`, with
mask [H, W, 1] float32 (1 = hole, never empty) and local_box [2] int32, (top, left) of the local patch, always
inside the image. The options of each sampler are the keys of `config.mask.<sampler>`.

Reference: Iizuka et al. 2017, Sections 3.4 and 4 (rectangles); the other samplers are ours.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from glcic_jax.errors import ConfigError, lookup

Size = tuple[int, int]
Sampler = Callable[[jax.Array, Size, int], tuple[jax.Array, jax.Array]]


def random_local_box(key: jax.Array, image_size: Size, local_size: int) -> jax.Array:
    """Returns [2] int32: a local box uniform over all positions inside the image (Md in the paper)."""
    highest = jnp.array([image_size[0] - local_size, image_size[1] - local_size])
    return jax.random.randint(key, (2,), 0, highest + 1)


def _uniform_integer(key: jax.Array, bounds: tuple[int, int], shape: tuple[int, ...] = ()) -> jax.Array:
    """Uniform integers in [bounds[0], bounds[1]], both included."""
    return jax.random.randint(key, shape, bounds[0], bounds[1] + 1)


def _fill_box(image_size: Size, corner: jax.Array, sides: jax.Array) -> jax.Array:
    """[H, W] bool: the pixels of one rectangle."""
    rows = jnp.arange(image_size[0])[:, None]
    columns = jnp.arange(image_size[1])[None, :]
    inside_rows = (rows >= corner[0]) & (rows < corner[0] + sides[0])
    inside_columns = (columns >= corner[1]) & (columns < corner[1] + sides[1])
    return inside_rows & inside_columns


def _local_box_on_hole(key: jax.Array, hole: jax.Array, local_size: int) -> jax.Array:
    """[2] int32: the local box centred on a random pixel of a hole [H, W], shifted to lie inside the image."""
    chosen = jnp.argmax(jax.random.uniform(key, hole.shape, minval=0.5) * hole)
    corner = jnp.stack(jnp.divmod(chosen, hole.shape[1])).astype(jnp.int32) - local_size // 2
    return jnp.clip(corner, 0, jnp.array(hole.shape) - local_size)


def _as_mask(hole: jax.Array) -> jax.Array:
    return hole.astype(jnp.float32)[..., None]


def rectangle(
    key: jax.Array, image_size: Size, local_size: int, *, min_side: int, max_side: int
) -> tuple[jax.Array, jax.Array]:
    """One rectangle at the centre of its local box, which is uniform over all positions inside the image.

    Height and width are independent and uniform in [min_side, max_side] pixels. If a side and the local box
    differ by an odd number, the rectangle lies half a pixel above or left of the centre.

    Raises:
      ConfigError: A rectangle of max_side does not fit the local box.

    Reference: Iizuka et al. 2017, Section 4: sides in [96, 128], a 128 px patch centred on the hole.
    """
    if max_side > local_size:
        raise ConfigError(
            f"mask.rectangle.max_side is {max_side} px, larger than the local patch of {local_size} px: "
            "lower it, or raise discriminator.local_size"
        )
    place, size = jax.random.split(key)
    local_box = random_local_box(place, image_size, local_size)
    sides = _uniform_integer(size, (min_side, max_side), (2,))
    hole = _fill_box(image_size, local_box + (local_size - sides) // 2, sides)
    return _as_mask(hole), local_box


def rectangles(
    key: jax.Array, image_size: Size, local_size: int, *, count: tuple[int, int], min_side: int, max_side: int
) -> tuple[jax.Array, jax.Array]:
    """Several rectangles, each uniform over all positions inside the image; they may overlap.

    Their number is uniform in `count` (both included), their sides in [min_side, max_side] pixels. The local box
    is centred on a random pixel of the hole.

    Raises:
      ConfigError: A rectangle of max_side does not fit the image.
    """
    if max_side > min(image_size):
        raise ConfigError(
            f"mask.rectangles.max_side is {max_side} px, larger than the image of {min(image_size)} px: lower it"
        )
    number, place, size, centre = jax.random.split(key, 4)
    sides = _uniform_integer(size, (min_side, max_side), (count[1], 2))
    corners = jax.random.randint(place, sides.shape, 0, jnp.array(image_size) - sides + 1)
    boxes = jax.vmap(functools.partial(_fill_box, image_size))(corners, sides)
    drawn = jnp.arange(count[1]) < _uniform_integer(number, count)
    hole = jnp.any(boxes & drawn[:, None, None], axis=0)
    return _as_mask(hole), _local_box_on_hole(centre, hole, local_size)


def free_form(
    key: jax.Array,
    image_size: Size,
    local_size: int,
    *,
    strokes: tuple[int, int],
    vertices: tuple[int, int],
    max_length: float,
    max_turn: float,
    brush: tuple[float, float],
) -> tuple[jax.Array, jax.Array]:
    """Brush strokes along random walks, like an object painted over by hand.

    Args:
      key, image_size, local_size: As in every sampler.
      strokes: Lowest and highest number of strokes.
      vertices: Lowest and highest number of straight segments per stroke.
      max_length: Longest segment, as a fraction of the image's shorter side.
      max_turn: Largest turn between two segments, in radians.
      brush: Smallest and largest diameter of the round brush, as fractions of the shorter side.

    Returns:
      mask [H, W, 1], and local_box [2] centred on a random pixel of the hole.
    """
    shorter = min(image_size)
    limits = jnp.array(image_size, jnp.float32)
    number, *keys, centre = jax.random.split(key, strokes[1] + 2)
    rows = jnp.arange(image_size[0], dtype=jnp.float32)[:, None] + 0.5
    columns = jnp.arange(image_size[1], dtype=jnp.float32)[None, :] + 0.5

    def paint(hole: jax.Array, segment: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        start, end, radius, drawn = segment
        along = end - start
        offset_row, offset_column = rows - start[0], columns - start[1]
        nearest = (offset_row * along[0] + offset_column * along[1]) / jnp.maximum((along**2).sum(), 1e-6)
        nearest = jnp.clip(nearest, 0.0, 1.0)
        squared = (offset_row - nearest * along[0]) ** 2 + (offset_column - nearest * along[1]) ** 2
        return hole | (drawn & (squared <= radius**2)), None

    def one_stroke(stroke_key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        where, first, turn, length, many, thick = jax.random.split(stroke_key, 6)
        most = vertices[1]
        turns = jax.random.uniform(turn, (most,), minval=-max_turn, maxval=max_turn)
        angles = jax.random.uniform(first, maxval=2 * jnp.pi) + jnp.cumsum(turns)
        lengths = jax.random.uniform(length, (most,), minval=0.25, maxval=1.0) * max_length * shorter
        start = jax.random.uniform(where, (2,)) * limits
        moves = lengths[:, None] * jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        points = jnp.clip(jnp.concatenate([start[None], start + jnp.cumsum(moves, axis=0)]), 0.0, limits - 1)
        radius = jax.random.uniform(thick, minval=brush[0], maxval=brush[1]) * shorter / 2
        # At least 0.75 px, so that every stroke covers the centre of a pixel.
        radii = jnp.full((most,), jnp.maximum(radius, 0.75))
        return points[:-1], points[1:], radii, jnp.arange(most) < _uniform_integer(many, vertices)

    starts, ends, radii, drawn = jax.vmap(one_stroke)(jnp.stack(keys))
    drawn &= (jnp.arange(strokes[1]) < _uniform_integer(number, strokes))[:, None]
    segments = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (starts, ends, radii, drawn))
    # One segment at a time: all together would hold strokes * vertices images in memory.
    hole, _ = jax.lax.scan(paint, jnp.zeros(image_size, bool), segments)
    return _as_mask(hole), _local_box_on_hole(centre, hole, local_size)


def create_sampler(name: str, options: Mapping[str, Mapping[str, Any]]) -> Sampler:
    """Returns a sampler with its options bound.

    Args:
      name: A name in `SAMPLERS`, or several joined by "+" ("rectangle+free_form"): each image then uses one of
        them, with equal probability.
      options: Each sampler's keyword arguments, by its name.

    Raises:
      ConfigError: A name or an option is unknown, an option is missing, or a range is empty.
    """
    parts = [_bind(part, options) for part in name.split("+")]
    if len(parts) == 1:
        return parts[0]

    def mixture(key: jax.Array, image_size: Size, local_size: int) -> tuple[jax.Array, jax.Array]:
        choice, draw = jax.random.split(key)
        branches = [lambda k, part=part: part(k, image_size, local_size) for part in parts]
        return jax.lax.switch(jax.random.randint(choice, (), 0, len(parts)), branches, draw)

    return mixture


def hole_sides(name: str, options: Mapping[str, Mapping[str, Any]], image_size: int) -> tuple[int, int]:
    """The smallest and largest side, in pixels, of a sampler's holes; for strokes, their thickness.

    Args:
      name, options: As in `create_sampler`.
      image_size: Shorter side of the image in pixels.

    Raises:
      ConfigError: A name is unknown.
    """
    sides = [lookup(_SIDES, part, "mask sampler")(options[part], image_size) for part in name.split("+")]
    smallest, largest = zip(*sides, strict=True)
    return max(1, round(min(smallest))), max(1, round(max(largest)))


def _bind(name: str, options: Mapping[str, Mapping[str, Any]]) -> Sampler:
    sampler = lookup(SAMPLERS, name, "mask sampler")
    chosen = dict(options.get(name, {}))
    signature = inspect.signature(sampler).parameters.values()
    expected = {parameter.name for parameter in signature if parameter.kind is parameter.KEYWORD_ONLY}
    if set(chosen) != expected:
        raise ConfigError(f"mask.{name} must have exactly the keys {sorted(expected)}, not {sorted(chosen)}")
    ranges = [(key, value) for key, value in chosen.items() if isinstance(value, tuple | list)]
    if "min_side" in chosen:
        ranges.append(("min_side, max_side", (chosen["min_side"], chosen["max_side"])))
    for key, pair in ranges:
        if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
            raise ConfigError(f"mask.{name}.{key} is {tuple(pair)}: needs 0 < lowest <= highest")
    return functools.partial(sampler, **chosen)


SAMPLERS: dict[str, Callable[..., tuple[jax.Array, jax.Array]]] = {
    "rectangle": rectangle,
    "rectangles": rectangles,
    "free_form": free_form,
}

# Smallest and largest side of each sampler's holes in pixels: `(options, image size) -> (smallest, largest)`.
_SIDES: dict[str, Callable[[Mapping[str, Any], int], tuple[float, float]]] = {
    "rectangle": lambda options, size: (options["min_side"], options["max_side"]),
    "rectangles": lambda options, size: (options["min_side"], options["max_side"]),
    "free_form": lambda options, size: (options["brush"][0] * size, options["brush"][1] * size),
}

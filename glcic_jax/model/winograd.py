"""Small convolutions of stride 1 with about half the multiplications, by Winograd's minimal filtering.

F(2x2, RxR): the output is cut into tiles of 2x2 pixels, each of which sees (R + 1) x (R + 1) pixels of the input.
A tile and the kernel are transformed by additions (matrices B and G), multiplied element by element, and the
product is transformed back (matrix A): Y = A ((G k G') * (B d B')) A'. Summed over the channels, the elements are
(R + 1)^2 matrix products on a quarter of the pixels: for each pixel 4 multiplications instead of 9 where R is 3,
and 2.25 instead of 4 where it is 2.
Rounding stays that of float32 sums: every entry of A and B is 0, 1 or -1, and of G a half or a whole one.

The pixels of a tile lie `dilation` apart. An image is seen as [N, tiles, 2, dilation, tiles, 2, dilation, C], so
that a dilated convolution needs no other code, and no copy, than an ordinary one.

Reference: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", Section 4.1.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Matrix = Sequence[Sequence[float]]
Grid = list[list[jax.Array]]


class _Matrices(NamedTuple):
    of_pixels: Matrix  # B
    of_taps: Matrix  # G
    of_output: Matrix  # A


_MATRICES = {
    2: _Matrices(
        of_pixels=((1, -1, 0), (0, 1, 0), (0, -1, 1)),
        of_taps=((1, 0), (1, 1), (0, 1)),
        of_output=((1, 1, 0), (0, 1, 1)),
    ),
    3: _Matrices(
        of_pixels=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        of_taps=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        of_output=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
}


# Layers of one shape are traced and lowered once.
@functools.partial(jax.jit, static_argnums=2)
def convolve(image: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """Convolves an image padded by `dilation` on every side; all arrays float32.

    Args:
      image: [N, H, W, I].
      kernel: [R, R, I, O], R is 2 or 3.
      dilation: Distance between the kernel's taps in pixels.

    Returns:
      [N, H', W', O], where H' is H + (3 - R) * dilation, and W' likewise.
    """
    size = kernel.shape[0]
    matrices = _MATRICES[size]
    products = _each(_multiply, _transform(matrices.of_pixels, _seen(image, size, dilation)), _taps(kernel))
    output = _transform(matrices.of_output, products)
    return _from_tiles(output, *(_output_side(side, size, dilation) for side in image.shape[1:3]))


@functools.partial(jax.jit, static_argnums=3)
def image_gradient(image: jax.Array, kernel: jax.Array, cotangent: jax.Array, dilation: int) -> jax.Array:
    """The gradient of `convolve` in its image (of which only the shape is used): [N, H, W, I]."""
    size = kernel.shape[0]
    matrices = _MATRICES[size]
    products = _transform(_transposed(matrices.of_output), _own(cotangent, dilation))
    taps = [[tap.T for tap in row] for row in _taps(kernel)]
    seen = _transform(_transposed(matrices.of_pixels), _each(_multiply, products, taps))
    columns = [_gather_borders(column, axis=1) for column in zip(*seen, strict=True)]
    own = [_gather_borders(row, axis=3) for row in zip(*columns, strict=True)]
    return _from_tiles(own, *image.shape[1:3])


@functools.partial(jax.jit, static_argnums=(2, 3))
def kernel_gradient(image: jax.Array, cotangent: jax.Array, size: int, dilation: int) -> jax.Array:
    """The gradient of `convolve` in its kernel of `size` x `size` taps: [size, size, I, O]."""
    matrices = _MATRICES[size]
    pixels = _transform(matrices.of_pixels, _seen(image, size, dilation))
    products = _transform(_transposed(matrices.of_output), _own(cotangent, dilation))
    taps = _transform(_transposed(matrices.of_taps), _each(_contract, pixels, products))
    return jnp.stack([jnp.stack(row) for row in taps])


def saving(height: int, width: int, size: int, dilation: int) -> float:
    """How many times fewer multiplications there are, the padding's among them: at best 2.25 or 1.78."""
    sides = [_output_side(side, size, dilation) for side in (height, width)]
    padded = [2 * dilation * _tiles(side, dilation) for side in sides]
    return (2 * size / (size + 1)) ** 2 * sides[0] * sides[1] / (padded[0] * padded[1])


def _output_side(side: int, size: int, dilation: int) -> int:
    return side + (3 - size) * dilation


def _tiles(side: int, dilation: int) -> int:
    return -(-side // (2 * dilation))


def _seen(image: jax.Array, size: int, dilation: int) -> Grid:
    """The (size + 1) x (size + 1) pixels that each tile of the output sees."""
    tiles = [_tiles(_output_side(side, size, dilation), dilation) for side in image.shape[1:3]]
    return _pixels(image, tiles, dilation, before=1, count=size + 1)


def _own(output: jax.Array, dilation: int) -> Grid:
    """The 2x2 pixels of each tile of the output."""
    tiles = [_tiles(side, dilation) for side in output.shape[1:3]]
    return _pixels(output, tiles, dilation, before=0, count=2)


def _pixels(image: jax.Array, tiles: Sequence[int], dilation: int, before: int, count: int) -> Grid:
    """The pixel at each place of all tiles: `count` x `count` of [N, tiles, dilation, tiles, dilation, C].

    A tile begins `before` pixels (`dilation` apart) above and left of its own 2x2.
    """
    pads, blocks = [(0, 0, 0)], []
    for side, number in zip(image.shape[1:3], tiles, strict=True):
        block = number + (count - 1) // 2
        pads.append((before * dilation, 2 * dilation * block - side - before * dilation, 0))
        blocks += [block, 2, dilation]
    padded = jax.lax.pad(image, jnp.zeros((), image.dtype), [*pads, (0, 0, 0)])
    padded = padded.reshape(image.shape[0], *blocks, image.shape[-1])
    high, wide = tiles
    return [
        [
            padded[:, row // 2 : row // 2 + high, row % 2, :, column // 2 : column // 2 + wide, column % 2]
            for column in range(count)
        ]
        for row in range(count)
    ]


def _from_tiles(pixels: Grid, height: int, width: int) -> jax.Array:
    """An image [N, height, width, C] from the 2x2 pixels of its tiles, each [N, tiles, dilation, ..., C]."""
    batch, high, dilation, wide, _, channels = pixels[0][0].shape
    stacked = jnp.stack([jnp.stack(row, axis=4) for row in pixels], axis=2)
    full = stacked.reshape(batch, 2 * dilation * high, 2 * dilation * wide, channels)
    return full[:, :height, :width]


def _gather_borders(pixels: Sequence[jax.Array], axis: int) -> list[jax.Array]:
    """A tile's own two pixels from all that it sees, with what the tiles around it see of them added."""
    before, first, second, *after = pixels
    count = first.shape[axis]
    nothing = jnp.zeros_like(jax.lax.slice_in_dim(first, 0, 1, axis=axis))
    from_next = jnp.concatenate([jax.lax.slice_in_dim(before, 1, count, axis=axis), nothing], axis)
    for pixel in after:
        from_last = jnp.concatenate([nothing, jax.lax.slice_in_dim(pixel, 0, count - 1, axis=axis)], axis)
        first = first + from_last
    return [first, second + from_next]


def _taps(kernel: jax.Array) -> Grid:
    size = kernel.shape[0]
    taps = [[kernel[row, column] for column in range(size)] for row in range(size)]
    return _transform(_MATRICES[size].of_taps, taps)


def _multiply(pixel: jax.Array, tap: jax.Array) -> jax.Array:
    """[..., I] @ [I, O]."""
    return (pixel.reshape(-1, pixel.shape[-1]) @ tap).reshape(*pixel.shape[:-1], tap.shape[-1])


def _contract(pixel: jax.Array, product: jax.Array) -> jax.Array:
    """[..., I] and [..., O], summed over all that comes before, to [I, O]."""
    left, right = pixel.reshape(-1, pixel.shape[-1]), product.reshape(-1, product.shape[-1])
    return jax.lax.dot_general(left, right, (((0,), (0,)), ((), ())))


def _each(operation: Callable[[jax.Array, jax.Array], jax.Array], left: Grid, right: Grid) -> Grid:
    return [
        [operation(one, other) for one, other in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)
    ]


def _transform(matrix: Matrix, grid: Grid) -> Grid:
    """`matrix @ grid @ matrix'` over the two lists; zeros cost nothing."""
    columns = [_combine(matrix, column) for column in zip(*grid, strict=True)]
    return [_combine(matrix, row) for row in zip(*columns, strict=True)]


def _combine(matrix: Matrix, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    combined = []
    for row in matrix:
        terms = [
            array if weight == 1 else weight * array for weight, array in zip(row, arrays, strict=True) if weight
        ]
        combined.append(sum(terms[1:], terms[0]))
    return combined


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))

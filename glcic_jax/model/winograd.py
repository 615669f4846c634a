"""Small convolutions with stride 1 and about half the multiplications, by Winograd's minimal filtering.

F(2x2, RxR): the output is divided into tiles of 2x2 pixels, each of which depends on (R + 1) x (R + 1) input
pixels. Additions transform an input tile and the kernel (matrices B and G), the results are multiplied element by
element, and matrix A transforms the product back: Y = A ((G k G') * (B d B')) A'. Summed over channels, the
elements are (R + 1)^2 matrix products on a quarter of the pixels: 4 multiplications per pixel instead of 9 for R =
3, and 2.25 instead of 4 for R = 2. Rounding is that of float32 sums, because the entries of A and B are 0, 1 and
-1, and those of G at most 1.

The pixels of a tile lie `dilation` apart. An image is viewed as [N, tiles, 2, dilation, tiles, 2, dilation, C], so
a dilated convolution needs neither other code nor a copy.

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
    """Convolves an image that is padded by `dilation` on every side; all arrays are float32.

    Args:
      image: [N, H, W, I].
      kernel: [R, R, I, O] with R = 2 or 3.
      dilation: Distance between the kernel's taps in pixels.

    Returns:
      [N, H', W', O] with H' = H + (3 - R) * dilation and W' = W + (3 - R) * dilation.
    """
    size = kernel.shape[0]
    matrices = _MATRICES[size]
    products = _each(_multiply, _transform(matrices.of_pixels, _seen(image, size, dilation)), _taps(kernel))
    output = _transform(matrices.of_output, products)
    return _from_tiles(output, *(_output_side(side, size, dilation) for side in image.shape[1:3]))


@functools.partial(jax.jit, static_argnums=3)
def image_gradient(image: jax.Array, kernel: jax.Array, cotangent: jax.Array, dilation: int) -> jax.Array:
    """The gradient of `convolve` with respect to its image, [N, H, W, I]; uses only the image's shape."""
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
    """The gradient of `convolve` with respect to its kernel, [size, size, I, O]."""
    matrices = _MATRICES[size]
    pixels = _transform(matrices.of_pixels, _seen(image, size, dilation))
    products = _transform(_transposed(matrices.of_output), _own(cotangent, dilation))
    taps = _transform(_transposed(matrices.of_taps), _each(_contract, pixels, products))
    return jnp.stack([jnp.stack(row) for row in taps])


def saving(height: int, width: int, size: int, dilation: int) -> float:
    """The factor by which Winograd saves multiplications, counting padded tiles: at most 2.25 or 1.78."""
    sides = [_output_side(side, size, dilation) for side in (height, width)]
    padded = [2 * dilation * _tiles(side, dilation) for side in sides]
    return (2 * size / (size + 1)) ** 2 * sides[0] * sides[1] / (padded[0] * padded[1])


def _output_side(side: int, size: int, dilation: int) -> int:
    return side + (3 - size) * dilation


def _tiles(side: int, dilation: int) -> int:
    return -(-side // (2 * dilation))


def _seen(image: jax.Array, size: int, dilation: int) -> Grid:
    """The (size + 1) x (size + 1) input pixels of each output tile."""
    tiles = [_tiles(_output_side(side, size, dilation), dilation) for side in image.shape[1:3]]
    return _pixels(image, tiles, dilation, before=1, count=size + 1)


def _own(output: jax.Array, dilation: int) -> Grid:
    """The 2x2 pixels of each output tile."""
    tiles = [_tiles(side, dilation) for side in output.shape[1:3]]
    return _pixels(output, tiles, dilation, before=0, count=2)


def _pixels(image: jax.Array, tiles: Sequence[int], dilation: int, before: int, count: int) -> Grid:
    """For each of `count` x `count` positions in a tile, that pixel of all tiles.

    Each is [N, tiles, dilation, tiles, dilation, C]. A tile begins `before` pixels (`dilation` apart) above and
    left of its output pixels.
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
    """A tile's two output pixels, plus the contributions of the neighbouring tiles that overlap them."""
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
    """[..., I] and [..., O] to [I, O], summed over the leading dimensions."""
    left, right = pixel.reshape(-1, pixel.shape[-1]), product.reshape(-1, product.shape[-1])
    return jax.lax.dot_general(left, right, (((0,), (0,)), ((), ())))


def _each(operation: Callable[[jax.Array, jax.Array], jax.Array], left: Grid, right: Grid) -> Grid:
    return [
        [operation(one, other) for one, other in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)
    ]


def _transform(matrix: Matrix, grid: Grid) -> Grid:
    """`matrix @ grid @ matrix'` for a grid of arrays; skips zeros."""
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

"""Convolutions, and gradients of convolutions, that are fast on each platform.

Nothing outside this file depends on the platform; `WAYS` lists how each one computes:

- A CPU computes most of them with matrix products, because XLA's gradients are slow there, some of them extremely.
- An accelerator uses XLA's forward convolutions, and gradients in a form that XLA recognises as the gradient of an
  ordinary convolution. Others become convolutions whose window is as large as the image, for which cuDNN has no
  fast algorithm (jax issue 31662, xla issue 34273).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from glcic_jax.errors import lookup
from glcic_jax.model import winograd

_LAYOUT = ("NHWC", "HWIO", "NHWC")

_chosen: ContextVar[str | None] = ContextVar("_chosen", default=None)

# On a CPU, the fewest channels, by kernel size, for which Winograd pays off: below them its additions cost more
# than the multiplications that it saves. The kernel's gradient needs fewer, because XLA is slower at it, and the
# gradients of 2x2 kernels need none, because XLA is extremely slow at them.
_FORWARD_CHANNELS = {2: 64, 3: 64}
_IMAGE_GRADIENT_CHANNELS = {2: 1, 3: 64}
_KERNEL_GRADIENT_CHANNELS = {2: 1, 3: 32}
# The least saving of multiplications: small images leave much of a dilated tile empty.
_WINOGRAD_SAVING = 1.5
# With fewer channels a matrix product is too thin, and XLA's convolution is as fast.
_PRODUCT_CHANNELS = 16
# With fewer output pixels the kernel is larger than the image, and XLA's convolution repacks it too often.
_FEW_PIXELS = 1024


class Ways(NamedTuple):
    """The functions of a platform; arrays as in `convolution` and `upsampling_convolution`."""

    forward: Callable[..., jax.Array]  # (image, kernel, stride, dilation)
    gradients: Callable[..., tuple[jax.Array, jax.Array]]  # (image, kernel, cotangent, stride, dilation)
    upsample: Callable[..., jax.Array]  # (image, kernel)
    upsampling_gradients: Callable[..., tuple[jax.Array, jax.Array]]  # (image, kernel, cotangent)


@contextlib.contextmanager
def convolutions_of(name: str) -> Iterator[None]:
    """Traces convolutions in one way, whatever platform the program is lowered for.

    JAX caches traces, so `jax.jit` needs a new function object inside this context.

    Args:
      name: A name in `WAYS`: a platform, whose program can then be tested or planned on another one; or "plain",
        XLA's own convolutions and gradients, which compile fastest.
    """
    lookup(WAYS, name, "way to convolve")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution(image: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """A convolution padded by `dilation * (K // 2)` on every side, without bias; has reverse-mode gradients only.

    Args:
      image: [N, H, W, I].
      kernel: [K, K, I, O], the dtype of `image`.
      stride: Input pixels per output pixel.
      dilation: Distance between the kernel's taps in pixels.

    Returns:
      [N, H', W', O], the dtype of `image`. H' is H for odd K and stride 1, H / 2 for odd K, stride 2 and even H,
      and H + dilation for K = 2 and stride 1.

    Raises:
      ValueError: The kernel is not square, or does not fit the image's channels or dtype.
    """
    square, fitting = kernel.shape[0] == kernel.shape[1], kernel.shape[2] == image.shape[-1]
    if not (square and fitting and image.dtype == kernel.dtype):
        raise ValueError(
            f"a kernel {kernel.dtype}{list(kernel.shape)} does not fit an image {image.dtype}{list(image.shape)}"
        )
    return _run("forward", image, kernel, stride=stride, dilation=dilation)


@jax.custom_vjp
def upsampling_convolution(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 4x4 transposed convolution with stride 2, which doubles the size of its input, without bias.

    Equals `flax.linen.ConvTranspose(features, (4, 4), (2, 2), "SAME")` with the same kernel; has reverse-mode
    gradients only.

    Args:
      image: [N, H, W, I].
      kernel: [4, 4, I, O], the dtype of `image`. Torch's kernel of `ConvTranspose2d(I, O, 4, 2, 1)`, [I, O, 4, 4],
        becomes this one when transposed to [4, 4, I, O] and flipped in height and width.

    Returns:
      [N, 2H, 2W, O].
    """
    return _run("upsample", image, kernel)


def _convolution_fwd(
    image: jax.Array, kernel: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolution(image, kernel, stride, dilation), (image, kernel)


def _convolution_bwd(
    stride: int, dilation: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _run("gradients", *residuals, cotangent, stride=stride, dilation=dilation)


def _upsampling_fwd(image: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return upsampling_convolution(image, kernel), (image, kernel)


def _upsampling_bwd(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _run("upsampling_gradients", *residuals, cotangent)


convolution.defvjp(_convolution_fwd, _convolution_bwd)
upsampling_convolution.defvjp(_upsampling_fwd, _upsampling_bwd)


def _run(function: str, *operands: jax.Array, **geometry: int) -> Any:
    """Calls a function of the way that `convolutions_of` names, else of the platform that runs the program.

    Programs with symbolic sizes, for export, are plain. So is arithmetic in types other than float32 and bfloat16,
    because a CPU's products sum in float32.
    """
    sized = all(isinstance(side, int) for operand in operands for side in operand.shape)
    suits_all = sized and operands[0].dtype in (jnp.float32, jnp.bfloat16)
    chosen = _chosen.get() if suits_all else "plain"
    functions = {name: functools.partial(getattr(ways, function), **geometry) for name, ways in WAYS.items()}
    if chosen is not None:
        return functions[chosen](*operands)
    return jax.lax.platform_dependent(
        *operands, cpu=functions["cpu"], cuda=functions["cuda"], default=functions["tpu"]
    )


# XLA's own convolutions and gradients.


def _forward_by_xla(image: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    padding = dilation * (kernel.shape[0] // 2)
    return jax.lax.conv_general_dilated(
        image,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_LAYOUT,
    )


def _gradients_by_xla(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, jax.Array]:
    forward = functools.partial(_forward_by_xla, stride=stride, dilation=dilation)
    return jax.vjp(forward, image, kernel)[1](cotangent)


# The gradients on accelerators.


def _gradients_on_cuda(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, jax.Array]:
    if kernel.shape[0] % 2 == 0 or stride > 1 or dilation == 1:
        return _gradients_on_tpu(image, kernel, cotangent, stride, dilation)
    of_image = _gradients_by_xla(image, kernel, cotangent, stride, dilation)[0]
    # Pixels that are `dilation` apart form images of their own, on which the convolution is not dilated.
    image, cotangent = (_space_to_batch(array, dilation) for array in (image, cotangent))
    return of_image, _gradients_by_xla(image, kernel, cotangent, 1, 1)[1]


def _gradients_on_tpu(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, jax.Array]:
    # If the kernel is larger than the output, XLA makes other convolutions of both, of 2 to 8 times the work.
    fits = min(cotangent.shape[1:3]) >= kernel.shape[0]
    if fits or not _has_parities(image.shape, kernel.shape, stride, dilation):
        return _gradients_by_xla(image, kernel, cotangent, stride, dilation)
    of_parities, of_taps = _gradients_by_xla(_parities(image), _kernel_of_parities(kernel), cotangent, 1, 1)
    return _from_parities(of_parities), jax.linear_transpose(_kernel_of_parities, kernel)(of_taps)[0]


def _space_to_batch(image: jax.Array, block: int) -> jax.Array:
    """[N, H, W, C] to [N * block^2, H / block, W / block, C], padded with zeros to whole blocks.

    The zeros of the cotangent add nothing to the kernel's gradient, those of the image continue its padding.
    """
    batch, height, width, channels = image.shape
    rows, columns = (-(-side // block) for side in (height, width))
    margins = (0, rows * block - height), (0, columns * block - width)
    if any(after for _, after in margins):
        image = jnp.pad(image, ((0, 0), *margins, (0, 0)))
    blocks = image.reshape(batch, rows, block, columns, block, channels).transpose(0, 2, 4, 1, 3, 5)
    return blocks.reshape(batch * block**2, rows, columns, channels)


def _upsample_by_transposition(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transpose of the convolution with stride 2 that halves the output's size."""
    batch, height, width, _ = image.shape
    output = jax.ShapeDtypeStruct((batch, 2 * height, 2 * width, kernel.shape[-1]), image.dtype)
    halve = functools.partial(_halve, kernel=_reversed(kernel))
    return jax.linear_transpose(halve, output)(image)[0]


def _upsampling_gradients_by_transposition(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The halving convolution of the cotangent, and that convolution's kernel gradient with the roles swapped."""
    backwards = _reversed(kernel)
    of_kernel = jax.linear_transpose(functools.partial(_halve, cotangent), backwards)(image)[0]
    return _halve(cotangent, backwards), _reversed(of_kernel)


def _halve(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """[N, 2H, 2W, O] with a kernel [4, 4, O, I] to [N, H, W, I]."""
    return jax.lax.conv_general_dilated(image, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=_LAYOUT)


def _reversed(kernel: jax.Array) -> jax.Array:
    """Flips height and width, and swaps the channels: the inverse of itself."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


# On a CPU: the transposed convolution in sub-pixel form. Each output pixel depends on 2x2 input pixels, through
# taps that depend only on the parity of its position. One 2x2 convolution computes all four parities without
# multiplying inserted zeros.


def _upsample_by_subpixels(forward: Callable[..., jax.Array], image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Upsamples with the `forward` of a 2x2 convolution."""
    return _from_subpixels(forward(image, _kernel_of_subpixels(kernel), 1, 1))


def _upsampling_gradients_by_subpixels(
    gradients: Callable[..., tuple[jax.Array, jax.Array]],
    image: jax.Array,
    kernel: jax.Array,
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The gradients of upsampling, with the `gradients` of a 2x2 convolution."""
    batch, height, width, _ = image.shape
    subpixels = jax.ShapeDtypeStruct((batch, height + 1, width + 1, 4 * kernel.shape[-1]), cotangent.dtype)
    of_subpixels = jax.linear_transpose(_from_subpixels, subpixels)(cotangent)[0]
    of_image, of_taps = gradients(image, _kernel_of_subpixels(kernel), of_subpixels, 1, 1)
    return of_image, jax.linear_transpose(_kernel_of_subpixels, kernel)(of_taps)[0]


def _kernel_of_subpixels(kernel: jax.Array) -> jax.Array:
    """[4, 4, I, O] to [2, 2, I, 4 * O]: the tap 2 * offset + parity joins an input offset and an output parity."""
    inputs, outputs = kernel.shape[2:]
    taps = kernel.reshape(2, 2, 2, 2, inputs, outputs).transpose(0, 2, 4, 1, 3, 5)
    return taps.reshape(2, 2, inputs, 4 * outputs)


def _from_subpixels(subpixels: jax.Array) -> jax.Array:
    """[N, H + 1, W + 1, 4 * O] to [N, 2H, 2W, O]."""
    batch, height, width, channels = subpixels.shape
    height, width, outputs = height - 1, width - 1, channels // 4
    parities = subpixels.reshape(batch, height + 1, width + 1, 2, 2, outputs)
    # An odd row (or column) lies half an input pixel after the even one before it.
    rows = [jnp.stack([parities[:, p : p + height, q : q + width, p, q] for q in (0, 1)], axis=3) for p in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, outputs)


# On a CPU: convolutions and gradients.


def _forward_on_cpu(image: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    result = _plain_forward_on_cpu(image.astype(jnp.float32), kernel.astype(jnp.float32), stride, dilation)
    return result.astype(image.dtype)


def _plain_forward_on_cpu(image: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    if _suits_winograd(image.shape, kernel.shape, stride, dilation, _FORWARD_CHANNELS):
        return winograd.convolve(image, kernel, dilation)
    if _has_few_pixels(image.shape, stride) and _suits_products(kernel.shape):
        return _product_of_patches(image, kernel, stride, dilation)
    return _forward_by_xla(image, kernel, stride, dilation)


def _gradients_on_cpu(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, jax.Array]:
    dtype = image.dtype
    image, kernel, cotangent = (array.astype(jnp.float32) for array in (image, kernel, cotangent))
    of_image = _image_gradient(image, kernel, cotangent, stride, dilation)
    of_kernel = _kernel_gradient(image, kernel, cotangent, stride, dilation)
    return of_image.astype(dtype), of_kernel.astype(dtype)


def _image_gradient(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int, dilation: int
) -> jax.Array:
    if _suits_winograd(image.shape, kernel.shape, stride, dilation, _IMAGE_GRADIENT_CHANNELS):
        return winograd.image_gradient(image, kernel, cotangent, dilation)
    if _suits_parities(image.shape, kernel.shape, stride, dilation):
        gradient = winograd.image_gradient(_parities(image), _kernel_of_parities(kernel), cotangent, 1)
        return _from_parities(gradient)
    if (stride > 1 or _has_few_pixels(image.shape, stride)) and _suits_products(kernel.shape):
        product = functools.partial(_product_of_patches, kernel=kernel, stride=stride, dilation=dilation)
        return jax.linear_transpose(product, image)(cotangent)[0]
    # XLA is several times slower if the number of channels that it sums over is not a multiple of four.
    kernel, cotangent = (_with_channels_in_fours(array) for array in (kernel, cotangent))
    return _gradients_by_xla(image, kernel, cotangent, stride, dilation)[0]


def _kernel_gradient(
    image: jax.Array, kernel: jax.Array, cotangent: jax.Array, stride: int, dilation: int
) -> jax.Array:
    if _suits_winograd(image.shape, kernel.shape, stride, dilation, _KERNEL_GRADIENT_CHANNELS):
        return winograd.kernel_gradient(image, cotangent, kernel.shape[0], dilation)
    if _suits_parities(image.shape, kernel.shape, stride, dilation):
        gradient = winograd.kernel_gradient(_parities(image), cotangent, 3, 1)
        return jax.linear_transpose(_kernel_of_parities, kernel)(gradient)[0]
    if (stride > 1 or _has_few_pixels(image.shape, stride)) and _suits_products(kernel.shape):
        product = functools.partial(_product_of_patches, image, stride=stride, dilation=dilation)
        return jax.linear_transpose(product, kernel)(cotangent)[0]
    return _gradients_by_xla(image, kernel, cotangent, stride, dilation)[1]


def _suits_winograd(
    image: tuple[int, ...], kernel: tuple[int, ...], stride: int, dilation: int, least_channels: Mapping[int, int]
) -> bool:
    if stride != 1 or kernel[0] not in least_channels or min(kernel[2:]) < least_channels[kernel[0]]:
        return False
    return winograd.saving(image[1], image[2], kernel[0], dilation) >= _WINOGRAD_SAVING


def _suits_products(kernel: tuple[int, ...]) -> bool:
    return min(kernel[2:]) >= _PRODUCT_CHANNELS


def _has_few_pixels(image: tuple[int, ...], stride: int) -> bool:
    return image[0] * image[1] * image[2] < _FEW_PIXELS * stride**2


def _with_channels_in_fours(array: jax.Array) -> jax.Array:
    missing = -array.shape[-1] % 4
    return jnp.pad(array, ((0, 0), (0, 0), (0, 0), (0, missing))) if missing else array


def _product_of_patches(image: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """The convolution as one matrix product, without the taps that see only padding."""
    batch, height, width, inputs = image.shape
    size, outputs = kernel.shape[0], kernel.shape[-1]
    pad = dilation * (size // 2)
    padded = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    # Distance between the first and the last output pixel, in pixels of the padded image.
    high, wide = (side + 2 * pad - dilation * (size - 1) - 1 for side in (height, width))
    seen, taps = [], []
    for index in range(size**2):
        top, left = dilation * (index // size), dilation * (index % size)
        if top + high < pad or left + wide < pad or top >= pad + height or left >= pad + width:
            continue
        stop = batch, top + high + 1, left + wide + 1, inputs
        seen.append(jax.lax.slice(padded, (0, top, left, 0), stop, (1, stride, stride, 1)))
        taps.append(index)
    patches = jnp.concatenate(seen, axis=-1)
    matrix = kernel.reshape(size**2, inputs, outputs)
    if len(taps) < size**2:
        matrix = matrix[jnp.array(taps)]
    product = patches.reshape(-1, patches.shape[-1]) @ matrix.reshape(-1, outputs)
    return product.reshape(*patches.shape[:-1], outputs)


def _suits_parities(image: tuple[int, ...], kernel: tuple[int, ...], stride: int, dilation: int) -> bool:
    return (
        _has_parities(image, kernel, stride, dilation)
        and _suits_products(kernel)
        and not _has_few_pixels(image, stride)
    )


# A 5x5 convolution with stride 2 as a 3x3 one with stride 1 at half the size.


def _has_parities(image: tuple[int, ...], kernel: tuple[int, ...], stride: int, dilation: int) -> bool:
    even = image[1] % 2 == 0 and image[2] % 2 == 0
    return kernel[0] == 5 and stride == 2 and dilation == 1 and even


def _parities(image: jax.Array) -> jax.Array:
    """[N, H, W, I] to [N, H / 2, W / 2, 4 * I]: even and odd rows and columns as channels (space to depth)."""
    batch, height, width, channels = image.shape
    pairs = image.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return pairs.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)


def _from_parities(parities: jax.Array) -> jax.Array:
    """The inverse of `_parities`."""
    batch, height, width, channels = parities.shape
    pairs = parities.reshape(batch, height, width, 2, 2, channels // 4)
    return pairs.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)


def _kernel_of_parities(kernel: jax.Array) -> jax.Array:
    """[5, 5, I, O] to [3, 3, 4 * I, O]; odd rows and columns have two taps, padded to three."""
    inputs, outputs = kernel.shape[2:]
    pairs = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0))).reshape(3, 2, 3, 2, inputs, outputs)
    return pairs.transpose(0, 2, 1, 3, 4, 5).reshape(3, 3, 4 * inputs, outputs)


_CUDA = Ways(
    _forward_by_xla, _gradients_on_cuda, _upsample_by_transposition, _upsampling_gradients_by_transposition
)

WAYS = {
    "cpu": Ways(
        _forward_on_cpu,
        _gradients_on_cpu,
        functools.partial(_upsample_by_subpixels, _forward_on_cpu),
        functools.partial(_upsampling_gradients_by_subpixels, _gradients_on_cpu),
    ),
    "cuda": _CUDA,
    "tpu": _CUDA._replace(gradients=_gradients_on_tpu),  # And any other accelerator.
    "plain": Ways(
        _forward_by_xla,
        _gradients_by_xla,
        functools.partial(_upsample_by_subpixels, _forward_by_xla),
        functools.partial(_upsampling_gradients_by_subpixels, _gradients_by_xla),
    ),
}

"""Convolutions that are fast on each platform.

Accelerators use XLA's convolutions. On a CPU XLA's gradients of convolutions are slow, some of them extremely, so
there most convolutions and gradients are computed with matrix products.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

import jax
import jax.numpy as jnp

from glcic_jax.model import winograd

_LAYOUT = ("NHWC", "HWIO", "NHWC")

_as_on_accelerators: ContextVar[bool] = ContextVar("_as_on_accelerators", default=False)

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


@contextlib.contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Traces convolutions as for an accelerator, to plan memory and arithmetic on a CPU.

    JAX caches traces, so `jax.jit` needs a new function object inside this context.
    """
    token = _as_on_accelerators.set(True)
    try:
        yield
    finally:
        _as_on_accelerators.reset(token)


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
    forward = functools.partial(_forward_by_xla, stride=stride, dilation=dilation)
    if not _may_use_cpu_algorithm(image):
        return forward(image, kernel)
    on_cpu = functools.partial(_forward_on_cpu, stride=stride, dilation=dilation)
    return jax.lax.platform_dependent(image, kernel, cpu=on_cpu, default=forward)


def upsampling_convolution(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 4x4 transposed convolution with stride 2, which doubles the size of its input, without bias.

    Equals `flax.linen.ConvTranspose(features, (4, 4), (2, 2), "SAME")` with the same kernel, in sub-pixel form:
    each output pixel depends on 2x2 input pixels, through taps that depend only on the parity of its position. One
    2x2 convolution computes all four parities without multiplying inserted zeros.

    Args:
      image: [N, H, W, I].
      kernel: [4, 4, I, O], the dtype of `image`. Torch's kernel of `ConvTranspose2d(I, O, 4, 2, 1)`, [I, O, 4, 4],
        becomes this one when transposed to [4, 4, I, O] and flipped in height and width.

    Returns:
      [N, 2H, 2W, O].
    """
    batch, height, width, inputs = image.shape
    outputs = kernel.shape[-1]
    # The kernel's tap 2 * offset + parity connects an input offset to an output parity.
    taps = kernel.reshape(2, 2, 2, 2, inputs, outputs).transpose(0, 2, 4, 1, 3, 5)
    parities = convolution(image, taps.reshape(2, 2, inputs, 4 * outputs))
    parities = parities.reshape(batch, height + 1, width + 1, 2, 2, outputs)
    # An odd row (or column) lies half an input pixel after the even one before it.
    rows = [jnp.stack([parities[:, p : p + height, q : q + width, p, q] for q in (0, 1)], axis=3) for p in (0, 1)]
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, outputs)


def _convolution_fwd(
    image: jax.Array, kernel: jax.Array, stride: int, dilation: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolution(image, kernel, stride, dilation), (image, kernel)


def _convolution_bwd(
    stride: int, dilation: int, residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    by_xla = functools.partial(_gradients_by_xla, stride=stride, dilation=dilation)
    if not _may_use_cpu_algorithm(cotangent):
        return by_xla(*residuals, cotangent)
    on_cpu = functools.partial(_gradients_on_cpu, stride=stride, dilation=dilation)
    return jax.lax.platform_dependent(*residuals, cotangent, cpu=on_cpu, default=by_xla)


convolution.defvjp(_convolution_fwd, _convolution_bwd)


def _may_use_cpu_algorithm(image: jax.Array) -> bool:
    """Whether a CPU may use its own algorithm; not in programs that are exported with symbolic sizes."""
    narrow = image.dtype in (jnp.float32, jnp.bfloat16)  # Winograd and the products sum in float32.
    return narrow and not _as_on_accelerators.get() and all(isinstance(side, int) for side in image.shape)


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
    """Whether to compute a 5x5 convolution with stride 2 as a 3x3 one with stride 1 at half the size."""
    even = image[1] % 2 == 0 and image[2] % 2 == 0
    fits = kernel[0] == 5 and stride == 2 and dilation == 1 and even and _suits_products(kernel)
    return fits and not _has_few_pixels(image, stride)


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

"""What a device reaches at most: the rate of a matrix product, and of copying memory."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from glcic_jax.benchmark.common import devices_here, print_heading, print_table

_PRODUCTS = 20
_COPIES = 20


def print_ceilings(matrix_side: int | None, copy_mib: int | None) -> None:
    """Prints the rates of a bfloat16 and a float32 matrix product, and of a copy.

    Args:
      matrix_side: Side of the matrices; None: 8192 on an accelerator, 1024 on a CPU.
      copy_mib: Size of the array to copy in MiB; None: 4096 on an accelerator, 128 on a CPU.
    """
    import jax

    on_cpu = jax.default_backend() == "cpu"
    side, size = matrix_side or (1024 if on_cpu else 8192), copy_mib or (128 if on_cpu else 4096)
    print_heading(devices_here())

    def rows() -> Iterator[list[str]]:
        for dtype in ("bfloat16", "float32"):
            yield [f"{dtype} product", f"{matrix_rate(side, dtype):.4g}", "TFLOP/s"]
        yield ["copy", f"{copy_rate(size):.4g}", "GB/s"]

    print_table(["ceiling", "rate", "unit"], rows())


def matrix_rate(side: int, dtype: str) -> float:
    """Returns the TFLOP/s, over all devices, of the product of two square matrices.

    Args:
      side: Side of the matrices, which are random: constant ones draw less power and are multiplied faster.
      dtype: "float32" (TF32 where the device and JAX's settings say so) or "bfloat16".
    """
    import jax

    left, right = (jax.random.normal(jax.random.key(seed), (side, side), dtype) for seed in (0, 1))
    product = jax.jit(lambda left, right: left @ right)
    return jax.device_count() * 2 * side**3 / _seconds(product, left, right, count=_PRODUCTS) / 1e12


def copy_rate(mib: int) -> float:
    """Returns the GB/s of one device that reads and writes an array, both counted.

    Args:
      mib: Size of the array in MiB.
    """
    import jax
    import jax.numpy as jnp

    array = jax.random.bits(jax.random.key(0), (mib * 2**20 // 4,), jnp.uint32)
    # XLA would hand the argument on instead of copying it unchanged.
    return 2 * array.nbytes / _seconds(jax.jit(jnp.invert), array, count=_COPIES) / 1e9


def _seconds(function: Callable[..., Any], *arguments: Any, count: int) -> float:
    """Returns the seconds of a call, after two untimed ones."""
    for _ in range(2):
        function(*arguments).block_until_ready()
    begin = time.perf_counter()
    for _ in range(count):
        last = function(*arguments)
    last.block_until_ready()
    return (time.perf_counter() - begin) / count

"""Counts the operations of a step's matrix products and convolutions, independently of their algorithms.

They are counted in the traced program with plain convolutions, so that rates of different devices compare: their
own ways may take fewer operations, or more. XLA's own count takes the most expensive branch of a
condition and one iteration of a loop; here a condition counts as its cheapest branch, which never flatters a rate,
and a loop as all its iterations.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

from glcic_jax.model.convolutions import convolutions_of

Equation = Any


def nominal_flops(step: Callable[..., Any], state: Any, batch: Any, key: Any) -> int:
    """Counts the multiplications and additions of matrix products and convolutions.

    Products with padding or with the zeros of a dilation are not counted, nor is anything elementwise: a hundredth
    at the paper's sizes.

    Args:
      step: `(state, batch, key) -> anything`, or any function of three arguments.
      state, batch, key: Its arguments, or their shapes (`jax.eval_shape`). A state that accumulates gradients
        counts as one that does not.

    Returns:
      Floating-point operations; a multiplication and an addition are two.
    """
    spec = getattr(state, "spec", None)
    if spec is not None:
        state = state.replace(spec=dataclasses.replace(spec, accumulation=1))
    with convolutions_of("plain"):  # A new function object, because JAX caches traces.
        program = jax.make_jaxpr(lambda *arguments: step(*arguments))(state, batch, key).jaxpr  # noqa: PLW0108
    # The pullback of a convolution is traced for both gradients and the output; unused results are not computed.
    program, _ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    return _count(program)


def _count(program: Any) -> int:
    total = 0
    for equation in program.eqns:
        name, parts = equation.primitive.name, list(_subprograms(equation))
        counts = [_count(part) for part in parts]
        if name == "cond":
            total += min(counts)
        elif name == "scan":
            total += equation.params["length"] * sum(counts)
        else:
            total += sum(counts) if parts else _flops(equation)
    return total


def _subprograms(equation: Equation) -> Iterator[Any]:
    """Yields the programs that an equation calls; `jit`, `cond`, `scan` and `custom_vjp` name them differently."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            program = getattr(one, "jaxpr", one)
            if hasattr(program, "eqns"):
                yield program


def _flops(equation: Equation) -> int:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if equation.primitive.name == "conv_general_dilated":
        return _convolution_flops(equation)
    return 0


def _convolution_flops(equation: Equation) -> int:
    numbers = equation.params["dimension_numbers"]
    image, kernel = (variable.aval.shape for variable in equation.invars[:2])
    output = equation.outvars[0].aval.shape
    pairs = 1
    for axis, (low, _) in enumerate(equation.params["padding"]):
        pairs *= _pairs(
            image[numbers.lhs_spec[2 + axis]],
            kernel[numbers.rhs_spec[2 + axis]],
            output[numbers.out_spec[2 + axis]],
            low,
            equation.params["window_strides"][axis],
            equation.params["lhs_dilation"][axis],
            equation.params["rhs_dilation"][axis],
        )
    # The kernel's input features are those of one feature group; each batch group yields its share of the outputs.
    examples = image[numbers.lhs_spec[0]] // equation.params["batch_group_count"]
    return 2 * pairs * examples * kernel[numbers.rhs_spec[0]] * kernel[numbers.rhs_spec[1]]


def _pairs(size: int, taps: int, outputs: int, low: int, stride: int, spread: int, dilation: int) -> int:
    """Counts, along one axis, the pairs of an output and a tap that meet a pixel, not padding or a gap."""
    place = np.arange(outputs)[:, None] * stride + np.arange(taps)[None, :] * dilation - low
    return int(np.count_nonzero((place >= 0) & (place <= (size - 1) * spread) & (place % spread == 0)))

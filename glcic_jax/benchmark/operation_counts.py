"""What a step costs whatever computes it: the arithmetic of its products, and the bytes that devices exchange.

Counted in the traced program, and as an accelerator would run it: how a CPU computes a convolution may take fewer
operations, or more, and rates are to be comparable. XLA's own count takes the dearest branch of a condition and
one turn of a loop; here a condition counts as its cheapest branch, which never flatters a rate, and a loop as all
its turns.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

_PLATFORM = "cuda"

Equation = Any
Cost = Callable[[Equation], int]


def nominal_flops(step: Callable[..., Any], state: Any, batch: Any, key: Any) -> int:
    """Counts the multiplications and additions of a step's matrix products and convolutions.

    What is multiplied with padding or with zeros between pixels is not counted, nor is anything elementwise: at
    the paper's sizes a hundredth.

    Args:
      step: `(state, batch, key) -> anything`, or any function of three arguments.
      state, batch, key: Its arguments, or their shapes (`jax.eval_shape`). A state whose spec works through the
        batch in parts is counted as one that does not.

    Returns:
      Floating-point operations, a multiplication and an addition being two.
    """
    spec = getattr(state, "spec", None)
    if spec is not None:
        state = state.replace(spec=dataclasses.replace(spec, accumulation=1))
    program = jax.make_jaxpr(step)(state, batch, key).jaxpr
    # A convolution's way back is traced for both gradients and with the result once more; what is not used is not
    # computed.
    program, _ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    return _count(program, _flops)


def exchanged(step: Callable[..., Any], state: Any, batch: Any, key: Any) -> tuple[int, int]:
    """Counts what a step that `devices.parallel` has mapped sums over the devices.

    Args:
      step: The mapped step.
      state, batch, key: Its arguments, or their shapes.

    Returns:
      The number of all-reduces, and the bytes of one device that go into them.
    """
    program = jax.make_jaxpr(step)(state, batch, key).jaxpr
    return _count(program, lambda equation: int(_sums(equation))), _count(program, _summed_bytes)


def _count(program: Any, cost: Cost) -> int:
    total = 0
    for equation in program.eqns:
        name, parts = equation.primitive.name, list(_programs_in(equation))
        costs = [_count(part, cost) for part in parts]
        if name == "cond":
            platforms = equation.params.get("branches_platforms")
            total += costs[_branch(platforms)] if platforms else min(costs)
        elif name == "scan":
            total += equation.params["length"] * sum(costs)
        else:
            total += sum(costs) if parts else cost(equation)
    return total


def _branch(platforms: tuple[tuple[str, ...] | None, ...]) -> int:
    """Which branch of `lax.platform_dependent` an accelerator takes; None is the one for all others."""
    named = [index for index, names in enumerate(platforms) if names and _PLATFORM in names]
    return named[0] if named else platforms.index(None)


def _programs_in(equation: Equation) -> Iterator[Any]:
    """The programs that an equation calls: of `jit`, `cond`, `scan`, `custom_vjp` ... each under its own name."""
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
    # The kernel's input features are those of one group; of batch groups each makes its share of the features.
    examples = image[numbers.lhs_spec[0]] // equation.params["batch_group_count"]
    return 2 * pairs * examples * kernel[numbers.rhs_spec[0]] * kernel[numbers.rhs_spec[1]]


def _pairs(size: int, taps: int, outputs: int, low: int, stride: int, spread: int, dilation: int) -> int:
    """Along one axis, how many pairs of an output and a tap meet a pixel, and neither padding nor a gap."""
    place = np.arange(outputs)[:, None] * stride + np.arange(taps)[None, :] * dilation - low
    return int(np.count_nonzero((place >= 0) & (place <= (size - 1) * spread) & (place % spread == 0)))


def _sums(equation: Equation) -> bool:
    return equation.primitive.name.startswith("psum")


def _summed_bytes(equation: Equation) -> int:
    if not _sums(equation):
        return 0
    return sum(variable.aval.size * variable.aval.dtype.itemsize for variable in equation.invars)

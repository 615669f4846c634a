"""Reads the text of an optimised XLA program: convolutions, arrays in memory, collectives."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# They make no array of their own, or only the arrays of the computation that they call.
_WITHOUT_MEMORY = (
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "conditional",
    "call",
)

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,]*)\]")
_FUSED = re.compile(r" fusion\(.* calls=%?([\w.\-]+)")
_OPERAND = re.compile(r"%?([A-Za-z_][\w.\-]*)")
_WINDOW = re.compile(r"window=\{size=([\dx]+)")
_SOURCE = re.compile(r'op_name="([^"]*)"')


class Array(NamedTuple):
    """The type of an array, e.g. ("bf16", (96, 64, 64, 256))."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in memory, without padding."""
        bits = re.search(r"\d+", self.dtype)
        return self.elements * (int(bits[0]) if bits else 8) // 8


class Instruction(NamedTuple):
    """An instruction of a program.

    Attributes:
      opcode: E.g. "fusion".
      results: Its arrays; several for a tuple.
      operands: Names of instructions of the same computation.
      fused: Whether it is part of a fusion, so that its results are not in memory.
      text: Its line.
    """

    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    fused: bool
    text: str

    @property
    def source(self) -> str:
        """The end of the path of the JAX operation that it comes from."""
        found = _SOURCE.search(self.text)
        return "/".join(found[1].split("/")[-4:]) if found else ""


Program = list[dict[str, Instruction]]  # For each computation its instructions by name.


class Convolution(NamedTuple):
    """A convolution.

    Attributes:
      dtype: Of the first operand, e.g. "bf16".
      window: Height and width, in pixels.
      result: Its result.
      source: As in `Instruction`.
    """

    dtype: str
    window: tuple[int, ...]
    result: Array
    source: str


def read(text: str) -> Program:
    """Reads `compiled.as_text()`."""
    fused = set(_FUSED.findall(text))
    computations: Program = []
    inside_fusion = False
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            inside_fusion = header[1] in fused
            computations.append({})
        elif computations and (found := _INSTRUCTION.match(line)):
            name, result, opcode, rest = found.groups()
            operands = tuple(_OPERAND.findall(re.sub(r"\w+\[[^]]*\](\{[^}]*\})?", "", rest.partition(")")[0])))
            computations[-1][name] = Instruction(opcode, _arrays(result), operands, inside_fusion, line.strip())
    return computations


def convolutions(program: Program) -> Iterator[Convolution]:
    """Yields convolutions with a window, cuDNN's or XLA's; those without one are matrix products."""
    for computation in program:
        for instruction in computation.values():
            window = _WINDOW.search(instruction.text)
            cudnn = instruction.opcode == "custom-call" and '"__cudnn$conv' in instruction.text
            if window and (cudnn or instruction.opcode == "convolution"):
                operand = computation.get(instruction.operands[0])
                first = operand.results[0] if operand else _arrays(instruction.text.partition("(")[2])[0]
                sides = tuple(map(int, window[1].split("x")))
                yield Convolution(first.dtype, sides, instruction.results[0], instruction.source)


def arrays_in_memory(program: Program) -> Iterator[tuple[Array, str]]:
    """Yields the arrays that instructions write to memory, with their sources."""
    for computation in program:
        for instruction in computation.values():
            if not instruction.fused and instruction.opcode not in _WITHOUT_MEMORY:
                for array in instruction.results:
                    yield array, instruction.source


def collectives(program: Program) -> list[int]:
    """Returns the bytes of each collective: the arrays that one device gives to it."""
    starts = {name + suffix for name in _COLLECTIVES for suffix in ("", "-start")}
    found = []
    for computation in program:
        for instruction in computation.values():
            if instruction.opcode in starts:
                operands = [computation[name].results for name in instruction.operands if name in computation]
                found.append(sum(array.bytes for arrays in operands for array in arrays))
    return found


def _arrays(text: str) -> tuple[Array, ...]:
    found = _ARRAY.findall(text)
    return tuple(Array(dtype, tuple(int(side) for side in sides.split(",") if side)) for dtype, sides in found)

"""Reads the pickles inside PyTorch's files without running anything.

A pickle is a program. Python's own machine for it calls what the program names, and can be made to fill the
memory or to crash even where every name is refused (a memo of a high number, a key of deeply nested tuples).
This one knows only what weights need: it builds dicts, lists and tensors, puts `Unread` where a checkpoint
holds something harmless that is no weight, and refuses all other names.
"""

import io
import pickletools
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from glcic_jax.weights.foreign.tensors import strided

# A checkpoint of a network of this size takes some ten thousand.
_MOST_OPERATIONS = 1_000_000
# Larger numbers may all have one hash: a dict of them takes time squared.
_LARGEST_KEY = 1 << 60
# Generators of random numbers hold ones of 128 bits. Reckoning with a number of megabytes takes minutes.
_LONGEST_NUMBER = 1024


class Unread(NamedTuple):
    """Stands where a file holds something that is neither a tensor nor a plain value.

    Attributes:
      name: Of its class or function.
    """

    name: str


def unpickle(file: io.BytesIO, storage: Callable[[Any], Any]) -> Any:
    """Reads one pickle.

    Args:
      file: Is left behind the pickle's end.
      storage: From what a pickle says of a storage (a tuple; the type as its name in `STORAGES`) to an array [N]
        of it, or to `Unread`: then tensors become that too.

    Returns:
      Dicts (keys str or int; others are left out), lists, tuples, plain values, NumPy arrays and `Unread`.

    Raises:
      ValueError: It is damaged, or names something that is no part of weights.
    """
    machine = _Machine(storage)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of strings with unknown escapes.
            for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
                if count > _MOST_OPERATIONS:
                    raise ValueError("a pickle too long for one of weights")
                if operation.name == "STOP":
                    break
                machine.do(operation.name, argument)
        return machine.pop()
    except (IndexError, KeyError, TypeError, OverflowError) as error:
        raise ValueError("a damaged pickle") from error


class _Machine:
    def __init__(self, storage: Callable[[Any], Any]):
        self._storage = storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0

    def pop(self) -> Any:
        return self._stack.pop()

    def do(self, name: str, argument: Any) -> None:
        """Runs one operation, under its name in pickletools."""
        if name in _PUSHES:
            if isinstance(argument, int) and argument.bit_length() > _LONGEST_NUMBER:
                raise ValueError(f"a number of more than {_LONGEST_NUMBER:,} bits, which no weights need")
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _CONTAINERS:
            self._stack.append(_CONTAINERS[name](self._above_mark()))
        elif name in _TUPLES:
            self._stack.append(tuple([self.pop() for _ in range(_TUPLES[name])][::-1]))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the operation {name} in its pickle, which no weights need")

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _above_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _pop_mark(self, _: Any) -> None:
        self._above_mark()

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _append(self, _: Any) -> None:
        self._extend([self.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._above_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)
        elif not isinstance(self._stack[-1], Unread):
            raise TypeError

    def _set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._update([key, value])

    def _set_items(self, _: Any) -> None:
        self._update(self._above_mark())

    def _update(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], dict):
            self._stack[-1].update(_dict(items))
        elif not isinstance(self._stack[-1], Unread):
            raise TypeError

    def _global(self, argument: str) -> None:
        self._stack.append(named(argument.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        # Others are not even shown: a tuple of tuples may be endless to write.
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        self._stack.append(named(f"{module}.{name}"))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        self._stack.append(self._call(function, arguments))

    def _new_object_with_keywords(self, _: Any) -> None:
        self.pop()
        self._reduce(None)

    def _old_object(self, argument: str | None) -> None:
        items = self._above_mark()
        function = named(argument.replace(" ", ".")) if argument else items.pop(0)
        self._stack.append(self._call(function, tuple(items)))

    def _build(self, _: Any) -> None:
        # The state of an object: none that is understood has one that matters.
        self.pop()

    def _persistent(self, argument: str | None) -> None:
        said = argument if argument is not None else self.pop()
        if not isinstance(said, tuple) or not 2 <= len(said) <= 6 or not isinstance(said[1], Name):
            raise ValueError("something kept outside its pickle that is no storage")
        kind, typed, *rest = said
        storage = storage_type(typed.name)
        if kind != "storage" or not storage:
            raise ValueError(f"something kept outside its pickle that is no storage ({typed.name[:80]})")
        self._stack.append(self._storage((storage, *rest)))

    def _call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Name) and function.name == FROM_TYPE:
            # A subclass's tensor: the call that makes a plain one is in it. One within another is `Unread`.
            function, arguments = arguments[0], arguments[2]
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise TypeError
        name = function.name
        check_call(name, arguments)
        if name in TENSORS:
            view, offset, shape, strides = arguments[:4]
            return view if isinstance(view, Unread) else strided(view, offset, shape, strides)
        if name in PARAMETERS or name == SIZE:
            return arguments[0]
        if name in DICTS:
            return self._filled(arguments[0] if arguments else [])
        return Unread(name)

    def _filled(self, pairs: Any) -> dict[Any, Any]:
        """A dict from what one is made of; a defaultdict is made of nothing that counts."""
        if not isinstance(pairs, list):
            return {}
        # One list may be named often, at a byte each time.
        self._copied += len(pairs)
        if self._copied > _MOST_OPERATIONS:
            raise ValueError("a pickle too long for one of weights")
        return _dict([part for key, value in pairs for part in (key, value)])


def _dict(items: list[Any]) -> dict[Any, Any]:
    """Keys and values by turns. Names and small numbers alone: other keys may not hash, or only slowly."""
    pairs = zip(items[::2], items[1::2], strict=True)
    return {
        key: value
        for key, value in pairs
        if isinstance(key, str) or (isinstance(key, int) and abs(key) < _LARGEST_KEY)
    }


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._duplicate,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "ADDITEMS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "NEWOBJ_EX": _Machine._new_object_with_keywords,
    "INST": _Machine._old_object,
    "OBJ": _Machine._old_object,
    "BUILD": _Machine._build,
    "PERSID": _Machine._persistent,
    "BINPERSID": _Machine._persistent,
}
_PUSHES = frozenset(
    {
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,  # Sets hash what is in them; nothing is looked up in these.
}
_CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": list,
    "TUPLE": tuple,
    "DICT": _dict,
    "FROZENSET": list,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


# What PyTorch calls a storage, and NumPy's type. bfloat16 is unknown to NumPy: the upper half of a float32.
STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
    "UntypedStorage": "u1",
}
_STORAGE = re.compile(rf"torch\.(?:cuda\.|storage\.)?({'|'.join(STORAGES)})")
# As torch.float32 and torch.float8_e4m3fn.
_DTYPE = re.compile(r"torch\.(?:float|bfloat|u?int|complex)\d+(?:_\w+)?|torch\.bool")

TENSORS = frozenset({"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"})
PARAMETERS = frozenset({"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"})
FROM_TYPE = "torch._tensor._rebuild_from_type_v2"
SIZE = "torch.Size"
DICTS = frozenset(
    {
        *("collections.OrderedDict", "collections.defaultdict", "collections.Counter"),
        *("builtins.dict", "__builtin__.dict", "addict.addict.Dict", "mmengine.config.config.ConfigDict"),
    }
)
# mmengine's log of a training names its own methods so.
_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
_GETATTR = frozenset({"builtins.getattr", "__builtin__.getattr"})
# What checkpoints hold beside their tensors: in optimizers, arguments, logs and notes of the training.
_HARMLESS = frozenset(
    {
        *("torch.nn.parameter.Parameter", "torch.Tensor", "torch.device", "torch.serialization._get_layout"),
        # Tensors of other types and layouts than weights have: float8 and uint16, without numbers, sparse, ragged.
        *("torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_meta_tensor_no_storage"),
        *("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_nested_tensor"),
        *("_codecs.encode", _HISTORY, "collections.deque", "argparse.Namespace", "types.SimpleNamespace"),
        *("copy_reg._reconstructor", "copyreg._reconstructor", "functools.partial"),
        *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "uuid.SafeUUID"),
        *("numpy.ndarray", "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
        *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
        *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")),
        *(f"numpy.random._pickle.__{kind}_ctor" for kind in ("generator", "bit_generator", "randomstate")),
        *("numpy.random._mt19937.MT19937", "numpy.random._philox.Philox", "numpy.random._sfc64.SFC64"),
        *("numpy.random._pcg64.PCG64", "numpy.random._pcg64.PCG64DXSM"),
        "numpy.random.bit_generator.SeedSequence",
        "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
        *(f"datetime.{kind}" for kind in ("datetime", "date", "time", "timedelta", "timezone")),
        *(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
        *(
            f"{module}.{kind}"
            for module in ("builtins", "__builtin__")
            for kind in (
                *("bool", "bytearray", "bytes", "complex", "float", "frozenset", "int"),
                *("list", "object", "range", "set", "slice", "str", "tuple"),
                *("abs", "len", "max", "min", "round", "sum"),  # In a functools.partial.
            )
        ),
    }
)
_KNOWN = TENSORS | PARAMETERS | {FROM_TYPE, SIZE} | DICTS | _GETATTR | _HARMLESS


class Name(NamedTuple):
    """A class or function that a pickle names."""

    name: str


def named(name: str) -> Name:
    """A name that a pickle asks for, with its module.

    Raises:
      ValueError: It is none of those that weights and what lies beside them need.
    """
    if name in _KNOWN or storage_type(name) or _DTYPE.fullmatch(name):
        return Name(name)
    raise _refused(name)


def storage_type(name: str) -> str | None:
    """The key in `STORAGES` of a storage's name; None for other names."""
    match = _STORAGE.fullmatch(name)
    return match[1] if match else None


def check_call(name: str, arguments: tuple[Any, ...]) -> None:
    """Refuses a call that only some arguments make harmless.

    Raises:
      ValueError: A pickle asks for an attribute of anything but a log of a training.
    """
    if name in _GETATTR and not (isinstance(arguments[0], Name) and arguments[0].name == _HISTORY):
        raise _refused(name)


def _refused(name: str) -> ValueError:
    return ValueError(f"it asks for {name[:120]}, which no weights need; nothing of it was run")

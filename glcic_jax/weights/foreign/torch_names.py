"""The names that pickles of weights may hold: of classes and functions, none of which is ever called."""

import re
from typing import Any, NamedTuple

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

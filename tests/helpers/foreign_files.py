"""Writes files as Torch7 and PyTorch do, in the layouts of other GLCIC implementations."""

import io
import pickle
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

from glcic_jax.errors import WeightsError
from helpers import reference

MAGIC = 0x1950A86A20F9469CFC6C


def refusal(read, *arguments) -> str | None:
    """Returns the message of a reader's WeightsError, or None where it raises none."""
    try:
        read(*arguments)
    except WeightsError as error:
        return str(error)
    return None


class Global(NamedTuple):
    """A name in a pickle."""

    module: str
    name: str


class Call(NamedTuple):
    """A call in a pickle, and the state of the object that it returns."""

    function: Any
    arguments: tuple
    state: Any = None


class Stored(NamedTuple):
    """A reference of a pickle to external data."""

    reference: tuple


class Storage:
    """A flat storage; `kind` as "Float"."""

    def __init__(self, array, kind):
        self.array, self.kind = np.ascontiguousarray(array), kind


class Tensor(NamedTuple):
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple
    strides: tuple


KINDS = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte", "u2": "BFloat16"}


def tensor(array) -> Tensor:
    """Returns a tensor with its own storage; uint16 stands for bfloat16."""
    array = np.ascontiguousarray(array)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return Tensor(Storage(array.ravel(), KINDS[array.dtype.str[1:]]), 0, array.shape, strides)


def ordered_dict(fields) -> Call:
    pairs = [[key, value] for key, value in fields.items()]
    return Call(Global("collections", "OrderedDict"), (pairs,), {"_metadata": {"": {"version": 1}}})


class Pickler(pickle._Pickler):
    """Writes calls and names that need not exist; collects the storages."""

    def __init__(self, file, legacy=False, protocol=2):
        super().__init__(file, protocol)
        self.legacy = legacy
        self.storages: list[Storage] = []

    def persistent_id(self, obj):
        if isinstance(obj, Stored):
            return obj.reference
        if not isinstance(obj, Storage):
            return None
        if not any(obj is known for known in self.storages):
            self.storages.append(obj)
        key = str(next(index for index, known in enumerate(self.storages) if known is obj))
        reference = ("storage", Global("torch", f"{obj.kind}Storage"), key, "cpu", len(obj.array))
        return (*reference, None) if self.legacy else reference

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Tensor):
            function = Global("torch._utils", "_rebuild_tensor_v2")
            obj = Call(function, (*obj, False, Call(Global("collections", "OrderedDict"), ())))
        if isinstance(obj, Global):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            super().save(tuple(obj.arguments))
            self.write(pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)


def pickled(value, **fields) -> tuple[bytes, list[Storage]]:
    file = io.BytesIO()
    pickler = Pickler(file, **fields)
    pickler.dump(value)
    return file.getvalue(), pickler.storages


def zip_file(program: bytes, storages=(), order="<", compression=zipfile.ZIP_STORED, extra=()) -> bytes:
    """Returns a file of PyTorch 1.6 or later, from the bytes of its pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little" if order == "<" else "big")
        for index, storage in enumerate(storages):
            array = storage.array.astype(storage.array.dtype.newbyteorder(order))
            archive.writestr(f"archive/data/{index}", array.tobytes())
        archive.writestr("archive/version", "3\n")
        for name in extra:
            archive.writestr(f"archive/{name}", "x")
    return file.getvalue()


def legacy_file(program: bytes, storages=(), order="<") -> bytes:
    """Returns a file of PyTorch before 1.6."""
    sizes = {
        "protocol_version": 1001,
        "little_endian": order == "<",
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    parts = [pickle.dumps(value, 2) for value in (MAGIC, 1001, sizes)]
    parts += [program, pickle.dumps([str(index) for index in range(len(storages))], 2)]
    for storage in storages:
        array = storage.array.astype(storage.array.dtype.newbyteorder(order))
        parts += [struct.pack(f"{order}q", len(array)), array.tobytes()]
    return b"".join(parts)


def torch_zip(value, order="<", **fields) -> bytes:
    return zip_file(*pickled(value), order, **fields)


def torch_legacy(value, order="<") -> bytes:
    return legacy_file(*pickled(value, legacy=True), order)


def state_dict(arrays) -> Call:
    """Returns a module's state dict: an OrderedDict of float32 tensors."""
    return ordered_dict({name: tensor(np.asarray(array, np.float32)) for name, array in arrays.items()})


class Module(NamedTuple):
    """A Torch7 object."""

    class_name: str
    fields: dict
    version: str | None = "V 1"


class View(NamedTuple):
    """A Torch7 tensor, valid or not; `storage` is an array [N] or any value."""

    class_name: str
    shape: tuple
    strides: tuple
    offset: int
    storage: Any


class Lua(NamedTuple):
    """A function with one of the three tags."""

    tag: int


class Torch7Writer:
    """Collects a binary file."""

    def __init__(self):
        self.parts: list[bytes] = []
        self.indices: dict[int, int] = {}
        self.kept: list[Any] = []

    def integer(self, value):
        self.parts.append(struct.pack("<i", value))

    def numbers(self, values, dtype):
        self.parts.append(np.asarray(values, dtype).tobytes())

    def text(self, value):
        data = value.encode() if isinstance(value, str) else value
        self.integer(len(data))
        self.parts.append(data)

    def shared(self, value, tag) -> bool:
        """Writes tag and index; returns whether the value was written before."""
        self.integer(tag)
        known = id(value) in self.indices
        self.indices.setdefault(id(value), len(self.indices) + 1)
        self.kept.append(value)
        self.integer(self.indices[id(value)])
        return known

    def value(self, value):
        if value is None:
            self.integer(0)
        elif isinstance(value, bool):
            self.integer(5)
            self.integer(value)
        elif isinstance(value, int | float):
            self.integer(1)
            self.numbers([value], "<f8")
        elif isinstance(value, str):
            self.integer(2)
            self.text(value)
        elif isinstance(value, dict):
            if not self.shared(value, 3):
                self.table(value)
        elif isinstance(value, Lua):
            if value.tag == 6:
                self.integer(6)
            elif self.shared(value, value.tag):
                return
            self.text(b"\x1bLJ\x00\xff")
            self.value({})
        elif isinstance(value, np.ndarray | View | Module):
            self.object(value)

    def table(self, value):
        self.integer(len(value))
        for key, item in value.items():
            self.value(key)
            self.value(item)

    def object(self, value):
        if self.shared(value, 4):
            return
        if isinstance(value, Module):
            if value.version:
                self.text(value.version)
            self.text(value.class_name)
            self.value(value.fields)
            return
        self.text("V 1")
        if isinstance(value, View):
            self.text(value.class_name)
            self.integer(len(value.shape))
            self.numbers(value.shape, "<i8")
            self.numbers(value.strides, "<i8")
            self.numbers([value.offset], "<i8")
            self.value(value.storage)
        else:
            self.text(f"torch.{T7_KINDS[value.dtype.str[1:]]}Storage")
            self.numbers([len(value)], "<i8")
            self.numbers(value, value.dtype)


T7_KINDS = {
    "f4": "Float",
    "f8": "Double",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "u1": "Byte",
    "i1": "Char",
}


def torch7_tensor(array) -> View:
    array = np.ascontiguousarray(array)
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return View(f"torch.{T7_KINDS[array.dtype.str[1:]]}Tensor", array.shape, strides, 1, array.ravel())


def torch7(value) -> bytes:
    writer = Torch7Writer()
    writer.value(value)
    return b"".join(writer.parts)


def single(array) -> View:
    return torch7_tensor(np.asarray(array, np.float32))


def authors_modules(weights, package="nn", old=False) -> list[Module]:
    """Returns the authors' modules with the reference's weights; `old`: in the form of Torch7 in 2015."""
    modules = []
    for index, (name, kernel, stride, dilation, _, _) in enumerate(reference.COMPLETION_TABLE, start=1):
        weight, bias = weights[f"{name}.weight"], single(weights[f"{name}.bias"])
        deconvolution = name.startswith("deconv")
        padding = 1 if deconvolution else dilation * (kernel - 1) // 2
        planes = weight.shape[0 if deconvolution else 1]
        fields = {"kW": kernel, "kH": kernel, "dW": stride, "dH": stride, "nInputPlane": planes, "bias": bias}
        fields |= {"padding": padding} if old else {"padW": padding, "padH": padding}
        fields["gradInput"], fields["forgetful"] = None, Lua(8)
        kind = "SpatialFullConvolution" if deconvolution else "SpatialConvolution"
        if dilation > 1:
            kind = "SpatialDilatedConvolution"
            fields |= {"dilationW": dilation, "dilationH": dilation}
        elif old and not deconvolution:
            kind, weight = "SpatialConvolutionMM", weight.reshape(len(weight), -1)
        modules.append(Module(f"{package}.{kind}", fields | {"weight": single(weight)}, None if old else "V 1"))
        if index < len(reference.COMPLETION_TABLE):
            norm = {field: weights[f"bn{index}.{field}"] for field in ("weight", "bias", "running_mean")}
            variance = weights[f"bn{index}.running_var"]
            norm |= {"running_std": 1 / np.sqrt(variance + 1e-5)} if old else {"running_var": variance}
            arrays = {field: single(array) for field, array in norm.items()}
            modules.append(Module(f"{package}.SpatialBatchNormalization", arrays | {"eps": 1e-5}))
            modules.append(Module(f"{package}.ReLU", {"inplace": True, "threshold": 0, "val": 0}))
    return [*modules, Module(f"{package}.Sigmoid", {})]


def authors(modules, mean=(0.5, 0.4, 0.3)) -> dict:
    sequence = Module("nn.Sequential", {"modules": dict(enumerate(modules, start=1)), "train": False})
    return {"model": sequence, "mean": torch7_tensor(np.array(mean, np.float64))}


def to_mmagic(weights, prefix="generator.") -> dict:
    """Renames the reference's weights to MMagic's names, without biases before a BatchNorm."""
    blocks = [f"encoder.enc{i}" for i in range(1, 7)] + [f"dilation_neck.dilation_convs.{i}" for i in range(4)]
    blocks += [f"decoder.dec{i}" for i in range(1, 8)]
    renamed = {}
    for index, (block, (name, *_)) in enumerate(zip(blocks, reference.COMPLETION_TABLE, strict=True), start=1):
        renamed[f"{prefix}{block}.conv.weight"] = weights[f"{name}.weight"]
        if index == len(blocks):
            renamed[f"{prefix}{block}.conv.bias"] = weights[f"{name}.bias"]
        else:
            for kind in ("weight", "bias", "running_mean", "running_var"):
                renamed[f"{prefix}{block}.bn.{kind}"] = weights[f"bn{index}.{kind}"]
            renamed[f"{prefix}{block}.bn.num_batches_tracked"] = np.array(7.0)
    return renamed


def to_otenim_discriminator(weights, convolutions) -> dict:
    """Renames the reference's context discriminator to GLCIC-PyTorch's names; `convolutions` of each branch."""
    renamed = {}
    prefixes = {"local": "model_ld", "global": "model_gd"}
    for name, array in weights.items():
        branch, _, rest = name.partition("_branch.")
        if not rest:
            renamed[name.replace("linear", "linear1")] = array
            continue
        rest = rest.replace("linear", f"linear{convolutions[branch] + 1}")
        renamed[f"{prefixes[branch]}.{rest}"] = array
    return renamed

"""PyTorch's files, read without PyTorch: their values, and that their code never runs."""

import copy
import copyreg
import decimal
import io
import os
import pickle
import struct
import tracemalloc
import uuid
import zipfile

import numpy as np
import pytest
from helpers import foreign_files as ff
from helpers.common import one_line

from glcic_jax.errors import WeightsError
from glcic_jax.weights.foreign import torch_file
from glcic_jax.weights.foreign.torch_file import Unread, parse_torch

BASE = np.arange(24, dtype=np.float32)


def parse_both(value, order="<"):
    return [parse_torch(write(value, order), "a.pth") for write in (ff.torch_zip, ff.torch_legacy)]


def refusal(data) -> str:
    """The one line of error that a file must end with."""
    with pytest.raises(WeightsError) as caught:
        parse_torch(data, "a.pth")
    return one_line(caught)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tensors_of_every_dtype(order):
    arrays = {dtype: np.arange(6).reshape(2, 3).astype(dtype) for dtype in ("f4", "f8", "f2", "i8", "i4", "u1")}
    for found in parse_both({dtype: ff.tensor(array) for dtype, array in arrays.items()}, order):
        for dtype, array in arrays.items():
            np.testing.assert_array_equal(found[dtype], array)
            assert found[dtype].dtype.kind == array.dtype.kind


def test_bfloat16_becomes_float32():
    numbers = np.array([1.0, -2.5, 3e38, 0.0], np.float32)
    for found in parse_both(ff.tensor((numbers.view(np.uint32) >> 16).astype(np.uint16))):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, numbers, rtol=1 / 128)


def test_views_share_their_storage():
    storage = ff.Storage(BASE, "Float")
    rebuild = ff.Global("torch._utils", "_rebuild_tensor_v2")
    value = {
        "transposed": ff.Tensor(storage, 2, (3, 4), (1, 3)),
        "whole": ff.Tensor(storage, 0, (24,), (1,)),
        "every third": ff.Tensor(storage, 1, (7,), (3,)),
        "scalar": ff.Tensor(storage, 5, (), ()),
        "empty": ff.Tensor(storage, 99, (0, 3), (3, 1)),
        "parameter": ff.Call(
            ff.Global("torch._utils", "_rebuild_parameter"), (ff.Tensor(storage, 0, (2, 1), (1, 77)), True, {})
        ),
        "subclass": ff.Call(
            ff.Global("torch._tensor", "_rebuild_from_type_v2"),
            (rebuild, 0, (storage, 2, (3,), (1,), False, {}), {}),
        ),
    }
    for found in parse_both(value):
        np.testing.assert_array_equal(found["transposed"], BASE[2:14].reshape(4, 3).T)
        np.testing.assert_array_equal(found["every third"], BASE[1:20:3])
        np.testing.assert_array_equal(found["parameter"], BASE[:2].reshape(2, 1))
        np.testing.assert_array_equal(found["subclass"], BASE[2:5])
        assert found["scalar"] == 5
        assert found["empty"].size == 0
        assert np.shares_memory(found["transposed"], found["whole"])
        assert not found["whole"].flags.writeable


def test_plain_values_and_sizes():
    value = {
        "plain": [1, 2.5, "x", None, True, (1, 2), {"z": 1}, 1 << 70],
        "size": ff.Call(ff.Global("torch", "Size"), ((1, 2),)),
        "dtype": ff.Global("torch", "float32"),
        "counter": ff.Call(ff.Global("collections", "Counter"), ({"a": 1},)),
        "lists": ff.Call(ff.Global("collections", "defaultdict"), (ff.Global("__builtin__", "list"),)),
        "keys": {1 << 60: "x", -(1 << 60): "y", (1 << 60) - 1: "z", 7: "seven", (1, 2): "a tuple"},
    }
    for found in parse_both(value):
        assert found["plain"] == value["plain"]
        assert found["size"] == (1, 2)
        assert found["counter"] == found["lists"] == {}
        assert found["keys"] == {(1 << 60) - 1: "z", 7: "seven"}


def test_all_pickle_protocols():
    value = {"a": [1, 2.5, "ü", b"x", (1, (2, 3, 4, 5), ()), {"s"}, frozenset({1}), -300, 1 << 40], "b": {}}
    for protocol in range(6):
        found = parse_torch(ff.zip_file(pickle.dumps(value, protocol)), "a")
        assert found["a"][:3] == [1, 2.5, "ü"]
        assert found["a"][4] == (1, (2, 3, 4, 5), ())
        assert found["a"][7:] == [-300, 1 << 40]
        assert found["b"] == {}


def training_extras():
    """Values that trainings save beside weights, by the name that they become as `Unread`."""
    storage = ff.Stored(("storage", ff.Global("torch.storage", "UntypedStorage"), "0", "cpu", 6))
    # uint16 and float8 are stored as bytes.
    rebuilt = (storage, 0, (3,), (1,), False, {}, ff.Global("torch", "float8_e4m3fn"))
    bit_generator = ff.Call(
        ff.Global("numpy.random._pickle", "__bit_generator_ctor"), (ff.Global("numpy.random._pcg64", "PCG64"),)
    )
    numpy_type = ff.Call(ff.Global("numpy", "dtype"), ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    integer = ff.Global("builtins", "int")
    calls = {
        "argparse.Namespace": ((), {"lr": 1.0}),
        "types.SimpleNamespace": ((), {"lr": 1.0}),
        "numpy.core.multiarray.scalar": ((numpy_type, b"12345678"), None),
        "datetime.datetime": ((b"x",), None),
        "torch.device": (("cuda", 0), None),
        "functools.partial": ((integer,), (integer, (), {})),
        "numpy.random._pickle.__generator_ctor": ((bit_generator,), {"state": 1 << 127}),
        "torch.serialization._get_layout": (("torch.strided",), None),
        "torch._utils._rebuild_tensor_v3": (rebuilt, None),
        "torch._utils._rebuild_sparse_tensor": (("torch.sparse_coo", (1, 2)), None),
    }
    extras = {name: ff.Call(ff.Global(*name.rsplit(".", 1)), *call) for name, call in calls.items()}
    return extras | {"decimal.Decimal": decimal.Decimal("1.5"), "uuid.UUID": uuid.UUID(int=(1 << 128) - 1)}


def test_extras_of_a_training_become_unread():
    extras = training_extras()
    program, _ = ff.pickled({**extras, "after": 5})
    found = parse_torch(ff.zip_file(program, [ff.Storage(np.zeros(6, np.uint8), "Byte")]), "a")
    assert found == {**{name: Unread(name) for name in extras}, "after": 5}


def call(module, name, *arguments):
    return ff.Call(ff.Global(module, name), arguments)


HOSTILE = {
    "posix.system": lambda run: call("posix", "system", run),
    "os.system": lambda run: call("os", "system", run),
    "builtins.eval": lambda run: call("builtins", "eval", f"__import__('os').system({run!r})"),
    "__builtin__.exec": lambda run: {"state_dict": {"a": call("__builtin__", "exec", run)}},
    "torch.hub.load": lambda run: call("torch.hub", "load", run),
    "numpy.load": lambda run: call("numpy", "load", run),
    "copyreg.add_extension": lambda run: call("copyreg", "add_extension", "os", "system", 1),
    "builtins.getattr": lambda run: call("builtins", "getattr", ff.Global("torch", "Tensor"), "__init__"),
    "subprocess.Popen": lambda run: ff.Call(
        ff.Global("collections", "OrderedDict"), (), call("subprocess", "Popen", run)
    ),
    "runpy.run_path": lambda run: ff.Stored(("storage", call("runpy", "run_path", run), "0", "cpu", 1)),
    "that is not a storage": lambda run: ff.Stored(("module", ff.Global("torch", "Tensor"), "x.py", run)),
    "is not a storage": lambda run: ff.Stored(("storage", ff.Global("torch", "Tensor"), "0", "cpu", 1)),
    "models.CompletionNetwork": lambda run: call("models", "CompletionNetwork"),
    "torch.nn.modules.conv.Conv2d": lambda run: call("torch.nn.modules.conv", "Conv2d"),
    "os.getpid": lambda run: call("functools", "partial", ff.Global("os", "getpid")),
    "torch._utils._rebuild_qtensor": lambda run: call("torch._utils", "_rebuild_qtensor"),
}


def test_code_in_a_file_is_refused_by_name(tmp_path):
    mark = tmp_path / "ran"
    for name, value in HOSTILE.items():
        for write in (ff.torch_zip, ff.torch_legacy):
            line = refusal(write(value(f"touch {mark}")))
            assert line.startswith("a.pth: ")
            assert "state_dict" in line
            assert name in line
    assert not mark.exists()


class Reduced:
    """Runs a program when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_code_in_every_form_of_pickle_is_refused(tmp_path):
    mark = tmp_path / "ran"
    command = f"touch {mark}"
    quoted = f"S'{command}'\n".encode()
    programs = [pickle.dumps({"a": [Reduced(command)]}, protocol) for protocol in range(6)]
    programs += [
        b"(" + quoted + b"iposix\nsystem\n.",
        b"(cposix\nsystem\n" + quoted + b"o.",
        b"cposix\nsystem\n(" + quoted + b"t\x81.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93(" + quoted + b"tR.",
        b"\x82\x01(" + quoted + b"tR.",
        quoted + b"Q.",
    ]
    copyreg.add_extension("os", "system", 1)
    try:
        for program in programs:
            for data in (ff.zip_file(program), ff.legacy_file(program), program):
                refusal(data)
    finally:
        copyreg.remove_extension("os", "system", 1)
    assert not mark.exists()


def test_objects_ignore_state_and_items():
    array, state = ff.tensor(BASE), (1, (1 << 40,), None, False, b"")
    unread = ff.Global("torch", "Tensor")
    for found in parse_both(
        [ff.Call(ff.Global("torch", "Size"), (value,), state) for value in (array, unread, {})]
    ):
        np.testing.assert_array_equal(found[0], BASE)
        assert found[1:] == [Unread("torch.Tensor"), {}]
    name = b"ctorch\nTensor\n"
    for items in (b"K\x01a", b"(K\x01e", b"K\x01K\x02s", b"(K\x01K\x02u", b"(K\x01\x90"):
        assert parse_torch(ff.zip_file(b"\x80\x02" + name + items + b"."), "a") == Unread("torch.Tensor")
        assert "damaged pickle" in refusal(ff.zip_file(b"\x80\x02K\x01" + items + b"."))


def view(offset, shape, strides, numbers=24):
    return ff.Tensor(ff.Storage(BASE[:numbers], "Float"), offset, shape, strides)


def test_views_outside_or_larger_than_their_storage_are_refused():
    for value in (
        view(0, (25,), (1,)),
        view(20, (5,), (1,)),
        view(0, (2, 3), (20, 4)),
        view(-1, (2,), (1,)),
        view(3, (2,), (-1,)),
        view(0, (-2,), (1,)),
        view(0, (1 << 40,), (0,)),
        view(0, (5, 5), (1, 1)),
        view(0, (2,), (1, 1)),
        view(0, (1,) * 40, (1,) * 40),
        view(0, (1 << 62, 4), (1 << 62, 1)),
        view(0, (1 << 20_000_000,) * 8, (1 << 20_000_000,) * 8),  # Multiplying them takes minutes.
        view(0.5, (2,), (1,)),
        view(0, "ab", (1, 1)),
        view(0, 7, 7),
    ):
        for write in (ff.torch_zip, ff.torch_legacy):
            assert "cannot be read as a PyTorch file" in refusal(write(value))


def test_pickles_that_would_exhaust_memory_or_time(monkeypatch):
    monkeypatch.setattr(torch_file, "_MAX_READS", 20_000)
    new_dict = b"\x80\x02ccollections\nOrderedDict\nq\x00"
    programs = [
        b"\x80\x02K\x01r\xff\xff\xff\x7f.",  # A memo of two thousand million places.
        b"\x80\x02K\x01p2147483647\n.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.",
        b"\x80\x02" + b"]" * 30_000 + b".",
        b"\x80\x02.",
        b"\x80\x020.",
        b"\x80\x02t.",
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02h\x09.",
        b"\x80\x02NNR.",
        b"",
    ]
    for program in programs:
        data = ff.zip_file(program)
        tracemalloc.start()
        message = ff.refusal(parse_torch, data, "a")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert message is None or len(message.splitlines()) == 1
        assert peak < 20_000_000, program[:20]
    assert "too long" in refusal(ff.zip_file(b"\x80\x02" + b"]" * 30_000 + b"."))
    # One list copied into many dicts, and one tuple into many calls.
    pairs = b"](" + b"](K\x01K\x02e" * 2000 + b"eq\x01"
    found = parse_torch(ff.zip_file(new_dict + pairs + b"](" + b"h\x00h\x01\x85R" * 50 + b"e."), "a")
    assert found == [{1: 2}] + 49 * [{}]
    assert "damaged" in refusal(ff.zip_file(new_dict + b"(" + b"K\x01" * 2000 + b"tR."))


def test_deep_nesting_crashes_nothing():
    # Hashing a key of nested tuples overflows a stack that only C sees.
    assert parse_torch(ff.zip_file(b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns."), "a") == {}
    lists = b"\x80\x02" + b"(" * 200_000 + b"l" * 200_000 + b"."
    assert len(parse_torch(ff.zip_file(lists), "a")) == 1
    # As text, each pair of bytes doubles the first tuple; the second exhausts Python's stack.
    for body in (b"2\x86" * 18, b"\x85" * 5000):
        for names in (b")" + body + b"X\x01\0\0\0a", b"X\x01\0\0\0a)" + body):
            assert "damaged" in refusal(ff.zip_file(b"\x80\x02" + names + b"\x93."))
    name = b"ctorch._tensor\n_rebuild_from_type_v2\n"
    program = b"\x80\x02" + name + (b"(" + name + b"N") * 3000 + b")" + b"t" * 3000 + b"R."
    assert parse_torch(ff.zip_file(program), "a") == Unread("torch._tensor._rebuild_from_type_v2")


def clear_checksums(data, names=lambda name: True):
    """Sets the checksums of an archive's members to 0, as PyTorch does on request."""
    changed = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [member for member in archive.infolist() if names(member.filename)]
        start = archive.start_dir
    for member in members:
        changed[member.header_offset + 14 : member.header_offset + 18] = bytes(4)
        listed = data.index(member.filename.encode(), start) - 46
        changed[listed + 16 : listed + 20] = bytes(4)
    return bytes(changed)


def test_an_archive_may_lack_all_checksums_but_not_some():
    whole = ff.torch_zip({"a": ff.tensor(BASE)})
    np.testing.assert_array_equal(parse_torch(clear_checksums(whole), "a")["a"], BASE)
    assert "data/0 is damaged" in refusal(clear_checksums(whole, lambda name: name.endswith("data/0")))
    assert "is damaged" in refusal(clear_checksums(whole).replace(b"PK\x03\x04", b"PK\x03\x05"))


def list_storage_again(data, count):
    """Lists an archive's storage under several names."""
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        stored = next(member for member in archive.infolist() if member.filename.endswith("data/0"))
        for index in range(1, count):
            other = copy.copy(stored)
            other.filename = f"archive/data/{index}"
            archive.filelist.append(other)
        archive._didModify = True
    return file.getvalue()


def test_overlapping_members_are_refused():
    whole = ff.torch_zip({"a": ff.tensor(np.zeros(10_000, np.float32))})
    assert "overlapping" in refusal(list_storage_again(whole, 3))
    assert ff.refusal(parse_torch, list_storage_again(whole, 1), "a") is None


def test_containers_that_pytorch_never_writes():
    program, storages = ff.pickled({"a": ff.tensor(np.zeros(1000, np.float32))})
    whole = ff.zip_file(program, storages)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "x")
    changed = bytearray(whole)
    changed[whole.index(storages[0].array.tobytes())] ^= 1
    short = ff.pickled({"a": view(0, (24,), (1,))})
    short_legacy = ff.pickled({"a": view(0, (24,), (1,))}, legacy=True)
    references = [
        ("storage", ff.Global("torch", f"{kind}Storage"), "0", "cpu", 24, None) for kind in ("Float", "Int")
    ]
    two_dtypes = [ff.pickled([ff.Stored(one[:size]) for one in references])[0] for size in (5, 6)]
    base = [ff.Storage(BASE, "Float")]
    cases = {
        "compressed": bomb.getvalue(),
        "compressed or": ff.zip_file(program, storages, compression=zipfile.ZIP_DEFLATED, extra=["x" * 5000]),
        "TorchScript": ff.zip_file(program, storages, extra=["constants.pkl"]),
        "TorchScript archive": ff.zip_file(program, storages, extra=["code/__torch__.py"]),
        "without a data.pkl": other.getvalue(),
        "is damaged": bytes(changed),
        "data/0 is missing": ff.zip_file(program),
        "a tar archive": b"\0" * 257 + b"ustar" + b"\0" * 250,
        "holds 3 numbers, not 24": ff.zip_file(short[0], [ff.Storage(BASE[:3], "Float")]),
        "holds 4 numbers, not 24": ff.legacy_file(short_legacy[0], [ff.Storage(BASE[:4], "Float")]),
        "did not write": pickle.dumps({"a": 1}, 2),
        "unknown version": pickle.dumps(ff.MAGIC, 2) + pickle.dumps(1002, 2),
        "no tensor refers to": ff.legacy_file(pickle.dumps({}, 2), storages),
        "0 has two dtypes": ff.zip_file(two_dtypes[0], base),
        "storage 0 has two dtypes": ff.legacy_file(two_dtypes[1], base),
    }
    for message, data in cases.items():
        assert message in refusal(data)


def test_shared_storages_of_the_first_versions():
    base = ff.Storage(BASE, "Float")
    rebuild = ff.Global("torch._utils", "_rebuild_tensor")
    for offset, size in ((4, 6), (20, 5), (-1, 3), (0, 1 << 40)):
        reference = ("storage", ff.Global("torch", "FloatStorage"), "0", "cpu", 24, ("1", offset, size))
        program, _ = ff.pickled(ff.Call(rebuild, (ff.Stored(reference), 1, (3,), (2,))))
        data = ff.legacy_file(program, [base])
        if (offset, size) == (4, 6):
            np.testing.assert_array_equal(parse_torch(data, "a"), BASE[5:10:2])
        else:
            assert "a view outside its storage" in refusal(data)


def test_damage_gives_a_value_or_one_line():
    generator = np.random.default_rng(0)
    arrays = {f"layer{index}.weight": np.ones((3, index + 1)) for index in range(5)}
    for whole in (ff.torch_zip(ff.state_dict(arrays)), ff.torch_legacy(ff.state_dict(arrays))):
        damaged = [whole[:size] for size in range(0, len(whole), 7)]
        for _ in range(600):
            changed = bytearray(whole)
            for place in generator.integers(0, len(whole), generator.integers(1, 4)):
                changed[place] = generator.integers(256)
            damaged.append(bytes(changed))
        messages = [ff.refusal(parse_torch, data, "a") for data in damaged]
        assert all(message is None or len(message.splitlines()) == 1 for message in messages)

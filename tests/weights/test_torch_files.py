"""PyTorch's files, read without it: what comes back, and that nothing in them is ever run."""

import copy
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
from glcic_jax.weights.foreign import torch_pickle
from glcic_jax.weights.foreign.torch_file import parse_torch, read_torch
from glcic_jax.weights.foreign.torch_pickle import Unread

BASE = np.arange(24, dtype=np.float32)


def both(value, order="<"):
    return [parse_torch(write(value, order), "a.pth") for write in (ff.torch_zip, ff.torch_legacy)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "i4", "u1"])
def test_tensors_of_every_type_come_back(dtype, order):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    for found in both({"a": ff.tensor(array)}, order):
        np.testing.assert_array_equal(found["a"], array)
        assert found["a"].dtype.kind == array.dtype.kind


def test_bfloat16_becomes_float32():
    numbers = np.array([1.0, -2.5, 3e38, 0.0], np.float32)
    for found in both(ff.tensor((numbers.view(np.uint32) >> 16).astype(np.uint16))):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, numbers, rtol=1 / 128)


def test_views_share_a_storage():
    storage = ff.Storage(BASE, "Float")
    value = {
        "turned": ff.Tensor(storage, 2, (3, 4), (1, 3)),
        "whole": ff.Tensor(storage, 0, (24,), (1,)),
        "every third": ff.Tensor(storage, 1, (7,), (3,)),
        "number": ff.Tensor(storage, 5, (), ()),
        "none": ff.Tensor(storage, 99, (0, 3), (3, 1)),
        "parameter": ff.Call(
            ff.Global("torch._utils", "_rebuild_parameter"), (ff.Tensor(storage, 0, (2, 1), (1, 77)), True, {})
        ),
    }
    for found in both(value):
        np.testing.assert_array_equal(found["turned"], BASE[2:14].reshape(4, 3).T)
        np.testing.assert_array_equal(found["every third"], BASE[1:20:3])
        np.testing.assert_array_equal(found["parameter"], BASE[:2].reshape(2, 1))
        assert found["number"] == 5
        assert found["none"].size == 0
        assert np.shares_memory(found["turned"], found["whole"])
        assert not found["whole"].flags.writeable


def test_what_checkpoints_hold_beside_tensors_is_passed_over():
    numpy_type = ff.Call(ff.Global("numpy", "dtype"), ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    value = {
        "plain": [1, 2.5, "x", None, True, (1, 2), {"z": 1}, 1 << 70],
        "args": ff.Call(ff.Global("argparse", "Namespace"), (), {"lr": 1.0}),
        "numpy": ff.Call(ff.Global("numpy.core.multiarray", "scalar"), (numpy_type, b"12345678")),
        "when": ff.Call(ff.Global("datetime", "datetime"), (b"x",)),
        "size": ff.Call(ff.Global("torch", "Size"), ((1, 2),)),
        "device": ff.Call(ff.Global("torch", "device"), ("cuda", 0)),
        "type": ff.Global("torch", "float32"),
        "counted": ff.Call(ff.Global("collections", "Counter"), ({"a": 1},)),
        "lists": ff.Call(ff.Global("collections", "defaultdict"), (ff.Global("__builtin__", "list"),)),
        "wide": {1 << 60: "x", -(1 << 60): "y", (1 << 60) - 1: "z"},
        "set": {1, 2},
        7: "seven",
        (1, 2): "no name",
    }
    for found in both(value):
        assert found["plain"] == [1, 2.5, "x", None, True, (1, 2), {"z": 1}, 1 << 70]
        assert found["numpy"] == Unread("numpy.core.multiarray.scalar")
        assert found["size"] == (1, 2)
        assert found["counted"] == found["lists"] == {}
        assert found["wide"] == {(1 << 60) - 1: "z"}
        assert found[7] == "seven"
        assert (1, 2) not in found


def training_extras():
    """What trainings put beside weights, by the name that their pickles begin with."""
    storage = ff.Stored(("storage", ff.Global("torch.storage", "UntypedStorage"), "0", "cpu", 6))
    # uint16 and float8 are kept as bytes.
    rebuilt = (storage, 0, (3,), (1,), False, {}, ff.Global("torch", "float8_e4m3fn"))
    generator = ff.Call(
        ff.Global("numpy.random._pickle", "__bit_generator_ctor"), (ff.Global("numpy.random._pcg64", "PCG64"),)
    )
    return {
        "types.SimpleNamespace": ff.Call(ff.Global("types", "SimpleNamespace"), (), {"lr": 1.0}),
        "functools.partial": ff.Call(
            ff.Global("functools", "partial"),
            (ff.Global("builtins", "int"),),
            (ff.Global("builtins", "int"), (), {}),
        ),
        "decimal.Decimal": decimal.Decimal("1.5"),
        "uuid.UUID": uuid.UUID(int=(1 << 128) - 1),
        "numpy.random._pickle.__generator_ctor": ff.Call(
            ff.Global("numpy.random._pickle", "__generator_ctor"), (generator,), {"state": 1 << 127}
        ),
        "torch.serialization._get_layout": ff.Call(
            ff.Global("torch.serialization", "_get_layout"), ("torch.strided",)
        ),
        "torch._utils._rebuild_tensor_v3": ff.Call(ff.Global("torch._utils", "_rebuild_tensor_v3"), rebuilt),
        "torch._utils._rebuild_sparse_tensor": ff.Call(
            ff.Global("torch._utils", "_rebuild_sparse_tensor"), ("torch.sparse_coo", (1, 2))
        ),
    }


@pytest.mark.parametrize("name", training_extras())
def test_extras_of_a_training_do_not_stand_in_the_way(name):
    program, _ = ff.pickled({"x": training_extras()[name], "after": 5})
    found = parse_torch(ff.zip_file(program, [ff.Storage(np.zeros(6, np.uint8), "Byte")]), "a")
    assert found == {"x": Unread(name), "after": 5}


def test_a_subclass_of_tensors_is_a_tensor():
    rebuild = ff.Global("torch._utils", "_rebuild_tensor_v2")
    arguments = (ff.Storage(BASE, "Float"), 2, (3,), (1,), False, {})
    for found in both(ff.Call(ff.Global("torch._tensor", "_rebuild_from_type_v2"), (rebuild, 0, arguments, {}))):
        np.testing.assert_array_equal(found, BASE[2:5])


def test_newer_pickles_are_read_too():
    for protocol in (0, 1, 2, 3, 4, 5):
        value = {"a": [1, 2.5, "ü", b"x", (1, (2, 3, 4, 5), ()), {"s"}, frozenset({1}), -300, 1 << 40], "b": {}}
        found = parse_torch(ff.zip_file(pickle.dumps(value, protocol)), "a")
        assert found["a"][:3] == [1, 2.5, "ü"]
        assert found["a"][4] == (1, (2, 3, 4, 5), ())
        assert found["b"] == {}


def evil(module, name, *arguments):
    return ff.Call(ff.Global(module, name), arguments)


class Reduced:
    """Asks for a program to be run, in the way that pickle itself offers."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


HOSTILE = {
    "posix.system": lambda run: evil("posix", "system", run),
    "os.system": lambda run: evil("os", "system", run),
    "builtins.eval": lambda run: evil("builtins", "eval", f"__import__('os').system({run!r})"),
    "__builtin__.exec": lambda run: {"state_dict": {"a": evil("__builtin__", "exec", run)}},
    "torch.hub.load": lambda run: evil("torch.hub", "load", run),
    "numpy.load": lambda run: evil("numpy", "load", run),
    "builtins.getattr": lambda run: evil("builtins", "getattr", ff.Global("torch", "Tensor"), "__init__"),
    "subprocess.Popen": lambda run: ff.Call(
        ff.Global("collections", "OrderedDict"), (), evil("subprocess", "Popen", run)
    ),
    "runpy.run_path": lambda run: ff.Stored(("storage", evil("runpy", "run_path", run), "0", "cpu", 1)),
    "that is no storage": lambda run: ff.Stored(("module", ff.Global("torch", "Tensor"), "x.py", run)),
    "models.CompletionNetwork": lambda run: evil("models", "CompletionNetwork"),
    "torch.nn.modules.conv.Conv2d": lambda run: evil("torch.nn.modules.conv", "Conv2d"),
    "os.getpid": lambda run: evil("functools", "partial", ff.Global("os", "getpid")),
    "torch._utils._rebuild_qtensor": lambda run: evil("torch._utils", "_rebuild_qtensor"),
}


@pytest.mark.parametrize("named", HOSTILE)
def test_programs_in_a_file_are_not_run(named, tmp_path):
    mark = tmp_path / "ran"
    for write in (ff.torch_zip, ff.torch_legacy):
        path = tmp_path / "a.pth"
        path.write_bytes(write(HOSTILE[named](f"touch {mark}")))
        with pytest.raises(WeightsError, match=r"a\.pth: .*state_dict") as caught:
            read_torch(path)
        assert named in one_line(caught)
        assert not mark.exists()


def test_programs_in_every_form_of_pickle_are_not_run(tmp_path):
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
    for program in programs:
        for data in (ff.zip_file(program), ff.legacy_file(program), program):
            with pytest.raises(WeightsError) as caught:
                parse_torch(data, "a")
            one_line(caught)
    assert not mark.exists()


def view(offset, shape, strides, numbers=24):
    return ff.Tensor(ff.Storage(BASE[:numbers], "Float"), offset, shape, strides)


@pytest.mark.parametrize(
    "value",
    [
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
        view(0.5, (2,), (1,)),
        view(0, "ab", (1, 1)),
        view(0, 7, 7),
    ],
)
def test_views_that_leave_or_inflate_their_storage_are_refused(value):
    for write in (ff.torch_zip, ff.torch_legacy):
        with pytest.raises(WeightsError, match=r"a: cannot be read as a PyTorch file") as caught:
            parse_torch(write(value), "a")
        one_line(caught)


def test_pickles_that_would_fill_the_memory_or_never_end(monkeypatch):
    monkeypatch.setattr(torch_pickle, "_MOST_OPERATIONS", 20_000)
    many = b"\x80\x02ccollections\nOrderedDict\nq\x00](" + b"](K\x01K\x02e" * 2000 + b"eq\x01"
    programs = [
        b"\x80\x02K\x01r\xff\xff\xff\x7f.",  # A memo of two thousand million places.
        b"\x80\x02K\x01p2147483647\n.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.",
        many + b"0h\x00h\x01\x85R" * 1000 + b".",
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
        told = ff.refusal(parse_torch, data, "a")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert told is None or len(told.splitlines()) == 1
        assert peak < 20_000_000, program[:20]
    assert "too long" in ff.refusal(parse_torch, ff.zip_file(b"\x80\x02" + b"]" * 30_000 + b"."), "a")
    assert "too long" in ff.refusal(parse_torch, ff.zip_file(many + b"0h\x00h\x01\x85R" * 1000 + b"."), "a")


def test_pickles_that_crash_pythons_own_machine():
    # Hashing a key of tuples inside tuples, or freeing it, overflows a stack that only C sees.
    nested = b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns."
    assert parse_torch(ff.zip_file(nested), "a") == {}
    lists = b"\x80\x02" + b"(" * 200_000 + b"l" * 200_000 + b"."
    assert len(parse_torch(ff.zip_file(lists), "a")) == 1


def test_names_that_are_none_are_not_written_out():
    # Each pair of bytes doubles what the tuple is as text; 5000 of the others exhaust Python's stack.
    for body in (b"2\x86" * 18, b"\x85" * 5000):
        for both_parts in (b")" + body + b"X\x01\0\0\0a", b"X\x01\0\0\0a)" + body):
            assert "damaged" in ff.refusal(parse_torch, ff.zip_file(b"\x80\x02" + both_parts + b"\x93."), "a")


def test_calls_within_calls_do_not_exhaust_the_stack():
    name = b"ctorch._tensor\n_rebuild_from_type_v2\n"
    program = b"\x80\x02" + name + (b"(" + name + b"N") * 3000 + b")" + b"t" * 3000 + b"R."
    assert parse_torch(ff.zip_file(program), "a") == Unread("torch._tensor._rebuild_from_type_v2")


def test_numbers_of_a_megabyte_are_refused():
    number = b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20)
    long = b"\x8a\x81" + b"\x7f" * 129
    for push in (number, long):
        told = ff.refusal(parse_torch, ff.zip_file(b"\x80\x02" + push + b"."), "a")
        assert "more than 1,024 bits" in told


def without_checksums(data, names=lambda name: True):
    """The archive with 0 for its members' checksums, as PyTorch can be told to write it."""
    changed = bytearray(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [member for member in archive.infolist() if names(member.filename)]
        start = archive.start_dir
    for member in members:
        changed[member.header_offset + 14 : member.header_offset + 18] = bytes(4)
        listed = data.index(member.filename.encode(), start) - 46
        changed[listed + 16 : listed + 20] = bytes(4)
    return bytes(changed)


def test_an_archive_without_checksums_is_read_but_not_one_that_has_lost_some():
    whole = ff.torch_zip({"a": ff.tensor(BASE)})
    np.testing.assert_array_equal(parse_torch(without_checksums(whole), "a")["a"], BASE)
    partly = without_checksums(whole, lambda name: name.endswith("data/0"))
    assert "data/0 is damaged" in ff.refusal(parse_torch, partly, "a")
    cut = without_checksums(whole).replace(b"PK\x03\x04", b"PK\x03\x05")
    assert "is damaged" in ff.refusal(parse_torch, cut, "a")


def overlapping(data, count):
    """The archive with its storage listed under many names."""
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        stored = next(member for member in archive.infolist() if member.filename.endswith("data/0"))
        for index in range(1, count):
            other = copy.copy(stored)
            other.filename = f"archive/data/{index}"
            archive.filelist.append(other)
        archive._didModify = True
    return file.getvalue()


def test_parts_that_overlap_are_refused():
    whole = ff.torch_zip({"a": ff.tensor(np.zeros(10_000, np.float32))})
    assert "overlap" in ff.refusal(parse_torch, overlapping(whole, 3), "a")
    assert ff.refusal(parse_torch, overlapping(whole, 1), "a") is None


def test_a_storage_of_two_types_is_refused():
    said = [("storage", ff.Global("torch", f"{kind}Storage"), "0", "cpu", 24, None) for kind in ("Float", "Int")]
    for size, make in ((5, ff.zip_file), (6, ff.legacy_file)):
        program, _ = ff.pickled([ff.Stored(one[:size]) for one in said])
        assert "storage 0 is of two types" in ff.refusal(
            parse_torch, make(program, [ff.Storage(BASE, "Float")]), "a"
        )


def test_containers_that_pytorch_never_writes():
    value = {"a": ff.tensor(np.zeros(1000, np.float32))}
    program, storages = ff.pickled(value)
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
        "holds 4 numbers, not 24": ff.legacy_file(
            ff.pickled({"a": view(0, (24,), (1,))}, legacy=True)[0], [ff.Storage(BASE[:4], "Float")]
        ),
        "did not write": pickle.dumps({"a": 1}, 2),
        "unknown version": pickle.dumps(ff.MAGIC, 2) + pickle.dumps(1002, 2),
        "nothing refers to": ff.legacy_file(pickle.dumps({}, 2), storages),
    }
    for told, data in cases.items():
        with pytest.raises(WeightsError, match=told) as caught:
            parse_torch(data, "a")
        one_line(caught)


def test_parts_of_another_storage_in_old_files():
    base = ff.Storage(BASE, "Float")
    said = ("storage", ff.Global("torch", "FloatStorage"), "0", "cpu", 24, ("1", 4, 6))
    rebuild = ff.Global("torch._utils", "_rebuild_tensor")
    for offset, size in ((4, 6), (20, 5), (-1, 3), (0, 1 << 40)):
        said = (*said[:5], ("1", offset, size))
        program, _ = ff.pickled(ff.Call(rebuild, (ff.Stored(said), 1, (3,), (2,))))
        data = ff.legacy_file(program, [base])
        if (offset, size) == (4, 6):
            np.testing.assert_array_equal(parse_torch(data, "a"), BASE[5:10:2])
        else:
            with pytest.raises(WeightsError, match="part of a storage"):
                parse_torch(data, "a")


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
        told = [ff.refusal(parse_torch, data, "a") for data in damaged]
        assert all(line is None or len(line.splitlines()) == 1 for line in told)

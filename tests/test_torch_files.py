"""PyTorch's files, read without it: what comes back, and that nothing in them is ever run."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import foreign_files as ff
import numpy as np
import pytest
from conftest import one_line

from glcic_jax import torch_pickles
from glcic_jax.errors import WeightsError
from glcic_jax.torch_files import parse_torch, read_torch
from glcic_jax.torch_pickles import Unread

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
        "set": {1, 2},
        7: "seven",
        (1, 2): "no name",
    }
    for found in both(value):
        assert found["plain"] == [1, 2.5, "x", None, True, (1, 2), {"z": 1}, 1 << 70]
        assert found["numpy"] == Unread("numpy.core.multiarray.scalar")
        assert found["size"] == (1, 2)
        assert found["counted"] == found["lists"] == {}
        assert found[7] == "seven"
        assert (1, 2) not in found


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
    monkeypatch.setattr(torch_pickles, "_MOST_OPERATIONS", 20_000)
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
    assert "too long" in ff.refusal(parse_torch, ff.zip_file(many + b"0h\x00h\x01\x85R" * 1000 + b"."), "a")


def test_pickles_that_crash_pythons_own_machine():
    # Hashing a key of tuples inside tuples, or freeing it, overflows a stack that only C sees.
    nested = b"\x80\x02}N" + b"\x85" * 200_000 + b"Ns."
    assert parse_torch(ff.zip_file(nested), "a") == {}
    lists = b"\x80\x02" + b"(" * 200_000 + b"l" * 200_000 + b"."
    assert len(parse_torch(ff.zip_file(lists), "a")) == 1


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

"""Torch7's files, read without it: what comes back, and what damaged and hostile ones do."""

import struct
import tracemalloc

import numpy as np
import pytest
from helpers import foreign_files as ff
from helpers.common import one_line

from glcic_jax.errors import WeightsError
from glcic_jax.weights.foreign.torch7_file import LuaFunction, TorchObject, parse_torch7, read_torch7

BASE = np.arange(24, dtype=np.float32)


@pytest.mark.parametrize("ascii", [False, True])
def test_plain_values_and_tables_come_back(ascii, tmp_path):
    shared = {"x": 1}
    value = {
        "nil": None,
        "number": 2.5,
        "text": "ü\nspaces  and lines\n",
        "empty": "",
        "true": True,
        "false": False,
        1: "one",
        2: {"inner": -7},
        "shared": shared,
        "again": shared,
    }
    path = tmp_path / "a.t7"
    path.write_bytes(ff.torch7(value, ascii))
    found = read_torch7(path)
    assert found == value
    assert found["shared"] is found["again"]


@pytest.mark.parametrize("ascii", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "i4", "i2", "u1", "i1"])
def test_tensors_and_storages_of_every_type_come_back(dtype, ascii):
    array = np.array([[0, 1, 100], [7, 13, 10]]).astype(dtype)
    found = parse_torch7(ff.torch7({"t": ff.torch7_tensor(array), "s": array[0].copy(), "after": 5}, ascii), "a")
    np.testing.assert_array_equal(found["t"], array)
    np.testing.assert_array_equal(found["s"], array[0])
    assert found["t"].dtype == found["s"].dtype == array.dtype
    assert found["after"] == 5


def test_numbers_keep_their_value_in_ascii():
    array = np.array([np.pi, 1e-300, -np.inf, np.nan, 2**62], np.float64)
    found = parse_torch7(ff.torch7(ff.torch7_tensor(array), True), "a")
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("ascii", [False, True])
def test_views_cuda_tensors_and_empty_ones(ascii):
    value = {
        "turned": ff.View("torch.FloatTensor", (3, 4), (1, 3), 3, BASE),
        "whole": ff.View("torch.FloatTensor", (24,), (1,), 1, BASE),
        "none": ff.View("torch.FloatTensor", (), (), 1, None),
        "no storage": ff.View("torch.DoubleTensor", (0,), (1,), 1, None),
        "cuda": ff.View("torch.CudaTensor", (24,), (1,), 1, BASE),
        "cuda double": ff.View("torch.CudaDoubleTensor", (2,), (1,), 1, np.array([1.0, 2.0])),
    }
    found = parse_torch7(ff.torch7(value, ascii), "a")
    np.testing.assert_array_equal(found["turned"], BASE[2:14].reshape(4, 3).T)
    np.testing.assert_array_equal(found["cuda double"], [1, 2])
    assert np.shares_memory(found["turned"], found["cuda"])
    assert found["none"].size == found["no storage"].size == 0


@pytest.mark.parametrize("ascii", [False, True])
def test_objects_with_and_without_a_version_and_functions(ascii):
    value = {
        "new": ff.Module("nn.ReLU", {"val": 0}),
        "old": ff.Module("nn.Tanh", {"x": 1}, None),
        "first": ff.Lua(6),
        "second": ff.Lua(7),
        "third": ff.Lua(8),
        "after": 5,
    }
    found = parse_torch7(ff.torch7(value, ascii), "a")
    assert found["new"] == TorchObject("nn.ReLU", {"val": 0})
    assert found["old"] == TorchObject("nn.Tanh", {"x": 1})
    assert all(isinstance(found[name], LuaFunction) for name in ("first", "second", "third"))
    assert found["after"] == 5


def test_longs_of_four_bytes():
    value = {
        "model": ff.Module("nn.ReLU", {"weight": ff.torch7_tensor(BASE.reshape(4, 6))}),
        "longs": ff.torch7_tensor(np.array([5, -7], np.int64)),
        "after": 5,
    }
    whole = ff.torch7(value, long="<i4")
    found = parse_torch7(whole, "a")
    np.testing.assert_array_equal(found["model"].fields["weight"], BASE.reshape(4, 6))
    np.testing.assert_array_equal(found["longs"], [5, -7])
    assert found["longs"].dtype == np.int64
    assert found["after"] == 5
    assert "cannot be read" in ff.refusal(parse_torch7, whole + b"x", "a")


@pytest.mark.parametrize("ascii", [False, True])
def test_keys_that_are_no_exact_numbers_are_left_out(ascii):
    found = parse_torch7(ff.torch7({2.0**53: "a", 2.0**54: "b", 1e300: "c", 0.5: "d"}, ascii), "a")
    assert found == {2**53: "a"}


def test_a_table_may_hold_itself():
    table = {"x": 1}
    table["self"] = table
    found = parse_torch7(ff.torch7(table), "a")
    assert found["self"] is found


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def integers(*values):
    return struct.pack(f"<{len(values)}i", *values)


def named(class_name):
    return integers(4, 1, 3) + b"V 1" + integers(len(class_name)) + class_name.encode()


HOSTILE = {
    "unknown tag": integers(9),
    "unknown tag 1936287860": integers(3, 1, 1) + b"this is text",
    "a negative size": integers(2, -1),
    "ends too early": integers(2, 1 << 30) + b"x",
    "too early": integers(3, 1, 1 << 30) + integers(1),
    "a table of a negative size": integers(3, 1, -5),
    "early: 4,611,686,018,427,387,904": named("torch.ByteStorage") + struct.pack("<q", 1 << 62),
    "a negative size, -8": named("torch.DoubleStorage") + struct.pack("<q", -1),
    "bytes or numbers": named("torch.FloatTensor") + integers(1 << 30),
    "negative size, -3": named("torch.FloatTensor") + integers(-3),
    "storage of another type": ff.torch7(ff.View("torch.DoubleTensor", (1,), (1,), 1, BASE)),
    "another type": ff.torch7(ff.View("torch.FloatTensor", (1,), (1,), 1, {"a": 1})),
    "larger than its storage": ff.torch7(ff.View("torch.FloatTensor", (25,), (1,), 1, BASE)),
    "than its storage": ff.torch7(ff.View("torch.FloatTensor", (1 << 40,), (0,), 1, BASE)),
    "negative stride": ff.torch7(ff.View("torch.FloatTensor", (2,), (-1,), 5, BASE)),
    "no number of elements": ff.torch7(ff.View("torch.FloatTensor", (2,), (1,), 0, BASE)),
    "number of elements": ff.torch7(ff.View("torch.FloatTensor", (-2,), (1,), 1, BASE)),
    "its storage": ff.torch7(ff.View("torch.FloatTensor", (4, 4), (1 << 61, 1), 1, BASE)),
    "nested too deeply": ff.torch7(nested(400)),
    "too deeply": integers(3, 1, 1) * 1 + integers(3, 2, 1) + b"".join(integers(3, i, 1) for i in range(3, 5000)),
    "has no type": named("torch.Tensor"),
    "the unknown class 'torch.Generator'": named("torch.Generator") + integers(0),
    "invalid literal": b"4\n1\nx\n",
    "early: 1,000,000,000": b"4\n1\n3\nV 1\n18\ntorch.FloatStorage\n1000000000\n1 2 3\n",
    "ends too": b"4\n1\n3\nV 1\n18\ntorch.FloatStorage\n3\n1 2\n",
    "early: 99 bytes": b"3\n1\n1\n2\n99\nx",
    "could not convert": b"4\n1\n3\nV 1\n18\ntorch.FloatStorage\n2\n1 x\n",
    "": b"4\n1\n3\nV 1\n17\ntorch.LongStorage\n1\n99999999999999999999\n",
}


@pytest.mark.parametrize("told", HOSTILE)
def test_hostile_files_are_one_line_in_little_memory(told):
    data = HOSTILE[told]
    tracemalloc.start()
    with pytest.raises(WeightsError, match=r"a\.t7: cannot be read as a Torch7 file") as caught:
        parse_torch7(data, "a.t7")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told in one_line(caught)
    assert peak < 5_000_000


@pytest.mark.parametrize("ascii", [False, True])
def test_damage_gives_a_value_or_one_line(ascii):
    generator = np.random.default_rng(0)
    module = ff.Module("nn.Linear", {"weight": ff.torch7_tensor(np.ones((3, 4))), "f": ff.Lua(8), "name": "x"})
    whole = ff.torch7({"model": module, "mean": ff.torch7_tensor(np.ones(3)), "table": {1: 2, 2: True}}, ascii)
    damaged = [whole[:size] for size in range(len(whole))]
    for _ in range(1000):
        changed = bytearray(whole)
        for place in generator.integers(0, len(whole), generator.integers(1, 4)):
            changed[place] = generator.integers(256)
        damaged.append(bytes(changed))
    tracemalloc.start()
    told = [ff.refusal(parse_torch7, data, "a") for data in damaged]
    assert all(line is None or len(line.splitlines()) == 1 for line in told)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()

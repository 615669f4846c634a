"""Torch7's files, read without Torch7: their values, and damaged and malicious ones."""

import struct
import tracemalloc

import numpy as np
import pytest
from helpers import foreign_files as ff
from helpers.common import one_line

from glcic_jax.errors import WeightsError
from glcic_jax.weights.foreign.torch7_file import TorchObject, parse_torch7

BASE = np.arange(24, dtype=np.float32)


def test_plain_values_tables_and_objects():
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
    objects = {
        "object": ff.Module("nn.ReLU", {"val": 0}),
        "object without version": ff.Module("nn.Tanh", {"x": 1}, None),
        "functions": {tag: ff.Lua(tag) for tag in (6, 7, 8)},
        "after": 5,
    }
    found = parse_torch7(ff.torch7(value | objects), "a")
    assert {key: found[key] for key in value} == value
    assert found["shared"] is found["again"]
    assert found["object"] == TorchObject("nn.ReLU", {"val": 0})
    assert found["object without version"] == TorchObject("nn.Tanh", {"x": 1})
    assert found["functions"] == {6: None, 7: None, 8: None}
    assert found["after"] == 5


def test_tensors_and_storages_of_every_dtype():
    arrays = {dtype: np.array([[0, 1, 100], [7, 13, 10]]).astype(dtype) for dtype in ff.T7_KINDS}
    value = {dtype: {"t": ff.torch7_tensor(array), "s": array[0].copy()} for dtype, array in arrays.items()}
    found = parse_torch7(ff.torch7(value), "a")
    for dtype, array in arrays.items():
        np.testing.assert_array_equal(found[dtype]["t"], array)
        np.testing.assert_array_equal(found[dtype]["s"], array[0])
        assert found[dtype]["t"].dtype == found[dtype]["s"].dtype == array.dtype


def test_views_cuda_tensors_and_empty_ones():
    value = {
        "transposed": ff.View("torch.FloatTensor", (3, 4), (1, 3), 3, BASE),
        "none": ff.View("torch.FloatTensor", (), (), 1, None),
        "no storage": ff.View("torch.DoubleTensor", (0,), (1,), 1, None),
        "cuda": ff.View("torch.CudaTensor", (24,), (1,), 1, BASE),
        "cuda double": ff.View("torch.CudaDoubleTensor", (2,), (1,), 1, np.array([1.0, 2.0])),
    }
    found = parse_torch7(ff.torch7(value), "a")
    np.testing.assert_array_equal(found["transposed"], BASE[2:14].reshape(4, 3).T)
    np.testing.assert_array_equal(found["cuda double"], [1, 2])
    assert np.shares_memory(found["transposed"], found["cuda"])
    assert found["none"].size == found["no storage"].size == 0


def test_keys_that_are_no_exact_integers_are_dropped():
    assert parse_torch7(ff.torch7({2.0**53: "a", 2.0**54: "b", 1e300: "c", 0.5: "d"}), "a") == {2**53: "a"}


def test_a_table_may_contain_itself():
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
    "a tensor of 1073741824 dimensions": named("torch.FloatTensor") + integers(1 << 30),
    "a tensor of -3 dimensions": named("torch.FloatTensor") + integers(-3),
    "storage of another dtype": ff.torch7(ff.View("torch.DoubleTensor", (1,), (1,), 1, BASE)),
    "another dtype": ff.torch7(ff.View("torch.FloatTensor", (1,), (1,), 1, {"a": 1})),
    "larger than its storage": ff.torch7(ff.View("torch.FloatTensor", (25,), (1,), 1, BASE)),
    "than its storage": ff.torch7(ff.View("torch.FloatTensor", (1 << 40,), (0,), 1, BASE)),
    "negative stride": ff.torch7(ff.View("torch.FloatTensor", (2,), (-1,), 5, BASE)),
    "a negative size or offset": ff.torch7(ff.View("torch.FloatTensor", (2,), (1,), 0, BASE)),
    "negative size or offset": ff.torch7(ff.View("torch.FloatTensor", (-2,), (1,), 1, BASE)),
    "its storage": ff.torch7(ff.View("torch.FloatTensor", (4, 4), (1 << 61, 1), 1, BASE)),
    "nested too deeply": ff.torch7(nested(400)),
    "too deeply": integers(3, 1, 1) * 1 + integers(3, 2, 1) + b"".join(integers(3, i, 1) for i in range(3, 5000)),
    "has no dtype": named("torch.Tensor"),
    "the unknown class 'torch.Generator'": named("torch.Generator") + integers(0),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_files_are_refused_in_one_line_and_little_memory(message):
    data = HOSTILE[message]
    tracemalloc.start()
    with pytest.raises(WeightsError, match=r"a\.t7: cannot be read as a Torch7 file") as caught:
        parse_torch7(data, "a.t7")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message in one_line(caught)
    assert peak < 5_000_000


def test_damage_gives_a_value_or_one_line():
    generator = np.random.default_rng(0)
    module = ff.Module("nn.Linear", {"weight": ff.torch7_tensor(np.ones((3, 4))), "f": ff.Lua(8), "name": "x"})
    whole = ff.torch7({"model": module, "mean": ff.torch7_tensor(np.ones(3)), "table": {1: 2, 2: True}})
    damaged = [whole[:size] for size in range(len(whole))]
    for _ in range(1000):
        changed = bytearray(whole)
        for place in generator.integers(0, len(whole), generator.integers(1, 4)):
            changed[place] = generator.integers(256)
        damaged.append(bytes(changed))
    tracemalloc.start()
    messages = [ff.refusal(parse_torch7, data, "a") for data in damaged]
    assert all(message is None or len(message.splitlines()) == 1 for message in messages)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()

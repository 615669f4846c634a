"""What a stopped evaluation goes on from."""

import json

import numpy as np
import pytest
from helpers.common import one_line

from glcic_jax.errors import DataError
from glcic_jax.evaluation.journal import Journal, Rows

IDENTITY = {"masks": "paper:seed=0", "size": 64, "nested": {"a": [1, 2]}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report" / "journal.jsonl"


def write(path, *indices):
    with Journal(path, IDENTITY) as journal:
        for index in indices:
            journal.add([{"index": index, "value": float("inf")}])


def test_records_come_back(path):
    write(path, 0, 1)
    write(path, 2)
    with Journal(path, IDENTITY) as journal:
        assert journal.done == {0, 1, 2}
        assert journal.records[2] == {"index": 2, "value": float("inf")}


@pytest.mark.parametrize("cut", range(1, 30, 3))
def test_a_line_without_an_end_is_measured_again(path, cut):
    write(path, 0, 1)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    whole = content[:-cut].count(b"\n") - 1
    write(path, 7)
    with Journal(path, IDENTITY) as journal:
        assert [record["index"] for record in journal.records] == [0, 1][:whole] + [7]


def test_a_process_that_was_killed_at_the_head_begins_anew(path):
    write(path, 0)
    path.write_bytes(path.read_bytes()[:5])
    write(path, 3)
    assert [json.loads(line).get("index") for line in path.read_text().splitlines()] == [None, 3]


def test_another_evaluation_is_refused_and_left_alone(path):
    write(path, 0)
    before = path.read_bytes()
    with pytest.raises(DataError, match="another --report, or give --restart") as caught:
        Journal(path, {**IDENTITY, "size": 32})
    assert "size: 64 -> 32" in one_line(caught)
    assert path.read_bytes() == before


def test_damage_is_one_line(path):
    write(path, 0, 1)
    path.write_bytes(path.read_bytes().replace(b'{"index": 0', b'{"index" 0'))
    with pytest.raises(DataError, match="is damaged"):
        Journal(path, IDENTITY)


def test_a_second_process_is_kept_out(path):
    with Journal(path, IDENTITY), pytest.raises(DataError, match="another process is evaluating into it"):
        Journal(path, IDENTITY)
    write(path, 1)


@pytest.mark.parametrize("line", ["[1]", "5", '{"index": "a"}', "{}", '{"index": 0}'])
def test_a_line_of_no_image_is_damage(path, line):
    write(path, 0, 1)
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match="is damaged"):
        Journal(path, IDENTITY)
    with Journal(path, IDENTITY, restart=True) as journal:
        assert journal.records == []
    write(path, 5)


def test_without_a_path_nothing_is_written(tmp_path):
    with Journal(None, IDENTITY) as journal:
        journal.add([{"index": 4}])
        assert journal.done == {4}
    assert list(tmp_path.iterdir()) == []


def test_rows_are_cut_to_what_was_noted_down(tmp_path):
    first, more = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((2, 4), np.float32)
    rows = Rows(tmp_path / "features" / "0.f32", 0, 4)
    rows.add(first)
    np.testing.assert_array_equal(np.concatenate(list(rows)), first)
    again = Rows(tmp_path / "features" / "0.f32", 2, 4)
    again.add(more)
    np.testing.assert_array_equal(np.concatenate(list(again)), np.concatenate([first[:2], more]))
    with pytest.raises(DataError, match="--restart"):
        Rows(tmp_path / "features" / "0.f32", 5, 4)

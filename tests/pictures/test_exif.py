"""EXIF blocks: thumbnails of every kind are erased, and at a cost that a hostile block cannot drive up."""

import struct
import time

import numpy as np
import pytest

from glcic_jax.pictures.metadata import cleaned


def block_with_strips(pairs: list[tuple[int, int]], size: int) -> bytes:
    """A block without tags, whose second directory says where the strips of a thumbnail lie; filled with 0xAA."""
    number, lists = len(pairs), 44 if len(pairs) > 1 else 0
    columns = [np.array(column, "<u4").tobytes() for column in zip(*pairs, strict=True)]
    values = (lists, lists + 4 * number) if lists else tuple(pairs[0])
    head = b"II*\0" + struct.pack("<IHI", 8, 0, 14)
    second = struct.pack("<HHHIIHHII", 2, 0x111, 4, number, values[0], 0x117, 4, number, values[1]) + bytes(4)
    block = head + second + (b"".join(columns) if lists else b"")
    return b"Exif\0\0" + block.ljust(size, b"\xaa")


@pytest.mark.parametrize(
    "pairs", [[(60, 30)], [(100, 10), (120, 5)], [(100, 10), (105, 15)], [(120, 5), (100, 40)], [(190, 2**31)] * 2]
)
def test_strips_of_a_thumbnail_are_erased_and_nothing_else(pairs):
    before = bytearray(block_with_strips(pairs, 200)[6:])
    after = cleaned(bytes(before), turned=False)[6:]
    for start, length in pairs:
        before[start : start + length] = bytes(len(before[start : start + length]))
    before[10:14] = bytes(4)  # And the directory is no longer pointed at.
    assert after == bytes(before)


def test_many_strips_over_each_other_cost_little():
    number = 50_000
    block = block_with_strips([(44 + 8 * number, 2**31 - index) for index in range(number)], 3_000_000)
    start = time.process_time()
    after = cleaned(block, turned=False)
    assert time.process_time() - start < 3
    assert not any(after[6 + 44 + 8 * number :])


def test_a_damaged_block_is_one_error():
    for block in (b"II*\0\x08", b"XX*\0" + bytes(20), b"II*\0" + struct.pack("<IH", 8, 500)):
        with pytest.raises(ValueError, match="EXIF"):
            cleaned(block, turned=False)

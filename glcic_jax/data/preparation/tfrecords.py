"""Reads TFRecord files, the form that TFDS prepares by default, without TensorFlow.

A record is its length (uint64, little-endian), a masked CRC-32C of these eight bytes, the content, and a masked
CRC-32C of the content.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from glcic_jax.errors import DataError, one_line

_HEAD, _FOOT = struct.Struct("<QI"), struct.Struct("<I")


def masked_crc(content: bytes) -> int:
    """The CRC-32C of some bytes, rotated and shifted as TFRecord has it."""
    try:
        # Written in C: twenty-four gigabytes would take Python alone most of a day.
        import google_crc32c
    except ImportError as error:
        raise DataError("reading TFRecord needs google-crc32c: pip install google-crc32c") from error
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: Path) -> Iterator[bytes]:
    """Yields every record's content.

    Raises:
      DataError: A checksum does not fit, the file ends within a record, or it cannot be read; it names the
        record's offset.
    """
    try:
        yield from _read_records(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def _read_records(path: Path) -> Iterator[bytes]:
    offset = 0
    with path.open("rb", buffering=1 << 20) as file:
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size:
                raise DataError(f"{path}: truncated: the record at byte {offset} has no whole head")
            length, crc = _HEAD.unpack(head)
            if masked_crc(head[:8]) != crc:
                what = "is compressed, or no TFRecord file" if offset == 0 else "is damaged there"
                raise DataError(
                    f"{path}: the record at byte {offset} has a wrong length checksum: the file {what}"
                )
            content, foot = file.read(length), file.read(_FOOT.size)
            if len(content) < length or len(foot) < _FOOT.size:
                raise DataError(f"{path}: truncated: the record at byte {offset} is cut off")
            if masked_crc(content) != _FOOT.unpack(foot)[0]:
                raise DataError(f"{path}: damaged: the record at byte {offset} has a wrong checksum")
            yield content
            offset += _HEAD.size + length + _FOOT.size

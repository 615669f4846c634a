"""A file that would take more memory than its picture may is refused before anything is decoded."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from helpers.common import one_line
from helpers.picture_files import encode_tiff

from glcic_jax.errors import DataError
from glcic_jax.pictures import read_picture


def rare_tiff(pixels: np.ndarray, **options) -> bytes:
    """A TIFF that Pillow does not decode."""
    return encode_tiff(pixels, photometric="rgb", **options)


def plain_tiff(**more: int) -> bytes:
    """A TIFF of 16 x 16 black pixels in one tile, that Pillow decodes, with another tile size or depth."""
    tags = {
        256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: more.get("tile", 16), 323: more.get("tile", 16)
    }  # fmt: skip
    data = zlib.compress(bytes(tags[322] * tags[323]))
    tags |= {324: 8 + 2 + 12 * 11 + 4, 325: len(data), 32997: more.get("depth", 1)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def refusal(content, max_pixels: int) -> str:
    with pytest.raises(DataError) as caught:
        read_picture(content, "a.tif", max_pixels)
    assert one_line(caught).startswith("a.tif: ")
    return str(caught.value)


def test_tiles_count_as_pixels():
    assert read_picture(plain_tiff(), max_pixels=256).size == (16, 16)
    assert "tiles of 512 x 512" in refusal(plain_tiff(tile=512), 300)
    assert read_picture(plain_tiff(tile=512), max_pixels=512 * 512).size == (16, 16)
    rare = rare_tiff(np.zeros((16, 16, 3), np.float32), compression="zlib", tile=(512, 512))
    assert "--max-pixels 262144" in refusal(rare, 300)
    assert read_picture(rare).size == (16, 16)


def test_layers_in_depth_are_refused():
    assert "has 100 layers" in refusal(plain_tiff(depth=100), 300)
    placeholder = struct.pack("<HHII", 32990, 4, 1, 100)
    rare = rare_tiff(np.zeros((16, 16, 3), np.float32), extratags=[(32990, 4, 1, 100, True)])
    assert placeholder in rare
    assert "has 100 layers" in refusal(rare.replace(placeholder, struct.pack("<HHII", 32997, 4, 1, 100)), 300)


@pytest.mark.parametrize("start", [b"no picture at all", b"II*\0"])
def test_a_huge_file_that_is_no_picture_is_not_read(tmp_path, start, monkeypatch):
    path = tmp_path / "big.jpg"
    with open(path, "wb") as file:
        file.write(start)
        os.truncate(file.fileno(), 3 * 2**30)
    monkeypatch.setattr("glcic_jax.pictures.opening.MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="cannot be read as an image") as caught:
        read_picture(path, max_pixels=1000)
    assert ("12,000 bytes" in one_line(caught)) == (start == b"II*\0")


def test_only_the_start_of_an_unknown_file_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"no picture at all" * 1000)
    largest = []
    real = io.open

    class Counting(io.BufferedReader):
        def read(self, size=-1):
            content = super().read(size)
            largest.append(len(content))
            return content

    for module in ("builtins", "io"):
        monkeypatch.setattr(f"{module}.open", lambda path, mode="r", *_: Counting(real(path, mode, buffering=0)))
    with pytest.raises(DataError, match="no known format"):
        read_picture(path)
    assert largest
    assert max(largest) < 5000


def test_tifffile_logs_nothing(caplog):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (9, 9, 3)).astype(np.uint16)
    damaged = rare_tiff(pixels, extratags=[(40000, 4, 9, list(range(9)), True)])
    place = damaged.index(struct.pack("<HHI", 40000, 4, 9)) + 8
    damaged = damaged[:place] + struct.pack("<I", 0x7FFFFF00) + damaged[place + 4 :]
    tifffile.tifffile.logger().setLevel("WARNING")
    np.testing.assert_array_equal(read_picture(damaged).pixels, pixels)
    assert not [record for record in caplog.records if record.name == "tifffile"]

"""Files in the layout of MNIST."""

import gzip
import struct
from pathlib import Path

import numpy as np


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of uint8 as an IDX file."""
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def blobs(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright squares at ten places on a black ground, [count, side, side], and the number of each one's place."""
    label = np.arange(count) % 10
    image = np.zeros((count, side, side), np.uint8)
    for index, place in enumerate(label):
        row, column = divmod(int(place), 4)
        quarter = side // 4
        image[index, row * quarter : (row + 1) * quarter, column * quarter : (column + 1) * quarter] = (
            250 - index % 7
        )
    return image, label


def write_mnist(folder: Path, side: int, train: int = 40, validation: int = 8) -> Path:
    """The four files, of blobs; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", train), ("t10k", validation)):
        image, label = blobs(count, side)
        for kind, array in (("images-idx3-ubyte", image), ("labels-idx1-ubyte", label)):
            (folder / f"{prefix}-{kind}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return folder

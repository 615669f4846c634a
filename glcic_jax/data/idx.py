"""MNIST's own files (IDX), plain or compressed by gzip: http://yann.lecun.com/exdb/mnist."""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from glcic_jax.errors import DataError, one_line, printable

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_DIMENSIONS = {IMAGES: 3, LABELS: 1}
# The first part of the names of each split's files.
SPLITS = {"train": "train", "validation": "t10k"}


class IdxSource:
    """Grey images of one IDX file, as an `ImageSource`.

    Args:
      image: [N, H, W] uint8.
      name: Name of the file in messages.
    """

    def __init__(self, image: np.ndarray, name: str):
        self._image = image
        self._name = name

    def __len__(self) -> int:
        return len(self._image)

    def read(self, index: int) -> bytes:
        image = self._image[index]
        return b"P5 %d %d 255\n" % image.shape[::-1] + image.tobytes()  # A PGM file.

    def name(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def short_name(self, index: int) -> str:
        return f"{index}-{zlib.crc32(self._image[index]):08x}"  # All files have the same names and sizes.

    def size(self, index: int) -> int:
        return len(self.read(index))


def open_idx(folder: Path, split: str) -> IdxSource:
    """Opens the images of one split.

    Args:
      folder: The folder that holds the files under the names that MNIST publishes.
      split: A name in `SPLITS`.

    Raises:
      DataError: The file is missing, is not such a file, is truncated, or holds no image.
    """
    path = _find(folder, split, IMAGES)
    return IdxSource(_read(path, IMAGES), printable(str(path)))


def read_idx(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images of one split, [N, H, W] uint8, and their labels, [N] uint8; arguments as in `open_idx`.

    Raises:
      DataError: As in `open_idx`, or the files differ in length.
    """
    image, label = (_read(_find(folder, split, kind), kind) for kind in (IMAGES, LABELS))
    if len(image) != len(label):
        raise DataError(f"{printable(str(folder))}: {len(image)} images and {len(label)} labels of {split}")
    return image, label


def _find(folder: Path, split: str, kind: str) -> Path:
    name = f"{SPLITS[split]}-{kind}"
    found = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
    if not found:
        raise DataError(
            f"{printable(str(folder))}: holds no {name}.gz: give the folder of the four files of MNIST, under the "
            "names that they are published with"
        )
    return found[0]


def _read(path: Path, kind: str) -> np.ndarray:
    name, dimensions = printable(str(path)), _DIMENSIONS[kind]
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: cannot be read ({one_line(error)}): download it again") from error
    header = 4 + 4 * dimensions
    magic = content[:4]
    # Two zeros, the type (8: uint8), the number of dimensions.
    if magic != bytes((0, 0, 8, dimensions)):
        raise DataError(
            f"{name}: begins with {magic.hex() or 'nothing'}, not 000008{dimensions:02x}: no such IDX file"
        )
    if len(content) < header:
        raise DataError(f"{name}: truncated within its header: download it again")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    size = int(np.prod(shape, dtype=object))
    if len(content) - header != size:
        raise DataError(
            f"{name}: holds {len(content) - header:,} bytes of data instead of {size:,} "
            f"({' x '.join(map(str, shape))}): download it again"
        )
    if not size:
        raise DataError(f"{name}: is empty ({' x '.join(map(str, shape))})")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)

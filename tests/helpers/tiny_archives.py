"""Tiny archives with the layout of the published ones, and TFDS's own reading of them, for the tests."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from glcic_jax.data.preparation.archives import Archive
from glcic_jax.data.preparation.recipes import RECIPES
from glcic_jax.data.preparation.tfrecord import masked_crc

LANDMARKS = (
    "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
)


def jpeg(seed: int, height: int = 16, width: int = 16) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for folder in sorted({name.rpartition("/")[0] for name in files} - {""}):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("empty")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def places(directory: Path, write: bool = True) -> dict[str, Archive]:
    """Describes Places365's four archives, and writes them first."""
    if write:
        write_places(directory)
    names = {
        "train": "train_256_places365standard.tar",
        "test": "test_256.tar",
        "validation": "val_256.tar",
        "lists": "filelist_places365-standard.tar",
    }
    return described("places365_small", {role: directory / name for role, name in names.items()})


def write_places(directory: Path) -> None:
    categories = ("a/airfield", "a/airplane_cabin", "z/zen_garden")
    train = [f"{categories[number % 3]}/{number:08}.jpg" for number in range(20)]
    validation = [f"Places365_val_{number:08}.jpg" for number in range(1, 6)]
    test = [f"Places365_test_{number:08}.jpg" for number in range(1, 6)]
    parts = (
        ("train_256_places365standard.tar", "data_256", train, 0),
        ("val_256.tar", "val_256", validation, 100),
        ("test_256.tar", "test_256", test, 200),
    )
    for name, folder, images, first in parts:
        files = {f"{folder}/{image}": jpeg(seed, 256, 256) for seed, image in enumerate(images, first)}
        write_tar(directory / name, files)
    labels = (0, 1, 364)
    lists = {
        "categories_places365.txt": "/a/airfield 0\n",
        "places365_train_standard.txt": "".join(f"/{name} {labels[n % 3]}\n" for n, name in enumerate(train)),
        "places365_val.txt": "".join(f"{name} {7 * n}\n" for n, name in enumerate(validation)),
        "places365_test.txt": "".join(f"{name}\n" for name in test),
    }
    write_tar(directory / "filelist_places365-standard.tar", {name: text.encode() for name, text in lists.items()})


def celeb_a(directory: Path, count: int = 12) -> dict[str, Archive]:
    """Writes CelebA's archive and its four tables; of the images, every fourth is held out for each part."""
    import tensorflow_datasets as tfds

    attributes = list(tfds.builder("celeb_a", data_dir=directory / "none").info.features["attributes"])
    names = [f"{number:06}.jpg" for number in range(1, count + 1)]
    generator = np.random.default_rng(0)
    signs, points = generator.choice((-1, 1), (count, len(attributes))), generator.integers(0, 178, (count, 10))

    def table(heading: str, rows: np.ndarray) -> str:
        lines = [
            f"{name}  {' '.join(f'{value:2}' for value in row)}" for name, row in zip(names, rows, strict=True)
        ]
        return "\n".join([str(count), heading + " ", *lines, ""])

    write_zip(
        directory / "img_align_celeba.zip",
        {f"img_align_celeba/{name}": jpeg(seed, 218, 178) for seed, name in enumerate(names)},
    )
    texts = {
        "list_eval_partition.txt": "".join(f"{name} {max(0, n % 4 - 1)}\n" for n, name in enumerate(names)),
        "list_landmarks_align_celeba.txt": table(LANDMARKS, points),
        "list_attr_celeba.txt": table(" ".join(attributes), signs),
        "identity_CelebA.txt": "".join(f"{name} {2880 + n}\n" for n, name in enumerate(names)),
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
    roles = ("images", "partition", "landmarks", "attributes", "identity")
    paths = {role: directory / name for role, name in zip(roles, ["img_align_celeba.zip", *texts], strict=True)}
    return described("celeb_a", paths)


def facades(directory: Path) -> dict[str, Archive]:
    """Writes the archive of cycle_gan/facades."""
    folders = {"trainA": 5, "trainB": 4, "testA": 2, "testB": 3}
    files = {
        f"facades/{folder}/{number}_{folder[-1]}.jpg": jpeg(number, 8, 12)
        for folder, count in folders.items()
        for number in range(count)
    }
    return described("cycle_gan/facades", {"images": write_zip(directory / "facades.zip", files)})


def described(name: str, paths: dict[str, Path]) -> dict[str, Archive]:
    """What the preparation is to expect of these files."""
    urls = RECIPES[name].urls
    assert set(urls) == set(paths)
    return {
        role: Archive(path.name, urls[role], path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for role, path in paths.items()
    }


class LocalFiles:
    """Takes the place of TFDS's download manager, whose reading of archives needs TensorFlow."""

    def __init__(self, directory: Path, archives: dict[str, Archive], unpacked: Path):
        self._paths = {archive.url: directory / archive.name for archive in archives.values()}
        self._unpacked = unpacked
        self.downloaded_size = sum(archive.size for archive in archives.values())

    def download(self, urls):
        return {key: self._paths[url] for key, url in urls.items()}

    def download_and_extract(self, url):
        path = self._paths[url]
        target = self._unpacked / path.stem
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(target, [name for name in archive.namelist() if name != "empty/"])
        else:
            with tarfile.open(path) as tar:
                tar.extractall(target)  # Our own archive; Python 3.11.2, which is Debian's, knows no filter.
        return str(target)

    def iter_archive(self, path):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield name, io.BytesIO(archive.read(name))
        else:
            with tarfile.open(path) as tar:
                for member in filter(tarfile.TarInfo.isreg, tar):
                    yield member.name, tar.extractfile(member)


def records_in(path: Path) -> list[bytes]:
    """All records of an array_record file."""
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(str(path)).read_all()


def silent(line: str) -> None:
    """Takes what is told, which has to be one line."""
    assert len(line.splitlines()) == 1


def write_tfrecord(path: Path, records: list[bytes]) -> Path:
    """Writes a TFRecord file as TensorFlow does."""
    with path.open("wb") as file:
        for record in records:
            length = len(record).to_bytes(8, "little")
            for part in (length, record):
                file.write(part + masked_crc(part).to_bytes(4, "little"))
    return path


def interrupt(patch, place: int, *functions) -> None:
    """Makes the call number `place` of any of these (owner, name) raise KeyboardInterrupt."""
    left = iter(range(place))
    for owner, name in functions:
        plain = getattr(owner, name)

        def interrupted(*arguments, plain=plain):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return plain(*arguments)

        patch.setattr(owner, name, interrupted)


def raise_keyboard_interrupt(*_):
    """Stands for any function while which Ctrl-C is pressed."""
    raise KeyboardInterrupt

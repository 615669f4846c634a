"""Writes one split of a data set as TFDS would: the same examples, in the same order, in the same shards."""

import contextlib
import io
import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from glcic_jax.data.preparation.recipes import Split
from glcic_jax.data.preparation.shards import Shard, Workspace, shard_names
from glcic_jax.errors import DataError, one_line
from glcic_jax.progress import Progress, Tell

_SAMPLED = 16  # Examples that tell how much the features beside the image take.

Serialise = Callable[[bytes, dict[str, Any]], bytes]


def write_split(
    name: str, list_examples: Callable[[], Split], workspace: Workspace, builder: Any, tell: Tell
) -> list[Shard]:
    """Writes the shards of a split that are not finished yet.

    TFDS sorts examples by a hash of their keys, through temporary files as large as the data set. The archives'
    tables of contents give the same order beforehand: each shard then fetches its images where they lie, in the
    order in which they lie, and no second copy is written. Each shard is one sparse pass over the whole archive.
    In memory are one shard, 64 to 128 MiB as a rule, and the tables of contents with what is said of each image:
    half a GiB for the 1.8 million of Places365.

    Args:
      name: The split's name.
      list_examples: Lists its examples; not called where all shards are finished.
      workspace: Where they are written.
      builder: TFDS's builder of the data set.
      tell: Takes lines for the person who waits.

    Raises:
      DataError: The archives hold no such split or a damaged one, or the disk is full or cannot be written.
    """
    prefix = f"{builder.name}-{name}.array_record"
    if (finished := workspace.finished_split(prefix)) is not None:
        return finished
    tell(f"{name}: reading the archive's table of contents")
    split = list_examples()
    with contextlib.closing(split.members):
        return _write_shards(name, prefix, split, workspace, builder, tell)


def _write_shards(
    name: str, prefix: str, split: Split, workspace: Workspace, builder: Any, tell: Tell
) -> list[Shard]:
    from tensorflow_datasets.core.utils import shard_utils

    count = len(split.keys)
    if count == 0:
        raise DataError(f"the archives hold no image of the split {name}: their layout is not the expected one")
    serialise = _serialiser(builder)
    order = _tfds_order(split.keys, name)
    overhead = _overhead(split, order, serialise)
    total = sum(split.members.sizes[row] for row in split.rows) + round(overhead * count)
    shards = shard_utils.ShardConfig().get_number_shards(total, count)
    ends = shard_utils.get_shard_boundaries(count, shards)
    written = []
    with Progress(f"writing {name}", total, tell) as progress:
        for shard_name, start, end in zip(shard_names(prefix, shards), [0, *ends], ends, strict=False):
            places = order[start:end]
            size = sum(split.members.sizes[split.rows[place]] for place in places) + round(overhead * len(places))
            written.append(workspace.write(shard_name, _records(split, places, serialise), size, len(places)))
            progress.advance(size)
    return written


def _tfds_order(keys: Sequence[str], split: str) -> Sequence[int]:
    """The places of the examples in the order of TFDS: by the hash of their keys, salted with the split's name."""
    from tensorflow_datasets.core.hashing import Hasher

    hasher = Hasher(split)
    hashes = [hasher.hash_key(key) for key in keys]
    order = array("q", sorted(range(len(keys)), key=hashes.__getitem__))
    for one, other in itertools.pairwise(order):
        if hashes[one] == hashes[other]:
            raise DataError(f"the archive has two images for the example {keys[one]} of the split {split}")
    return order


def _records(split: Split, places: Sequence[int], serialise: Serialise) -> Iterator[bytes]:
    images = {}
    for place in sorted(places, key=lambda place: split.members.offsets[split.rows[place]]):
        images[place] = split.members.read(split.rows[place])
    for place in places:
        yield serialise(images.pop(place), split.describe(split.keys[place]))


def _overhead(split: Split, order: Sequence[int], serialise: Serialise) -> float:
    """Mean bytes of a serialised example beside its image."""
    sampled = order[:: max(1, len(order) // _SAMPLED)][:_SAMPLED]
    rows = [split.rows[place] for place in sampled]
    images = [split.members.read(row) for row in rows]
    records = [
        serialise(image, split.describe(split.keys[place])) for image, place in zip(images, sampled, strict=True)
    ]
    return (sum(map(len, records)) - sum(map(len, images))) / len(sampled)


def _serialiser(builder: Any) -> Serialise:
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = builder.info.features
    serializer = ExampleSerializer(features.get_serialized_info())

    def serialise(image: bytes, described: dict[str, Any]) -> bytes:
        try:
            # The image stays encoded as it came.
            encoded = features.encode_example({"image": io.BytesIO(image), **described})
            # Otherwise features come in another order in each process, and a resumed result would differ.
            return serializer.get_tf_example(encoded).SerializeToString(deterministic=True)
        except Exception as error:  # TFDS's feature connectors raise many types.
            raise DataError(
                f"an example does not fit the features of {builder.name} ({one_line(error)})"
            ) from error

    return serialise

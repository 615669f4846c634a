"""Prepares a TFDS data set as array_record from its published archives, or from a TFRecord preparation.

The result is what TFDS itself would write: its directory, its features, its order of examples, its shards.
"""

import functools
import importlib.util
import os
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glcic_jax.data.preparation import shards
from glcic_jax.data.preparation.archives import Archive, find_archive, verify
from glcic_jax.data.preparation.download import download
from glcic_jax.data.preparation.recipes import RECIPES, Recipe
from glcic_jax.data.preparation.shards import write_split
from glcic_jax.data.preparation.tfrecord import convert
from glcic_jax.data.tfds import prepared_info, prepared_versions, training_splits
from glcic_jax.errors import ConfigError, DataError
from glcic_jax.progress import Log as Tell
from glcic_jax.progress import format_bytes as in_words

_MARGIN = 64 << 20  # Bytes kept free beside the estimate.
_BY_HAND = ("drive.google.com",)  # Hosts that ask a person before they give a large file.


def prepare(
    name: str,
    root: Path,
    source: Path | None,
    tell: Tell,
    archives: Mapping[str, Archive] | None = None,
) -> Path:
    """Prepares a data set as array_record, or goes on where an interrupted call stopped.

    Args:
      name: One of `RECIPES`; any TFDS data set where a TFRecord preparation is there to be converted. Either may
        be followed by :VERSION.
      root: TFDS's data directory.
      source: A directory with the archives, or with the data set as TFRecord; None to look in `root` for the data
        set as TFRecord, then for archives in its `downloads`, and to download what is missing.
      tell: Takes lines for the person who waits.
      archives: What the archives have to be, by role; None for what TFDS registers.

    Returns:
      The directory of the result.

    Raises:
      ConfigError: The data set is unknown, or the version cannot be made.
      DataError: An archive is missing or damaged, or the disk is too small or cannot be written.
    """
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise DataError("preparing a TFDS data set needs TFDS: pip install tensorflow-datasets")
    name, _, version = name.partition(":")
    present = _newest(name, version, root)
    if present is not None and "array_record" in prepared_info(present).formats:
        shards.clear_notes(present)
        shards.check_complete(present)
        tell(f"{present} is prepared already")
        return present
    if source is not None and not source.is_dir():
        what = "a file" if source.exists() else "no such directory"
        raise DataError(f"{source}: {what}; --from takes a directory with archives or with a TFDS data set")
    origin = (_find_preparation(name, version, source) if source is not None else None) or present
    if origin is not None:
        return convert(name, version, origin, root, tell)
    if name not in RECIPES:
        raise ConfigError(
            f"unknown data set {name!r}: choose one of {', '.join(sorted(RECIPES))}; any other of TFDS is "
            "converted where TFDS has prepared it as TFRecord: give its directory with --from"
        )
    recipe = RECIPES[name]
    builder = _builder(name, root)
    if version not in ("", str(builder.version)):
        raise ConfigError(
            f"{name}:{version} is not prepared in {source or root}, and the installed TFDS makes another version "
            f"from the archives: glcic data prepare {name}:{builder.version}"
        )
    if archives is None:
        archives = _registered(recipe, builder)
    return _prepare_from_archives(recipe, builder, archives, root, source, tell)


def training_command(name: str, directory: Path, data_dir: str) -> str:
    """The command that trains on a prepared data set.

    Args:
      name: As in `prepare`.
      directory: What `prepare` returned.
      data_dir: TFDS's data directory; empty where it need not be named.
    """
    plain = name.partition(":")[0]
    config = RECIPES[plain].config if plain in RECIPES else "joint"
    flags = {"source": f"tfds:{name}"}
    chosen = training_splits(prepared_info(directory).splits)
    for split, usual in zip(chosen, ("train", "validation"), strict=True):
        if split != usual:
            flags[f"{usual}_split"] = split
    if data_dir:
        flags["tfds_dir"] = data_dir
    shown = (shlex.quote(f"--config.data.{key}={value}") for key, value in flags.items())
    return " ".join(["python main.py", f"--config=configs/{config}.py", *shown])


def _newest(name: str, version: str, root: Path) -> Path | None:
    """The newest preparation, or the one of the version if it is not empty."""
    found = [path for path in prepared_versions(name, root) if version in ("", path.name)]
    return found[-1] if found else None


def _find_preparation(name: str, version: str, source: Path) -> Path | None:
    """The preparation that --from gives: a version's directory, the data set's, or TFDS's data directory."""
    if (source / "dataset_info.json").is_file():
        return source
    source = source.absolute()
    roots = [source, *source.parents[: name.count("/") + 1]]
    found = (_newest(name, version, root) for root in roots)
    return next((path for path in found if path is not None and path.is_relative_to(source)), None)


def _builder(name: str, root: Path) -> Any:
    import tensorflow_datasets as tfds

    # Below a directory that is not there: an old preparation's features would take the place of the builder's.
    return tfds.builder(name, data_dir=root / ".glcic-none", file_format="array_record")


def _registered(recipe: Recipe, builder: Any) -> dict[str, Archive]:
    infos = builder.url_infos
    missing = [url for url in recipe.urls.values() if url not in infos]
    if missing:
        raise DataError(
            f"the installed TFDS registers no checksum for {missing[0]}: install tensorflow-datasets 4.9"
        )
    return {
        role: Archive(infos[url].filename or os.path.basename(url), url, int(infos[url].size), infos[url].checksum)
        for role, url in recipe.urls.items()
    }


def _prepare_from_archives(
    recipe: Recipe,
    builder: Any,
    archives: Mapping[str, Archive],
    root: Path,
    source: Path | None,
    tell: Tell,
) -> Path:
    final = root / builder.info.full_name
    if final.exists():
        raise DataError(f"{final} is there already and is no prepared data set: move it away")
    work = final.with_name(final.name + ".incomplete-glcic")
    downloads = root / "downloads"
    places = [source, source / "downloads"] if source is not None else [downloads]
    found = {role: find_archive(archive, places) for role, archive in archives.items()}
    missing = [archive for role, archive in archives.items() if found[role] is None]
    _refuse_what_cannot_be_downloaded(missing, source, downloads)
    with shards.locked(work):
        if shards.finished_meanwhile(work, final):
            return final
        plan = {role: archive.sha256 for role, archive in archives.items()}
        workspace = shards.Workspace(work, plan)
        _tell_space(recipe, archives, missing, workspace, downloads, tell)
        for archive in missing:
            download(archive.url, downloads / archive.name, archive.size, tell)
        files = {role: found[role] or downloads / archive.name for role, archive in archives.items()}
        for role, archive in archives.items():
            verify(archive, files[role], work / shards.MEMORY, tell)
        splits = {
            split: write_split(split, functools.partial(examples, files), workspace, builder, tell)
            for split, examples in recipe.splits.items()
        }
        describe = functools.partial(
            _describe, builder, splits, sum(archive.size for archive in archives.values())
        )
        workspace.finish(final, describe)
    if missing:
        size = in_words(sum(archive.size for archive in missing))
        names = ", ".join(archive.name for archive in missing)
        tell(f"what was downloaded to {downloads} is not needed any more and takes {size}: {names}")
    return final


def _refuse_what_cannot_be_downloaded(missing: Sequence[Archive], source: Path | None, downloads: Path) -> None:
    if source is not None and missing:
        raise DataError(
            f"{source} lacks {len(missing)} archives: {', '.join(map(str, missing))}; download them there, or "
            "leave out --from to have them downloaded"
        )
    by_hand = [archive for archive in missing if urllib.parse.urlparse(archive.url).hostname in _BY_HAND]
    if by_hand:
        raise DataError(
            f"{len(by_hand)} archives have to be downloaded with a browser, because Google Drive asks a person "
            f"first: {', '.join(map(str, by_hand))}; put them under these names into one directory "
            f"and give it with --from, or into {downloads}"
        )


def _tell_space(
    recipe: Recipe,
    archives: Mapping[str, Archive],
    missing: Sequence[Archive],
    workspace: shards.Workspace,
    downloads: Path,
    tell: Tell,
) -> None:
    """Says what will be downloaded and written and what is free; refuses where it does not fit."""
    parts = [downloads / f"{archive.name}.part" for archive in missing]
    to_download = sum(archive.size for archive in missing)
    there = sum(part.stat().st_size for part in parts if part.exists())
    result = int(sum(archives[role].size for role in recipe.images) * recipe.growth)
    written = workspace.size_on_disk()
    if missing:
        tell(f"to download  {in_words(to_download)} in {len(missing)} files, {in_words(there)} of it are there")
    tell(f"the result   about {in_words(result)}, {in_words(written)} of it are there")
    tell(f"free         {in_words(shards.free_space(workspace.directory))} at {workspace.directory}")
    download, rest = max(0, to_download - there), max(0, result - written) + _MARGIN
    if missing and not shards.on_one_disk(downloads, workspace.directory):
        shards.require_space(downloads, download)
        download = 0
    shards.require_space(workspace.directory, download + rest)


def _describe(
    builder: Any, splits: Mapping[str, Sequence[shards.Shard]], download_size: int, directory: Path
) -> None:
    """Writes TFDS's description of the data set."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.naming import ShardedFileTemplate

    template = ShardedFileTemplate(data_dir=directory, dataset_name=builder.name, filetype_suffix="array_record")
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard.records for shard in written],
            num_bytes=sum(shard.num_bytes for shard in written),
            filename_template=template.replace(split=split),
        )
        for split, written in splits.items()
    ]
    builder.info.set_splits(tfds.core.splits.SplitDict(infos))
    builder.info.download_size = download_size
    builder.info.write_to_directory(directory)

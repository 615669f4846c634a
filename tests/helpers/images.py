"""Tiny images, and sources opened as training opens them."""

import io
from pathlib import Path

from PIL import Image

from glcic_jax.data.sources import Sources, open_sources
from helpers.common import load_config


def png(tag: int) -> bytes:
    """A PNG of 30 x 20 px whose red is 20 times the tag."""
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (tag * 20, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(7))
    return path


def open_with(source: str, **overrides) -> Sources:
    data = load_config("quickstart").data
    data.update(source=source, **overrides)
    return open_sources(data)


def contents(source) -> list[bytes]:
    return sorted(source.read(index) for index in range(len(source)))


def short_names(source) -> list[str]:
    return [source.short_name(index) for index in range(len(source))]

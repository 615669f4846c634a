"""What the page's buttons do; nothing here knows how the page is made."""

import importlib.util
import json
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from glcic_jax.completion import OnWindow, Settings
from glcic_jax.errors import DataError, TooLargeError, printable
from glcic_jax.pictures import (
    Hole,
    MaskSettings,
    Picture,
    apply_settings,
    coverage_note,
    hole_of_file,
    random_hole,
    suffix_for,
    to_colour,
)
from glcic_jax.serving.painted_holes import mask_operation, painted_hole
from glcic_jax.serving.private_folder import PrivateFolder
from glcic_jax.serving.service import CompletionRequest, CompletionResult, Limits, Service

_LONGEST_PREVIEW = 1600
_NOTHING_PAINTED = "nothing is painted: paint over what is to vanish, take a mask's file, or a random hole"


class Example(NamedTuple):
    """A photograph of scikit-image's wheel (CC0 or public domain), with what is painted on it.

    Attributes:
      label: What its button says.
      file: Its name.
      operations: As `painted_holes` takes them; in pixels of the photograph.
    """

    label: str
    file: str
    operations: list[dict[str, Any]]

    @property
    def path(self) -> Path:
        """Where it is."""
        spec = importlib.util.find_spec("skimage")
        assert spec is not None
        assert spec.origin is not None
        return Path(spec.origin).parent / "data" / self.file


def _stroke(size: float, *points: tuple[float, float]) -> dict[str, Any]:
    return {"kind": "stroke", "size": size, "erase": False, "points": [list(point) for point in points]}


EXAMPLES = (
    Example("sleeve", "astronaut.png", [_stroke(34, (36, 345), (40, 378))]),
    Example("saucer", "coffee.png", [_stroke(24, (118, 168), (112, 192))]),
    Example("cat", "chelsea.png", [_stroke(16, (222, 186), (230, 192))]),
)


class Choices(NamedTuple):
    """How a hole is filled, as a visitor chose."""

    weights: str
    strategy: str
    blend: bool
    grow: int
    keep_exif: bool
    file_format: str | None


class Shown(NamedTuple):
    """A result, as files that are there until the folder is emptied.

    Attributes:
      before, after: Reduced pictures to be compared.
      result: The completed picture.
      notes: What was noticed and done, a line each.
    """

    before: Path
    after: Path
    result: Path
    notes: tuple[str, ...]


def opened(service: Service, folder: PrivateFolder, photograph: Path, operations: list[dict[str, Any]]) -> str:
    """What painter.js opens, as JSON.

    Args:
      service: What reads.
      folder: Where the reduced picture lies that it fetches: what is sent to nobody who listens, is kept.
      photograph: Its file.
      operations: What is painted on it.

    Raises:
      UserError: It cannot be read.
    """

    def shown(picture: Picture) -> str:
        width, height = picture.size
        preview = str(placed(folder, "preview.jpg", _jpeg(picture)))
        return json.dumps(
            {"preview": preview, "width": width, "height": height, "operations": operations}, allow_nan=False
        )

    return service.preview(lambda: _content(photograph, service.limits), photograph.name, shown).result()


def hole_of_mask(service: Service, photograph: Path, mask: Path, invert: bool, fit: bool) -> str:
    """The painter's operation, as JSON, for the hole of a mask's file.

    Raises:
      UserError: One of the two cannot be read, or they do not fit together.
    """
    settings = MaskSettings(invert, fit, max_pixels=service.limits.max_pixels)
    choose = hole_of_file(_content(mask, service.limits), mask.name, settings)

    def hole(picture: Picture) -> np.ndarray:
        found = choose(picture)[1].hole
        if not found.any():
            raise DataError(coverage_note(found))
        return found

    return _operation(service, photograph, hole)


def hole_at_random(service: Service, photograph: Path) -> str:
    """The painter's operation, as JSON, for a random hole."""
    seed = secrets.randbelow(1 << 32)
    return _operation(service, photograph, lambda picture: random_hole(seed, *picture.pixels.shape[:2]).hole)


def mask_file(service: Service, photograph: Path, operations: str) -> str:
    """What painter.js saves, as JSON: a mask of the photograph's size of what is painted.

    Raises:
      UserError: The photograph cannot be read, or nothing is painted.
    """
    operation = _operation(service, photograph, lambda picture: _painted(operations, picture))
    return json.dumps({"name": f"{photograph.stem}_mask.png", "uri": json.loads(operation)["png"]})


def ordered(
    service: Service,
    photograph: Path,
    operations: str,
    choices: Choices,
    gone: threading.Event,
    on_window: OnWindow,
) -> "Future[CompletionResult]":
    """Orders what is painted to be filled; the caller holds a `Service.queue_place`.

    The result is the command's for the same photograph, the file of `mask_file`, and the same options.

    Raises:
      UserError: The photograph's file cannot be taken.
    """
    mask = MaskSettings(grow=choices.grow)

    def choose(picture: Picture) -> tuple[Picture, Hole]:
        return picture, apply_settings(Hole(_painted(operations, picture), ()), mask)

    settings = Settings(
        strategy=choices.strategy,
        blend=choices.blend,
        file_format=choices.file_format,
        drop_exif=not choices.keep_exif,
    )
    request = CompletionRequest(_content(photograph, service.limits), choose, settings, choices.weights)
    return service.submit(request, gone, on_window)


def shown(service: Service, folder: PrivateFolder, photograph: Path, result: CompletionResult) -> Shown:
    """Puts a result where the page can fetch it."""
    smalls = []
    for name, load in (
        ("before", lambda: _content(photograph, service.limits)),
        ("after", lambda: result.content),
    ):
        smalls.append(placed(folder, f"{name}.jpg", service.preview(load, name, _jpeg).result()))
    name = f"{photograph.stem}_completed{suffix_for(result.file_format, photograph)}"
    return Shown(smalls[0], smalls[1], placed(folder, name, result.content), result.notes)


def placed(folder: PrivateFolder, name: str, content: bytes) -> Path:
    """Writes a file where the page can fetch it, and nobody else guesses it."""
    place = folder.path / secrets.token_hex(16)
    place.mkdir()
    (place / name).write_bytes(content)
    return place / name


def reduced(pixels: np.ndarray) -> np.ndarray:
    """A picture [H, W, C] as a screen shows it: [h, w, 3] uint8, what is transparent white, no side too long."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _LONGEST_PREVIEW / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    return np.rint(255 * to_colour(pixels)).astype(np.uint8)


def _jpeg(picture: Picture) -> bytes:
    small = reduced(picture.pixels)
    return cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def _operation(service: Service, photograph: Path, draw: Callable[[Picture], np.ndarray]) -> str:
    return service.preview(
        lambda: _content(photograph, service.limits),
        photograph.name,
        lambda picture: json.dumps(mask_operation(draw(picture))),
    ).result()


def _painted(operations: str, picture: Picture) -> np.ndarray:
    hole = painted_hole(operations, picture.size)
    if not hole.any():
        raise DataError(_NOTHING_PAINTED)
    return hole


def _content(path: Path, limits: Limits) -> bytes:
    """The bytes of a file that a visitor sent.

    Raises:
      DataError: It has been deleted.
      TooLargeError: It is too large.
    """
    try:
        if path.stat().st_size > limits.max_bytes:
            raise TooLargeError(
                f"{printable(path.name)}: at most {limits.max_bytes:,} bytes are taken", "take a smaller one"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(path.name)}: is not kept any more: open it again") from error

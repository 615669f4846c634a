"""Reads and writes image files; every error message about a file comes from here."""

import io
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from glcic_jax.errors import DataError, one_line


def load_image(source: bytes | str | Path, name: str | None = None, at_least: int | None = None) -> np.ndarray:
    """Reads an image in any format that Pillow knows, upright.

    EXIF orientation is applied; grey, palette and CMYK become RGB; 16-bit grey is scaled, not clipped;
    transparency is laid over white; of an animation the first frame is taken.

    Args:
      source: The file's bytes, or its path.
      name: What errors call it; the path where None.
      at_least: If the shorter side may come out smaller than the file's, but not below this many pixels: a
        JPEG is then decoded at a half, a quarter or an eighth of its size, which is much faster.

    Returns:
      [H, W, 3] uint8 RGB.

    Raises:
      DataError: Not an image, damaged, truncated, empty, or above Pillow's limit of 178 megapixels.
    """
    if name is None:
        name = "image" if isinstance(source, bytes) else str(source)
    try:
        with warnings.catch_warnings():
            # Pillow warns of what is an error here, and of metadata that nobody reads.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return _to_rgb(image, name, at_least)
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: cannot be read as an image (no known format)") from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged input.
        raise DataError(f"{name}: cannot be read as an image ({one_line(error)})") from error


def save_image(image: np.ndarray, path: str | Path) -> None:
    """Writes [H, W, 3] or [H, W] uint8 to a file, format by its suffix; aside first, then renamed.

    Raises:
      DataError: The suffix is unknown, the array is no image, or the file cannot be written.
    """
    path = Path(path)
    image_format = Image.registered_extensions().get(path.suffix.lower())
    if image_format is None:
        raise DataError(f"{path}: cannot be written: use a suffix like .png, .jpg, .webp or .tiff")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({one_line(error)})") from error
    try:
        with os.fdopen(handle, "wb") as file:
            Image.fromarray(image).save(file, format=image_format)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except (OSError, KeyError, TypeError, ValueError) as error:
        os.unlink(aside)
        raise DataError(f"{path}: cannot be written ({one_line(error)})") from error


def _to_rgb(image: Image.Image, name: str, at_least: int | None) -> np.ndarray:
    width, height = image.size
    if at_least is not None and image.format == "JPEG":
        factors = (factor for factor in (8, 4, 2) if -(-min(width, height) // factor) >= at_least)
        factor = next(factors, 1)
        image.draft(None, (max(1, width // factor), max(1, height // factor)))
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        return np.repeat(_wide_grey_to_uint8(np.asarray(upright))[..., None], 3, axis=-1)
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        canvas = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(canvas, upright)
    return np.asarray(upright.convert("RGB"))


def _wide_grey_to_uint8(grey: np.ndarray) -> np.ndarray:
    """Scales 16-bit, 32-bit or float grey, whose range no header tells, to uint8."""
    values = np.nan_to_num(grey.astype(np.float64), posinf=0.0, neginf=0.0)
    largest = float(values.max(initial=0.0))
    # The smallest usual range that holds the values: [0, 1], 8, 16 or 32 bits.
    peak = next((p for p in (1.0, 255.0, 65535.0) if largest <= p), 2.0**32 - 1)
    if np.issubdtype(grey.dtype, np.integer):
        peak = max(peak, 65535.0)
    return np.round(np.clip(values / peak, 0.0, 1.0) * 255.0).astype(np.uint8)

"""From a picture's file to what it holds: by which reader, and only if it fits the memory."""

from pathlib import Path

from PIL import UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from glcic_jax.errors import DataError
from glcic_jax.pictures import sixteen_bit
from glcic_jax.pictures.picture_decoding import Decoded, decode, decode_rare_tiff
from glcic_jax.pictures.picture_limits import check_size, check_tiff, head, whole
from glcic_jax.pictures.rgb_files import heif_formats, open_any, opened

# How a HEIC file names its kind, behind the word `ftyp`.
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)
_TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decode_file(source: bytes | str | Path, name: str, max_pixels: int) -> Decoded:
    """Opens, checks and decodes a picture, as `pictures.read_picture` says.

    Args:
      source: The file's bytes, or its path.
      name: What errors call it.
      max_pixels: Larger pictures are not decoded.

    Raises:
      DataError: Not an image, damaged, truncated, empty, animated, or too large.
    """
    try:
        with opened(source, name, open_any) as image:
            check_size(image.size, name, max_pixels)
            if isinstance(image, TiffImageFile):
                check_tiff(image.tag_v2, name, max_pixels)
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":
                raise DataError(
                    f"{name}: has {frames} frames or pages: save the one to complete as a file of its own"
                )
            decoded = decode(image, source)
    except DataError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise
        start = head(source)
        if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS and not heif_formats():
            raise DataError(f"{name}: is a HEIC file: pip install 'glcic-jax[heic]' to read it") from error
        if start[:4] not in _TIFF_MARKS:
            raise
        decoded = _decode_rare_tiff(whole(source, name, max_pixels), name, max_pixels, error)
    return decoded


def _decode_rare_tiff(content: bytes, name: str, max_pixels: int, unknown: DataError) -> Decoded:
    try:
        size, tags = sixteen_bit.tiff_size(content)
        check_size(size, name, max_pixels)
        check_tiff(tags, name, max_pixels)
        return decode_rare_tiff(content)
    except DataError:
        raise
    except Exception as error:  # A damaged TIFF makes its reader raise nearly every type.
        raise unknown from error

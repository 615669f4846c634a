"""Picture files: formats, metadata, masks, classical fills."""

from glcic_jax.pictures.mask_files import ChooseHole, Hole, MaskSettings, coverage_note, read_mask
from glcic_jax.pictures.opening import MAX_PIXELS, silence_decoders
from glcic_jax.pictures.picture import Picture, encode_picture, fitted, format_for, format_named, suffix_for
from glcic_jax.pictures.reading import read_picture
from glcic_jax.pictures.rgb_files import load_image, save_image

__all__ = [
    "MAX_PIXELS",
    "ChooseHole",
    "Hole",
    "MaskSettings",
    "Picture",
    "coverage_note",
    "encode_picture",
    "fitted",
    "format_for",
    "format_named",
    "load_image",
    "read_mask",
    "read_picture",
    "save_image",
    "silence_decoders",
    "suffix_for",
]

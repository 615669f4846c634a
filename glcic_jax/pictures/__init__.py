"""Picture files: formats, metadata, masks. `fills` is imported by itself, because it imports OpenCV."""

from glcic_jax.pictures.colours import colour_channels, from_colour, to_colour
from glcic_jax.pictures.mask_files import (
    ChooseHole,
    Hole,
    MaskSettings,
    apply_settings,
    coverage_note,
    coverage_warning,
    hole_at_random,
    hole_from_pixels,
    hole_of_alpha,
    hole_of_file,
    random_hole,
    read_mask,
    same_aspect,
)
from glcic_jax.pictures.metadata import fitting_profile
from glcic_jax.pictures.opening import MAX_PIXELS, readable_suffixes, silence_decoders, silence_libtiff
from glcic_jax.pictures.picture import (
    Picture,
    check_sides,
    encode_picture,
    fitted,
    format_for,
    format_named,
    suffix_for,
    without_metadata,
)
from glcic_jax.pictures.reading import read_picture
from glcic_jax.pictures.rgb_files import load_image, save_image
from glcic_jax.pictures.tiles import tile, tile_all

__all__ = [
    "MAX_PIXELS",
    "ChooseHole",
    "Hole",
    "MaskSettings",
    "Picture",
    "apply_settings",
    "check_sides",
    "colour_channels",
    "coverage_note",
    "coverage_warning",
    "encode_picture",
    "fitted",
    "fitting_profile",
    "format_for",
    "format_named",
    "from_colour",
    "hole_at_random",
    "hole_from_pixels",
    "hole_of_alpha",
    "hole_of_file",
    "load_image",
    "random_hole",
    "read_mask",
    "read_picture",
    "readable_suffixes",
    "same_aspect",
    "save_image",
    "silence_decoders",
    "silence_libtiff",
    "suffix_for",
    "tile",
    "tile_all",
    "to_colour",
    "without_metadata",
]

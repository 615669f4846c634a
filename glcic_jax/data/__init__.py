"""From the name of a data set to batches of uint8 crops."""

from glcic_jax.data.folders import list_folder
from glcic_jax.data.skipped_files import SkippedFiles
from glcic_jax.data.sources import ImageSource, Sources, directory_of, open_images, open_sources

__all__ = [
    "ImageSource",
    "SkippedFiles",
    "Sources",
    "directory_of",
    "list_folder",
    "open_images",
    "open_sources",
]

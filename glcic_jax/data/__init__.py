"""From the name of a data set to batches of uint8 crops."""

from glcic_jax.data.folders import COMPLETION_SUFFIXES, list_folder
from glcic_jax.data.sources import ImageSource, Sources, open_images, open_sources

__all__ = ["COMPLETION_SUFFIXES", "ImageSource", "Sources", "list_folder", "open_images", "open_sources"]

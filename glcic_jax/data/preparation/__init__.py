"""Preparing TFDS data sets."""

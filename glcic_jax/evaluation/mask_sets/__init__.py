"""Sets of masks that are the same on every machine."""

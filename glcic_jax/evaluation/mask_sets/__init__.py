"""Fixed mask sets, the same on every machine."""

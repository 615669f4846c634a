"""Scores of completions against the originals."""

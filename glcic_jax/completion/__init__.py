"""Completing pictures with trained weights."""

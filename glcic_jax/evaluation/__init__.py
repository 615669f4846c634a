"""Measuring completions: fixed images and masks, metrics with confidence intervals, and reports.

Commands import `evaluate`, `compare`, `mask_sets.sets` and `tables`; importing the room alone imports nothing heavy.
"""

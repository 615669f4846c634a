"""Measuring completions: fixed images and masks, metrics with confidence intervals, and reports.

Commands import `evaluate`, `compare`, `mask_sets.sets` and `tables`; the room alone imports nothing heavy.
"""

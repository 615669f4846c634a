"""Measuring completions: fixed images and masks, metrics with confidence intervals, and reports."""

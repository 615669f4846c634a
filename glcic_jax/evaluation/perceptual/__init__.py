"""LPIPS and FID."""

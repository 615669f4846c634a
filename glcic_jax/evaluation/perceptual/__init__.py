"""LPIPS and FID, with weights that the user supplies."""

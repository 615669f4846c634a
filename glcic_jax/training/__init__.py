"""The training loop, its steps, and what a run keeps on disk."""

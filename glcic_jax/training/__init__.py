"""The loop, the steps of the three phases, and what a run keeps on disk."""

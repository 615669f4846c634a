"""What the paper defines: pure functions and flax modules."""

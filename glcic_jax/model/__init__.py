"""What the paper defines: pure functions and flax modules."""

from glcic_jax.model.networks import CompletionNetwork, ContextDiscriminator

__all__ = ["CompletionNetwork", "ContextDiscriminator"]

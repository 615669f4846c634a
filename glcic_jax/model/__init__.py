"""The paper's definitions: networks, images, masks, losses, gradient balance, metrics."""

from glcic_jax.model.networks import CompletionNetwork, ContextDiscriminator, complete

__all__ = ["CompletionNetwork", "ContextDiscriminator", "complete"]

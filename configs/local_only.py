"""Ablation: a discriminator that sees the patch around the hole alone.

Command: python main.py --config=configs/local_only.py
Reference: Iizuka et al. 2017, Section 4.3. Result: none measured yet on Places2.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the paper's training with the local branch of the context discriminator alone."""
    config = common.get_config()
    config.discriminator.branches = ("local",)
    return config

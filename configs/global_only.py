"""Ablation: a discriminator of the whole image only.

Command: python main.py --config=configs/global_only.py
Hardware, time, result: not measured yet.
Reference: Iizuka et al. 2017, Section 4.3.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the paper's training with the global branch of the context discriminator only."""
    config = common.get_config()
    config.discriminator.branches = ("global",)
    return config

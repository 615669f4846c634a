"""Ablation: no discriminator; the completion network on the MSE for all 500,000 steps.

Command: python main.py --config=configs/mse_only.py
Hardware, time, result: not measured yet.
Reference: Iizuka et al. 2017, Section 4.3.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the paper's training with the MSE only."""
    config = common.get_config()
    config.discriminator.branches = ()
    config.phases.completion = 500_000
    config.phases.discriminator = 0
    config.phases.joint = 0
    return config

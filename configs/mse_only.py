"""Ablation: no discriminator; the completion network on the MSE for the whole schedule's 500,000 steps.

Command: python main.py --config=configs/mse_only.py
Reference: Iizuka et al. 2017, Section 4.3. Result: none measured yet on Places2.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the paper's training with the MSE alone."""
    config = common.get_config()
    config.discriminator.branches = ()
    config.phases.completion = 500_000
    config.phases.discriminator = 0
    config.phases.joint = 0
    return config

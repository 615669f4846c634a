"""Phase 1 alone: the completion network on the masked MSE, 90,000 steps.

Command: python main.py --config=configs/completion.py
Hardware, time, result: not measured yet.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the paper's training on Places2, stopped after phase 1."""
    config = common.get_config()
    config.phases.discriminator = 0
    config.phases.joint = 0
    return config

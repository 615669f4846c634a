"""Phase 2 alone: the context discriminator against the completion network of phase 1, 10,000 steps.

Command: python main.py --config=configs/discriminator.py, after configs/completion.py (or with
--config.start_from=RUN).
Hardware, time, result: not measured yet.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the paper's training on Places2, from the end of phase 1 to the end of phase 2."""
    config = common.get_config()
    config.phases.joint = 0
    config.start_from = "runs/completion"
    return config

"""The whole paper on Places2: 90,000 + 10,000 + 400,000 steps at batch 96.

Command: python main.py --config=configs/joint.py
With phases 1 and 2 trained elsewhere: --config.start_from=runs/discriminator; finished phases are skipped.
Hardware: the paper took two months on four K80 GPUs.
Result: none measured yet on Places2.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the paper's training on Places2, unchanged."""
    return common.get_config()

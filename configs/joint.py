"""The whole paper on Places2: 90,000 + 10,000 + 400,000 steps at batch 96.

Command: python main.py --config=configs/joint.py
After phases 1 and 2 in another run: --config.start_from=runs/discriminator skips them.
Hardware, time: two months on four K80 GPUs in the paper; not measured here yet.
Result: not measured yet.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the paper's training on Places2, unchanged."""
    return common.get_config()

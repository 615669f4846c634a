"""The whole schedule on a folder of photographs, any nesting.

Command: python main.py --config=configs/folder.py --config.data.source=folder:/path/to/photographs
Result: depends on the photographs.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the paper's training with the folder ./photographs as its data."""
    config = common.get_config()
    config.data.source = "folder:photographs"
    return config

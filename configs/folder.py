"""The whole schedule on a folder of photographs and its subfolders.

Command: python main.py --config=configs/folder.py --config.data.source=folder:/path/to/photographs
Hardware, time, result: not measured yet; the result depends on the photographs.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the paper's training on the folder ./photographs."""
    config = common.get_config()
    config.data.source = "folder:photographs"
    return config

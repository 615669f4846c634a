"""The paper's training on CelebA: 160 px, holes of 48 to 96 px, 96 px local patches.

Command: python main.py --config=configs/celeba.py
Hardware, time, result: not measured yet.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the whole schedule with the paper's sizes for faces."""
    config = common.get_config()
    config.data.source = "tfds:celeb_a"
    config.data.image_size = 160
    config.data.resize_range = (160, 178)
    config.mask.rectangle.min_side = 48
    config.mask.rectangle.max_side = 96
    config.mask.rectangles.min_side = 24
    config.mask.rectangles.max_side = 56
    config.discriminator.local_size = 96
    # One convolution fewer than at 256 px: 160 px end at 5 x 5.
    config.discriminator.global_channels = (64, 128, 256, 512, 512)
    return config

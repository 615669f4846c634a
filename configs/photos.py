"""Weights for photographs, from 2,482 openly licensed ones: 128 px, half of the paper's width, on a CPU.

Command: python main.py --config=configs/photos.py --config.data.source=folder:/path/to/photographs, with the files
that glcic_jax/pretrained/photos.csv lists, names and attributes.
Hardware: two CPU cores; some three hours, reckoned from the first 762 steps.
Result: none measured yet.

What is not the paper's, and why: few images and few steps. Adam learns in fewer steps than AdaDelta; the hole
begins as a smooth continuation of its surroundings, which the network would have to learn from the mean colour;
crops are mirrored; half of the holes are strokes of a brush.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns the whole schedule at 128 px; holes and patches are half as long as the paper's."""
    config = common.get_config()
    config.batch_size = 16
    config.phases.completion = 1_500
    config.phases.discriminator = 100
    config.phases.joint = 400
    config.data.source = "folder:photographs"
    config.data.listing = "glcic_jax/pretrained/photos.csv"
    config.data.image_size = 128
    config.data.resize_range = (128, 224)
    config.data.flip = True
    config.data.cache_images = 3_000
    config.data.threads = 2
    config.mask.sampler = "rectangle+free_form"
    config.mask.rectangle.min_side = 48
    config.mask.rectangle.max_side = 64
    config.mask.rectangles.min_side = 16
    config.mask.rectangles.max_side = 40
    config.completion.width = 0.5
    config.completion.input_form = "smooth_filled"
    config.completion.output_activation = "residual"
    config.completion.ema_decay = 0.995
    config.discriminator.width = 0.25
    config.discriminator.local_size = 64
    config.discriminator.global_channels = (64, 128, 256, 512, 512)
    config.discriminator.local_channels = (64, 128, 256, 512)
    config.balance.ratio = 0.3
    config.balance.hold_steps = 400
    config.balance.handover_steps = 0
    config.optimizer.name = "adam"
    config.optimizer.adam.learning_rate = 1e-3
    config.optimizer.adam.b1 = 0.9
    config.optimizer.adam.decay_steps = 2_500  # Of C, more than it has in all: it learns on until the end.
    config.log_every = 50
    config.validate_every = 250
    config.grid_every = 500
    config.checkpoint_every = 250
    config.validation_images = 95
    return config

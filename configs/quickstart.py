"""All three phases in minutes on two CPU cores, with the photographs that come with the package.

Command: python main.py --config=configs/quickstart.py
Hardware: two CPU cores.
Time: two to five minutes, one of them compiling.
Result: hole L1 of 0.102 on held-out photographs; Telea's fill has 0.107, one with the mean colour 0.164.

As in configs/photos.py, the hole is filled smoothly from its surroundings, and C learns the residual on the L1:
the paper's input and loss need far more steps to beat that fill.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    """Returns a small version of the paper's training: 64 px, a quarter of the width, batch 16, 600 steps."""
    config = common.get_config()
    config.batch_size = 16
    config.compute_dtype = "float32"
    config.phases.completion = 450
    config.phases.discriminator = 40
    config.phases.joint = 110
    config.data.source = "samples"
    config.data.image_size = 64
    config.data.resize_range = (64, 96)
    config.data.flip = True
    config.data.cache_images = 400
    config.data.threads = 2
    config.mask.rectangle.min_side = 16
    config.mask.rectangle.max_side = 28
    config.mask.rectangles.min_side = 8
    config.mask.rectangles.max_side = 20
    config.completion.width = 0.25
    config.completion.input_form = "smooth_filled"
    config.completion.output_activation = "residual"
    config.completion.ema_decay = 0.98
    config.discriminator.width = 0.25
    config.discriminator.local_size = 32
    config.discriminator.global_channels = (64, 128, 256, 512)
    config.discriminator.local_channels = (64, 128, 256)
    config.loss.reconstruction.mse = 0.0
    config.loss.reconstruction.l1 = 1.0
    config.loss.adversarial = "non_saturating"
    config.balance.ratio = 0.5
    config.balance.hold_steps = 110
    config.balance.transition_steps = 0
    config.optimizer.name = "adam"
    config.optimizer.objective_scale = 1.0
    config.optimizer.adam.learning_rate = 1e-3
    config.optimizer.adam.b1 = 0.5
    config.optimizer.adam.decay_steps = 560
    config.log_every = 10
    config.validate_every = 50
    config.grid_every = 100
    config.checkpoint_every = 100
    config.validation_images = 48
    return config

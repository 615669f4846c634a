"""The built-in weights: 2,482 photographs, 128 px, a quarter of the paper's width, on a CPU.

Command: python main.py --config=configs/photos.py --config.data.source=folder:/path/to/photographs
Then: python main.py --config=configs/photos.py:second --config.data.source=folder:/path/to/photographs
The files are listed in glcic_jax/pretrained/photos.csv.
Hardware: two CPU cores.
Time: an hour and a quarter, then an hour.
Result: glcic_jax/pretrained/MODEL_CARD.md.

Differences from the paper, because there are few images and few steps: the hole is filled smoothly from its
surroundings, and C learns the residual; the L1 loss, as 250 steps on the MSE did not improve that fill; Adam with
a decaying learning rate; half of the crops are mirrored; a third of the images have several holes, and a third
have brush strokes; inference uses a moving average of C. The joint phase of the first run gives the adversarial
gradient 0.3 of the L1 gradient's norm and did not help. That of the second gives it 0.7, uses -log D, and D has
the local branch and one for texture.
"""

from importlib import resources

from ml_collections import ConfigDict

from configs import common


def get_config(run: str = "first") -> ConfigDict:
    """Returns all three phases at 128 px; holes and local patches have half the paper's sides.

    Args:
      run: "first", or "second", which begins with the weights of the first at step 2,000.
    """
    if run not in ("first", "second"):
        raise ValueError(f"configs/photos.py has no run {run!r}: choose first or second")
    config = common.get_config()
    config.batch_size = 16
    config.compute_dtype = "float32"
    config.phases.completion = 1_900
    config.phases.discriminator = 60
    config.phases.joint = 300
    config.data.source = "folder:photographs"
    config.data.listing = str(resources.files("glcic_jax") / "pretrained" / "photos.csv")
    config.data.image_size = 128
    config.data.resize_range = (128, 192)
    config.data.flip = True
    config.data.cache_images = 3_000
    config.data.threads = 2
    config.mask.sampler = "rectangle+rectangles+free_form"
    config.mask.rectangle.min_side = 48
    config.mask.rectangle.max_side = 64
    config.mask.rectangles.min_side = 20
    config.mask.rectangles.max_side = 64
    config.mask.free_form.strokes = (2, 6)
    config.completion.width = 0.25
    config.completion.input_form = "smooth_filled"
    config.completion.output_activation = "residual"
    config.completion.ema_decay = 0.995
    config.discriminator.width = 0.25
    config.discriminator.local_size = 64
    config.discriminator.global_channels = (64, 128, 256, 512, 512)
    config.discriminator.local_channels = (64, 128, 256, 512)
    config.loss.reconstruction.mse = 0.0
    config.loss.reconstruction.l1 = 1.0
    config.balance.ratio = 0.3
    config.balance.hold_steps = 300
    config.balance.transition_steps = 0
    config.optimizer.name = "adam"
    config.optimizer.objective_scale = 1.0
    config.optimizer.adam.learning_rate = 1e-3
    config.optimizer.adam.b1 = 0.9
    config.optimizer.adam.decay_steps = 2_000  # C has 2,200 updates; the last 200 run at a tenth.
    config.log_every = 50
    config.validate_every = 250
    config.grid_every = 500
    config.checkpoint_every = 250
    config.validation_images = 95
    return config if run == "first" else _second_run(config)


def _second_run(config: ConfigDict) -> ConfigDict:
    """Returns what the second run changes of the first."""
    config.completion.initial_weights = "runs/photos/checkpoints/2000"
    config.phases.completion = 800
    config.phases.discriminator = 100
    config.phases.joint = 1_360
    config.discriminator.branches = ("local", "texture")
    config.loss.adversarial = "non_saturating"
    config.balance.ratio = 0.7
    config.balance.hold_steps = config.phases.joint
    config.optimizer.adam.learning_rate = 5e-4
    config.optimizer.adam.b1 = 0.5
    config.optimizer.adam.decay_steps = 2_300
    config.validate_every = 50
    return config

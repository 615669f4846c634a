"""Every key of the configuration, with its meaning, its unit and where the value comes from.

The other files override; this one alone defines. A command overrides further: `--config.batch_size=32`.
[P] is the paper (Iizuka et al. 2017), [A] the authors' release, [O] the port otenim/GLCIC-PyTorch.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the paper's training on Places2: 256 px, batch 96, 500,000 steps in three phases."""
    config = ConfigDict()

    config.seed = 0  # Of the parameters, the order of the data, the crops and the holes.
    config.batch_size = 96  # Images per step over all devices [P 4].
    config.accumulation_steps = 1  # Parts that each device's batch is worked through in; more: less memory.
    # Type of the networks' arithmetic, float32 or bfloat16; parameters are float32. GPUs may multiply float32 as
    # TF32: JAX_DEFAULT_MATMUL_PRECISION=highest in the environment forbids it.
    config.compute_dtype = "float32"
    # What of C the backward pass computes again instead of keeping: "none"; "activations", everything but the
    # convolutions; "stages", everything but what passes between stages. Less memory, more arithmetic (README).
    config.remat = "none"
    config.sync_batch_norm = True  # BatchNorm over the whole batch; False: over each device's share alone.
    config.start_from = ""  # A run (its workdir) whose newest checkpoint a new run begins with.

    # Steps of each phase [P 3.4: T_C = 90,000, T_D = 10,000, T_train = 500,000 in all]. 0 leaves one out.
    config.phases = ConfigDict()
    config.phases.completion = 90_000  # C alone on the masked MSE.
    config.phases.discriminator = 10_000  # D alone, C fixed.
    config.phases.joint = 400_000  # Both.

    config.data = data = ConfigDict()
    data.source = "tfds:places365_small"  # "samples", "folder:PATH" or "tfds:NAME" [P: Places2].
    data.tfds_dir = ""  # Where TFDS keeps prepared data; "": $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    data.train_split = "train"  # TFDS only.
    data.validation_split = "validation"  # TFDS only.
    data.validation_fraction = 0.02  # Folders only: share held out, by a hash of each file's path.
    # Folders only: a CSV of the files to use, instead of all of them and that fraction; "": none. Its columns are
    # file, part and, if wanted, sha256 (glcic_jax/data/folders.py).
    data.listing = ""
    data.image_size = 256  # Side of the random crop in pixels [P 4].
    data.resize_range = (256, 384)  # The shorter side becomes a random number of pixels in this range [P 4].
    data.flip = False  # Mirrors half of the crops, by chance, left to right [P: none stated].
    data.mean_pixel = ()  # (r, g, b) in [0, 1], the hole's colour; (): computed from the training set [P 3.4].
    data.mean_pixel_images = 10_000  # Most images that the computation looks at.
    data.max_skipped_fraction = 0.01  # Share of all images that may be unreadable; beyond it training stops.
    data.cache_images = 0  # Decoded images kept in memory; for data sets so small that decoding is a waste.
    data.threads = 8  # Decoding threads of each process.
    data.prefetch = 256  # Images decoded ahead by each process.

    # Holes: "rectangle" [P], "rectangles" or "free_form", or several joined by "+". Lengths in pixels.
    config.mask = mask = ConfigDict()
    mask.sampler = "rectangle"
    mask.rectangle = ConfigDict({"min_side": 96, "max_side": 128})  # Sides, drawn independently [P 4].
    mask.rectangles = ConfigDict()
    mask.rectangles.count = (2, 4)  # Fewest and most rectangles in an image.
    mask.rectangles.min_side = 32
    mask.rectangles.max_side = 80
    mask.free_form = ConfigDict()
    mask.free_form.strokes = (1, 4)  # Fewest and most strokes in an image.
    mask.free_form.vertices = (2, 8)  # Fewest and most straight pieces of a stroke.
    mask.free_form.max_length = 0.25  # Longest piece, as a fraction of the image's side.
    mask.free_form.max_turn = 1.5  # Largest turn between two pieces, in radians.
    mask.free_form.brush = (0.05, 0.16)  # Thinnest and thickest brush, as fractions of the image's side.

    config.completion = completion = ConfigDict()
    completion.width = 1.0  # Multiplies the features of each layer; 1: the paper's.
    completion.layer_order = "conv_bn_relu"  # [A]; or "conv_relu_bn" [O].
    completion.input_form = "mean_subtracted"  # [A]; or "mean_filled" [O], "signed"; "smooth_filled" is ours.
    completion.output_activation = "sigmoid"  # [A]; or "clip"; "residual" learns what the fill lacks.
    completion.ema_decay = 0.0  # Of a moving average of C's weights, used for pictures; 0: off [P].

    config.discriminator = discriminator = ConfigDict()
    discriminator.branches = ("global", "local")  # [P]; one alone is an ablation [P 4.3]; (): MSE only.
    discriminator.local_size = 128  # Side of the local patch in pixels [P 3.3].
    discriminator.global_channels = (64, 128, 256, 512, 512, 512)  # Of its 5 x 5 convolutions [O].
    discriminator.local_channels = (64, 128, 256, 512, 512)  # [O].
    discriminator.width = 1.0  # Multiplies the features of each layer; 1: the paper's.
    discriminator.layer_order = "conv_bn_relu"  # [O].

    config.loss = loss = ConfigDict()
    loss.reconstruction = ConfigDict({"mse": 1.0, "l1": 0.0})  # Weight of each term; the MSE alone [P Eq. 2].
    loss.adversarial = "minimax"  # log(1 - D) [P Eq. 4]; or "non_saturating", -log D.
    loss.alpha = 0.0004  # Weight of the adversarial term [P 3.4].
    loss.discriminator_weight = 1.0  # On D's loss; Eq. 4 read to the letter would be alpha (README, departures).

    # The adversarial gradient's norm over the MSE gradient's, early in the joint phase; later alpha rules [P 3.4].
    config.balance = balance = ConfigDict()
    balance.ratio = 1.0  # "Roughly the same order of magnitude" [P]; the figure is ours.
    balance.hold_steps = 40_000  # Joint steps at that ratio; ours.
    balance.transition_steps = 40_000  # Joint steps over which alpha takes over; ours.
    balance.max_weight = 10.0  # Upper bound of the weight that keeps the ratio; ours.
    balance.measure_every = 10  # Joint steps from one look at the two norms, which is dear, to the next; ours.

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adadelta"  # [P 3.4]; or "adam".
    optimizer.adadelta = ConfigDict({"learning_rate": 1.0, "rho": 0.9, "eps": 1e-6})  # Torch's defaults [O].
    optimizer.adam = ConfigDict({"learning_rate": 2e-4, "b1": 0.5, "b2": 0.999})
    # Updates of C, and of D, over which its learning rate falls to a tenth, along a half cosine; 0: it stays.
    optimizer.adam.decay_steps = 0

    # Below these values for so many steps in a row, the user is warned that little is learnt any more.
    config.warn = warn = ConfigDict()
    warn.steps = 1_000
    warn.discriminator_loss = 0.01  # In the joint phase; a D that knows nothing has 2 log 2 = 1.39.
    warn.gradient_norm = (
        1e-6  # Of each of C's gradients: AdaDelta moves C by about as much (sqrt(eps) over itself).
    )

    # How often, in steps; each also happens at the end of a phase, and 0 means there alone. Whatever is due is
    # logged, and pictures and checkpoints are validated first.
    config.log_every = 100  # Progress, metrics.csv, metrics.jsonl, TensorBoard.
    config.validate_every = 1_000  # PSNR, SSIM, L1 on the validation images.
    config.grid_every = 1_000  # A picture of the same images with the same holes.
    config.checkpoint_every = 1_000
    config.keep_checkpoints = 3  # The newest so many, and that of the lowest L1 in the hole on the validation
    # images; the lowest L1 is often the blurriest, and found before the joint phase.
    config.validation_images = 64  # Fixed images with fixed holes.
    config.grid_images = 8  # The first so many of them.
    config.compile_cache = "~/.cache/glcic_jax/xla"  # Compiled programs kept between runs; "": none.

    return config.lock()

"""Every key of the configurations: meaning, unit and source of its value.

The other files override keys of this one and define none. The command line overrides both:
`--config.batch_size=32`. Sources: [P] the paper (Iizuka et al. 2017), [A] the authors' release, [O] the port
otenim/GLCIC-PyTorch, [G] Goodfellow et al. 2014, [GA] their release, [R] Radford et al. 2016, [RA] their release;
"ours" where the paper gives no value.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the paper's training on Places2: 256 px, batch 96, 500,000 steps in three phases."""
    config = shared()
    # What the backward pass of C recomputes to save memory: "none"; "activations": all but the convolutions;
    # "stages": all but the outputs of four convolutions (glcic_jax/benchmark/README.md).
    config.remat = "none"

    # Steps of each phase [P 3.4: T_C = 90,000, T_D = 10,000, T_train = 500,000 in all]; 0 skips the phase.
    config.phases = ConfigDict()
    config.phases.completion = 90_000  # C alone on the masked MSE.
    config.phases.discriminator = 10_000  # D alone with C fixed.
    config.phases.joint = 400_000  # Both.

    data = config.data
    data.mean_pixel = ()  # Colour of the hole, (r, g, b) in [0, 1]; (): mean of the training set [P 3.4].
    data.mean_pixel_images = 10_000  # Maximum number of images for computing that mean.

    # Holes: "rectangle" [P], "rectangles" or "free_form", or a mixture such as "rectangle+free_form".
    config.mask = mask = ConfigDict()
    mask.sampler = "rectangle"
    mask.rectangle = ConfigDict({"min_side": 96, "max_side": 128})  # Height and width in pixels [P 4].
    mask.rectangles = ConfigDict()
    mask.rectangles.count = (2, 4)  # Minimum and maximum number of rectangles.
    mask.rectangles.min_side = 32  # Pixels.
    mask.rectangles.max_side = 80
    mask.free_form = ConfigDict()
    mask.free_form.strokes = (1, 4)  # Minimum and maximum number of brush strokes.
    mask.free_form.vertices = (2, 8)  # Minimum and maximum number of straight pieces per stroke.
    mask.free_form.max_length = 0.25  # Maximum length of a piece, as a fraction of the image's side.
    mask.free_form.max_turn = 1.5  # Maximum turn between two pieces, in radians.
    mask.free_form.brush = (0.05, 0.16)  # Minimum and maximum width, as fractions of the image's side.

    config.completion = completion = ConfigDict()
    completion.width = 1.0  # Factor on the number of features of each layer; 1: the paper's.
    completion.layer_order = "conv_bn_relu"  # [A]; or "conv_relu_bn" [O].
    completion.input_form = "mean_subtracted"  # [A]; or "mean_filled" [O], "signed", "smooth_filled" (ours).
    completion.output_activation = "sigmoid"  # [A]; or "clip", "residual" (ours: adds to the filled input).
    # Weights that C begins with: a name that `glcic weights list` shows, a file or a run; "": random parameters.
    completion.initial_weights = ""
    completion.ema_decay = 0.0  # Decay of a moving average of C's weights, used for inference; 0: off [P].

    config.discriminator = discriminator = ConfigDict()
    # [P]; ablations: one of them; (): no discriminator [P 4.3]. "texture" (ours) is for strokes.
    discriminator.branches = ("global", "local")
    discriminator.local_size = 128  # Side of the local patch in pixels [P 3.3].
    discriminator.global_channels = (64, 128, 256, 512, 512, 512)  # Features of the 5 x 5 convolutions [O].
    discriminator.local_channels = (64, 128, 256, 512, 512)  # [O].
    discriminator.texture_channels = (64, 128, 256)  # Ours.
    discriminator.width = 1.0  # Factor on the number of features of each layer; 1: the paper's.
    discriminator.layer_order = "conv_bn_relu"  # [O].

    config.loss = loss = ConfigDict()
    loss.reconstruction = ConfigDict({"mse": 1.0, "l1": 0.0})  # Weight of each term; the paper's is MSE [P Eq. 2].
    loss.adversarial = "minimax"  # log(1 - D) [P Eq. 4]; or "non_saturating", -log D.
    loss.alpha = 0.0004  # Weight of the adversarial loss [P 3.4].
    # Weight of D's loss. Eq. 4 taken literally has alpha here (glcic_jax/model/README.md).
    loss.discriminator_weight = 1.0

    # Ratio of the adversarial to the MSE gradient's norm early in the joint phase; later, alpha applies [P 3.4].
    config.balance = balance = ConfigDict()
    # Where every step measures the norms: "output", "last_layer" or "parameters" of C (gradient_balance.PLACES).
    balance.place = "output"
    balance.ratio = 3.0  # At the output; about 1 by the parameters: "roughly the same order of magnitude" [P].
    balance.hold_steps = 40_000  # Joint steps with that ratio; ours.
    balance.transition_steps = 40_000  # Joint steps of the transition to alpha; ours.
    balance.max_weight = 10.0  # Maximum weight of the adversarial gradient before alpha applies; ours.

    optimizer = config.optimizer
    optimizer.name = "adadelta"  # [P 3.4]; or "adam".
    # Factor on C's gradient before the optimizer. Eq. 2 is a sum over the hole, on average 112 x 112 x 3 values,
    # and the loss here is a mean. AdaDelta ignores the scale only of gradients far above sqrt(eps).
    optimizer.objective_scale = 37_632.0
    optimizer.adadelta = ConfigDict({"learning_rate": 1.0, "rho": 0.9, "eps": 1e-6})  # Torch's defaults [O].

    return config.lock()


def generation() -> ConfigDict:
    """Returns what the generative adversarial networks (configs/vanilla_gan.py, configs/dcgan.py) share."""
    config = shared()
    config.task = "generation"
    config.phases = ConfigDict({"adversarial": 100_000})  # Steps; each updates D, then G [G Algorithm 1, k = 1].

    config.network = network = ConfigDict()
    network.name = "dcgan"  # "vanilla_gan" [G] or "dcgan" [R].
    network.width = 1.0  # Factor on the number of features of each hidden layer; 1: the papers'.
    network.latent_size = 100  # Numbers that G makes an image of [GA, R].

    config.loss = loss = ConfigDict()
    loss.adversarial = "non_saturating"  # Of G: -log D [G 3]; or "minimax", log(1 - D) [G Eq. 1].
    loss.discriminator_weight = 1.0  # Of D's loss, -log D(x) - log(1 - D(G(z))).

    config.optimizer.name = "adam"  # [R 4]; or "sgd" [G 5].
    config.optimizer.sgd = ConfigDict({"learning_rate": 0.1, "momentum": 0.5})  # [GA].

    config.grid_images = 64
    return config.lock()


def shared() -> ConfigDict:
    """Returns the keys that all systems share, unlocked."""
    config = ConfigDict()

    config.task = "completion"  # What is trained: "completion" (GLCIC), or "generation" (GANs).
    config.seed = 0  # Seed of the parameters, the order of the images, the crops, and all that steps draw.
    config.batch_size = 96  # Images per step over all devices [P 4].
    config.accumulation_steps = 1  # Parts of each device's batch, computed one after another to save memory.
    # Arithmetic of the networks: "float32", "bfloat16", or "auto": bfloat16 on GPUs and TPUs, float32 on a CPU. A
    # run keeps what it began with. Parameters, statistics and losses are float32 (glcic_jax/training/README.md).
    config.compute_dtype = "auto"
    config.sync_batch_norm = True  # BatchNorm over the whole batch; False: over each device's part.
    config.start_from = ""  # Workdir of a run whose newest checkpoint a new run starts from.

    config.data = data = ConfigDict()
    data.source = "tfds:places365_small"  # A folder, "samples", "idx:PATH" or "tfds:NAME" [P: Places2].
    data.tfds_dir = ""  # Directory of prepared TFDS data sets; "": $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    data.train_split = "train"  # TFDS only.
    data.validation_split = "validation"  # TFDS only.
    data.validation_fraction = 0.02  # Folders only: fraction held out, by a hash of each file's path.
    # Folders only: a CSV that lists the files to use and their split, instead of all files and the fraction above;
    # "": none. Columns: file, part and optionally sha256 (glcic_jax/data/folders.py).
    data.listing = ""
    data.grey = False  # Images have one channel; colours are then an error.
    data.centre_crop = 0  # Side in pixels of the square that is cut from an image's centre first; 0: none.
    data.image_size = 256  # Side of the random crop in pixels [P 4].
    # The shorter side is resized to a random number of pixels in this range [P 4]; (): images have the size of the
    # crop, and others are an error.
    data.resize_range = (256, 384)
    data.flip = False  # Mirrors half of the crops at random [P: not stated].
    data.max_skipped_fraction = 0.01  # Fraction of unreadable images above which training stops.
    data.cache_images = 0  # Decoded images kept in memory, for small data sets.
    data.threads = 0  # Decoding threads per process; 0: one for each core.
    data.prefetch = 10  # Batches decoded ahead per process.

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adam"
    optimizer.adam = ConfigDict({"learning_rate": 2e-4, "b1": 0.5, "b2": 0.999})  # [R 4].
    # Updates over which a network's learning rate falls to a tenth, along a cosine; 0: constant.
    optimizer.adam.decay_steps = 0

    # Warn once if a value stays below its limit for `steps` steps.
    config.warn = warn = ConfigDict()
    warn.steps = 1_000
    warn.discriminator_loss = 0.01  # Of an adversarial phase; random guessing has 2 log 2 = 1.39.
    warn.gradient_norm = 1e-6  # Of the gradients of C, or of G; AdaDelta's updates are then about as small.

    # Intervals in steps. Everything also happens at the end of each phase; 0: only there. A log row is written
    # whenever something else is due, and grids and checkpoints include a validation.
    config.log_every = 100  # Progress line, metrics.csv, metrics.jsonl, TensorBoard.
    config.validate_every = 1_000  # Metrics of fixed examples.
    config.grid_every = 1_000  # A picture of the first of them.
    config.checkpoint_every = 1_000
    # Number of newest checkpoints to keep. GLCIC also keeps the one with the lowest validation L1 in the hole:
    # often a blurry one from before the joint phase.
    config.keep_checkpoints = 3
    config.validation_images = 64  # Number of fixed validation crops, of GLCIC with fixed holes.
    config.grid_images = 8  # Number of examples in a grid.
    config.compile_cache = "~/.cache/glcic_jax/xla"  # Directory of compiled programs, shared by runs; "": none.

    return config

"""Train a learned compressor, ordinarily or against an adversary (Lei, Hassani, Saeedi Bidokhti 2021).

    python -m tf_robustcomp.train_compressor train --flagfile=flags_configs/compress_ae_wass_ball.cfg
    python -m tf_robustcomp.train_compressor eval --flagfile=flags_configs/compress_ae_wass_ball.cfg

Every value is a flag; flags after the flag file override it.  `eval` writes eval_test.json: the distortion (sum of
squared errors per image) of clean, noisy, rotated and attacked test images, for every stage of the model.
"""

import dataclasses
import sys

from tf_robustcomp import files, flags, runs
from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.studies import sweep

COMMAND = "train_compressor"
MODELS = ("standard", "successive_refinement", "residual", "rotation_aligned")
ENTROPY_IMAGES = 20_000  # to which the tables of `compress` are fitted when training ends
ADVERSARIES = ("none", "wasserstein", "rotation_search", "rotation_random", "l2", "linf")


@dataclasses.dataclass(frozen=True)
class Settings(flags.DeviceSettings):
    """Flags of this entry point; the defaults are the paper's standard compressor."""

    data: str = flags.field("mnist", "images: mnist, digits, or FILE.npz with x_train, y_train, x_test, y_test")
    train_dir: str = flags.field("out-compressor", "run directory", operational=True)
    model: str = flags.field("standard", "kind of compressor", choices=MODELS)
    latent_dim: int = flags.field(10, "latents d of a model without stages", minimum=1)
    stage_dims: tuple[int, ...] = flags.field((3, 7), "latents of each stage of a model with stages", minimum=1)
    levels: int = flags.field(12, "values L of a latent", minimum=2)
    width: int = flags.field(64, "channels after the first convolution", minimum=1)
    side: int = flags.field(32, "images are resized to this many pixels, a multiple of 16", minimum=16)
    augmentation: str = flags.field(
        "none", "shift half of every batch: by noise of --rho, or by turning", choices=("none", "noise", "rotation")
    )
    adversary: str = flags.field("none", "what replaces each batch by its worst case", choices=ADVERSARIES)
    gamma: float = flags.field(1.0, "price of the Wasserstein ball's attack; --rho instead tunes it")
    rho: float | None = flags.field(None, "mean squared norm: of the noise, or of the Wasserstein ball")
    epsilon: float = flags.field(1.0, "radius of the l2 and linf balls")
    attack_steps: int = flags.field(15, "gradient steps of an attack", minimum=1)
    attack_method: str = flags.field("paper", "steps of the Wasserstein ball's attack", choices=("paper", "adaptive"))
    attack_restarts: int = flags.field(1, "further ascents from noise of the adaptive attack", minimum=0)
    attack_precision: str = flags.field(
        "float32",
        "precision in which the Wasserstein ball's attack climbs; bfloat16 is faster where the processor has it",
        choices=("float32", "bfloat16"),
    )
    epochs: float = flags.field(50.0, "passes over the training images", minimum=0.001)
    warmup_epochs: float = flags.field(10.0, "clean passes at the start of successive_refinement", minimum=0)
    batch_size: int = flags.field(64, "images in a batch", minimum=1)
    learning_rate: float = flags.field(2e-4, "of Adam, at the start")
    learning_rate_schedule: str = flags.field(
        "paper", "x0.2 at each of --decay-epochs, or a cosine to 0", choices=("paper", "cosine")
    )
    rate_warmup_steps: int = flags.field(
        0,
        "steps in which the cosine's rate rises from 0; with --clip-norm it keeps latents alive at large rates",
        minimum=0,
    )
    clip_norm: float = flags.field(0.0, "gradients are shortened to this norm over all weights; 0: never", minimum=0)
    decay_epochs: tuple[float, ...] = flags.field((20.0, 40.0), "epochs at which the paper's schedule falls", minimum=0)
    warm_start: str | None = flags.field(None, "run directory of a trained compressor to start from")
    max_images: int = flags.field(0, "train on the first so many images only; 0: all", minimum=0)
    log_steps: int = flags.field(100, "steps between rows of metrics.csv", minimum=1)
    checkpoint_steps: int = flags.field(500, "steps between checkpoints", operational=True, minimum=1)
    seed: int = flags.field(0, "seed of the initial weights", minimum=0, maximum=2**32 - 1)
    order_seed: int = flags.field(0, "seed of the order of the images", minimum=0)
    adversary_seed: int = flags.field(0, "seed of adversary, augmentation and stages", minimum=0)
    eval_gamma: float = flags.field(1.0, "price of the attack in `eval`", operational=True)
    eval_images: int = flags.field(1000, "test images attacked in `eval`", operational=True, minimum=1)


def checked(settings):
    """The settings, if they fit together.

    Raises:
        InvalidArgument: names the flag, the rule and the value.
    """
    for name in ("gamma", "epsilon", "learning_rate", "eval_gamma", *(["rho"] if settings.rho is not None else [])):
        if not 0 < getattr(settings, name) < float("inf"):
            raise InvalidArgument(f"{flags.spelled(name)} must be > 0. Received: {getattr(settings, name)}")
    if settings.side % 16:
        raise InvalidArgument(f"--side must be a multiple of 16. Received: {settings.side}")
    if settings.augmentation == "noise" and settings.rho is None:
        raise InvalidArgument("--augmentation=noise needs --rho, the mean squared norm of the noise. Received: none")
    if settings.model in ("successive_refinement", "residual") and len(settings.stage_dims) != 2:
        raise InvalidArgument(f"--stage-dims must be two numbers. Received: {list(settings.stage_dims)}")
    if settings.model == "rotation_aligned" and settings.latent_dim < 3:
        raise InvalidArgument(f"--latent-dim must be >= 3 for rotation_aligned. Received: {settings.latent_dim}")
    if settings.model == "residual" and not settings.warm_start:
        raise InvalidArgument(
            f"--model=residual needs --warm-start, a run of a standard model with --latent-dim={settings.stage_dims[0]}"
        )
    return settings


def train(settings):
    """Train, or go on where a run stopped."""
    settings = checked(settings)
    flags.import_backend_quietly()
    from tf_robustcomp import training
    from tf_robustcomp.datasets.batches import training_batches

    def steps(data):
        return max(1, round(settings.epochs * len(data[0]) / settings.batch_size))

    training.train_run(
        COMMAND,
        settings,
        load=lambda: (_images(settings, "x_train", settings.max_images or None),),
        build=lambda data: _build(settings, data[0].shape[1:], len(data[0]), steps(data)),
        batches_from=lambda data, step: training_batches(
            data, settings.batch_size, settings.order_seed, step, prepare=lambda images: images
        ),
        max_steps=steps,
        complete=lambda model, data: model.fit_entropy_model(data[0][:ENTROPY_IMAGES]),
    )


def evaluate(settings, given):
    """Write eval_test.json of a run; whatever flags are given must be the run's own."""
    settings = checked(settings)
    run = runs.Run(settings.train_dir)
    run.check_settings(COMMAND, settings, only=given - {"data"})
    flags.import_backend_quietly()
    from tf_robustcomp.evaluation.distortions import summary

    own = run.settings_as(settings)
    changes = {name: own[name] for name in ("side", *([] if "data" in given else ["data"]))}
    settings = dataclasses.replace(settings, **changes)
    images = _images(settings, "x_test", None)
    model = run.load_model()
    results = summary(model, images, settings.eval_gamma, attack_images=settings.eval_images, progress=True)
    path = run.path / "eval_test.json"
    files.write_json(path, {"data": settings.data, "images": len(images), "gamma": settings.eval_gamma, **results})
    for stage, entry in results.items():
        worst = entry["worst_case"]
        print(
            f"{path}: {stage}, {entry['rate_bits']:.2f} bits: clean {entry['clean']:.3f}, noisy {entry['noisy']:.3f}, "
            f"rotated {entry['rotated']:.3f}, worst case (rho, D): 15 steps ({worst['paper']['rho']:.1f}, "
            f"{worst['paper']['distortion']:.1f}), adaptive ({worst['adaptive']['rho']:.1f}, "
            f"{worst['adaptive']['distortion']:.1f})",
            flush=True,
        )


def _images(settings, name, count):
    from tf_robustcomp.adversaries.base import check_images
    from tf_robustcomp.datasets.images import load_images, resized

    return check_images(resized(getattr(load_images(settings.data), name)[:count], settings.side), name=name)


def _build(settings, image_shape, count, steps):
    import keras

    import tf_robustcomp as rc

    keras.utils.set_random_seed(settings.seed)
    model = _model(settings, image_shape)
    if settings.warm_start:
        _start_from(model, runs.Run(settings.warm_start).load_model(), settings.warm_start)
    steps_per_epoch = count / settings.batch_size
    extra = {}
    if settings.model == "successive_refinement":
        extra["warmup_steps"] = round(settings.warmup_epochs * steps_per_epoch)
    model.compile(
        rc.Adam(_learning_rate(settings, steps_per_epoch, steps), global_clipnorm=settings.clip_norm or None),
        adversary=_adversary(settings),
        augmentation=_augmentation(settings),
        seed=settings.adversary_seed,
        jit_compile=settings.jit_compile,
        **extra,
    )
    return model


def _model(settings, image_shape):
    import tf_robustcomp as rc

    shape = {"levels": settings.levels, "width": settings.width, "image_shape": image_shape}
    if settings.model == "standard":
        return rc.Compressor(settings.latent_dim, **shape)
    if settings.model == "rotation_aligned":
        return rc.RotationAligned(settings.latent_dim, **shape)
    kind = rc.SuccessiveRefinement if settings.model == "successive_refinement" else rc.ResidualCompressor
    return kind(settings.stage_dims, **shape)


def _start_from(model, trained, path):
    """Copy the weights of a trained compressor into the part of ``model`` that has its form."""
    import tf_robustcomp as rc

    pairs = [(model, trained)]
    if type(model) is not type(trained) and isinstance(trained, rc.Compressor):
        if isinstance(model, rc.SuccessiveRefinement):
            pairs = [(model.encoder, trained.encoder), (model.decoders[1], trained.decoder)]
        else:
            pairs = [(getattr(model, "first", None) or getattr(model, "upright", model), trained)]
    for part, source in pairs:
        shapes, found = ([v.shape for v in network.weights] for network in (part, source))
        if shapes != found:
            raise InvalidArgument(
                f"--warm-start {path}: a {type(trained).__name__} of {trained.latent_dim} latents and width "
                f"{trained.width} does not fit into this {type(model).__name__}"
            )
        part.set_weights(source.get_weights())


def _learning_rate(settings, steps_per_epoch, steps):
    import keras

    from tf_robustcomp.training import stepwise

    schedules = keras.optimizers.schedules
    if settings.learning_rate_schedule == "cosine":
        warmup = settings.rate_warmup_steps
        if not warmup:
            return schedules.CosineDecay(settings.learning_rate, steps)
        return schedules.CosineDecay(
            0.0, max(1, steps - warmup), warmup_target=settings.learning_rate, warmup_steps=warmup
        )
    boundaries = [round(epoch * steps_per_epoch) for epoch in settings.decay_epochs]
    return stepwise(boundaries, [settings.learning_rate * 0.2**i for i in range(len(boundaries) + 1)])


def _adversary(settings):
    import tf_robustcomp as rc

    steps, seed = settings.attack_steps, settings.adversary_seed
    price = {"gamma": settings.gamma} if settings.rho is None else {"rho": settings.rho}
    makers = {
        "none": lambda: None,
        "wasserstein": lambda: rc.WassersteinBall(
            **price,
            steps=steps,
            method=settings.attack_method,
            restarts=settings.attack_restarts,
            precision=settings.attack_precision,
            seed=seed,
        ),
        "rotation_search": rc.RotationSearch,
        "rotation_random": lambda: rc.RotationRandom(8, seed=seed),
        "l2": lambda: rc.L2Ball(settings.epsilon, steps=steps),
        "linf": lambda: rc.LinfBall(settings.epsilon, steps=steps),
    }
    return makers[settings.adversary]()


def _augmentation(settings):
    import tf_robustcomp as rc

    if settings.augmentation == "noise":
        return rc.NoiseAugmentation(settings.rho, seed=settings.adversary_seed)
    return rc.RotationAugmentation(seed=settings.adversary_seed) if settings.augmentation == "rotation" else None


@dataclasses.dataclass(frozen=True)
class CommandSettings(sweep.SweepSettings, Settings):
    """Flags of the command: those of a run, and those of many."""


def command(settings, action, given):
    """`train` or `eval`, one run or a sweep."""
    if settings.sweep:
        return sweep.perform(COMMAND, Settings, settings, action, given)
    settings = flags.narrowed(Settings, settings)
    given &= vars(settings).keys()
    return train(settings) if action == "train" else evaluate(settings, given)


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, CommandSettings, command, argv, positional=(("train", "eval"),))


if __name__ == "__main__":
    sys.exit(main())

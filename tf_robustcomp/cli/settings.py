"""Groups of settings that commands share."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tf_robustcomp.cli import outputs
from tf_robustcomp.coding import container
from tf_robustcomp.data import pictures
from tf_robustcomp.utils import registry
from tf_robustcomp.utils.checks import check_choice
from tf_robustcomp.utils.drawing import MARK
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.settings import field, spelled

IMAGES = "mnist, digits, FILE.npz with x_train and x_test, FILE.npy, or a folder of pictures"
THRESHOLDS = ("quantile", "exact")
CONVERT = "make it with `python tools/download_and_convert_cifar10.py`"
SEEDS: dict[str, Any] = {"minimum": 0, "maximum": 2**32 - 1}


@dataclasses.dataclass(frozen=True)
class DeviceSettings:
    """Device and precision of a training."""

    strategy: str = field(
        "none", "`mirrored`: all GPUs of this machine", operational=True, choices=("none", "mirrored")
    )
    mixed_precision: bool = field(False, "compute in bfloat16, keep weights in float32")
    fused: bool = field(True, "use faster batch norm and Adam (same results up to rounding; --nofused turns it off)")
    jit_compile: bool = field(False, "compile the step with XLA")
    deterministic: bool = field(False, "ask TensorFlow for the same bits in every run; slower")


@dataclasses.dataclass(frozen=True)
class ExtensionSettings:
    """Files of a user's own variants."""

    extension: tuple[str, ...] = field(
        (), "Python file with @register classes to choose from; may be repeated", repeated=True, path=True
    )


@dataclasses.dataclass(frozen=True)
class ClassifierSettings(ExtensionSettings, DeviceSettings):
    """Flags of every command that trains a classifier."""

    dataset: str = field(
        "data/cifar10_train.tfrecord",
        "training records, TFRecords as the converter writes them; or digits, mnist, FILE.npz",
        path=True,
    )
    train_dir: str | None = field(None, "run directory [default: named after the settings]", operational=True)
    test_dataset: str | None = field(
        None,
        "test records for `eval` [default: --dataset with `test` for `train` in its name]",
        operational=True,
        path=True,
    )
    proportion_random: float = field(0.0, "fraction of records whose label is redrawn", minimum=0, maximum=1)
    max_images: int = field(0, "use only the first N training records (0 = all)", minimum=0)
    label_seed: int = field(42, "seed of the random labels", **SEEDS)
    order_seed: int = field(0, "seed of the order of the records", minimum=0)
    model_size: int = field(56, "depth of the ResNet, 6n + 2", minimum=8)
    bn_momentum: float = field(
        0.997, "momentum of the moving statistics of batch norm; lower it for short runs", minimum=0, maximum=1
    )
    batch_size: int = field(128, "records in a batch", minimum=1)
    log_steps: int = field(100, "steps between rows of metrics.csv", minimum=1)
    checkpoint_steps: int = field(1000, "steps between checkpoints", operational=True, minimum=1)

    def shaped_by_length(self) -> bool:
        """Return whether what a run does at a step depends on how long it is."""
        return False

    def check(self) -> None:
        """Refuse settings that do not fit together."""
        if self.model_size % 6 != 2:
            raise InvalidArgument(f"--model-size must be 6n + 2 (8, 14, 20, ..., 56, ...). Received: {self.model_size}")


@dataclasses.dataclass(frozen=True)
class AttackSettings(ExtensionSettings, DeviceSettings):
    """Flags of training against an adversary."""

    variants: ClassVar[dict[str, str]] = {"adversary": "adversary", "augmentation": "augmentation"}

    augmentation: str = field(
        "none",
        "shift half of every batch: by noise of --rho, or by rotation",
        choices=lambda: ["none", *registry.variants("augmentation")],
    )
    adversary: str = field(
        "none",
        "attack that replaces each batch by its worst case",
        choices=lambda: ["none", *registry.variants("adversary")],
    )
    gamma: float = field(1.0, "price of squared distance in the Wasserstein ball's attack; --rho tunes it", above=0)
    rho: float | None = field(None, "mean squared norm: of the noise, or of the Wasserstein ball", above=0)
    epsilon: float = field(1.0, "radius of the l2 and linf balls", above=0)
    attack_steps: int = field(15, "gradient steps of an attack", minimum=1)
    attack_method: str = field("paper", "steps of the Wasserstein ball's attack", choices=("paper", "adaptive"))
    attack_restarts: int = field(1, "further ascents from noise of the adaptive attack", minimum=0)
    attack_precision: str = field(
        "float32",
        "precision in which the Wasserstein ball's attack climbs; bfloat16 is faster where the processor has it",
        choices=("float32", "bfloat16"),
    )
    adversary_seed: int = field(0, "seed of adversary, augmentation and stages", minimum=0)

    def check(self) -> None:
        """Refuse settings that do not fit together."""
        for name, kind in self.variants.items():
            if getattr(self, name) != "none":
                registry.variants(kind)[getattr(self, name)].check(self)


@dataclasses.dataclass(frozen=True)
class CompressorSettings(AttackSettings):
    """Flags that train a compressor; the defaults are the paper's standard compressor."""

    variants: ClassVar[dict[str, str]] = {"model": "compressor", **AttackSettings.variants}

    data: str = field("mnist", f"images: {IMAGES}", path=True)
    train_dir: str = field("out-compressor", "run directory", operational=True)
    model: str = field("standard", "kind of compressor", choices=lambda: [*registry.variants("compressor")])
    latent_dim: int = field(10, "latents d of a model without stages", minimum=1)
    stage_dims: tuple[int, ...] = field((3, 7), "latents of each stage of a model with stages", minimum=1)
    levels: int = field(12, "values L of a latent", minimum=2)
    width: int = field(64, "channels after the first convolution", minimum=1)
    side: int = field(32, "images are resized to this many pixels, a multiple of 16", minimum=16)
    epochs: float = field(50.0, "passes over the training images", minimum=0.001, length=True)
    warmup_epochs: float = field(10.0, "clean passes at the start of successive_refinement", minimum=0)
    batch_size: int = field(64, "images in a batch", minimum=1)
    learning_rate: float = field(2e-4, "of Adam, at the start", above=0)
    learning_rate_schedule: str = field(
        "paper", "x0.2 at each of --decay-epochs, or a cosine to 0", choices=("paper", "cosine")
    )
    rate_warmup_steps: int = field(
        0,
        "steps in which the cosine's rate rises from 0; with --clip-norm it keeps latents alive at large rates",
        minimum=0,
    )
    clip_norm: float = field(0.0, "clip gradients to this norm over all weights (0 = never)", minimum=0)
    decay_epochs: tuple[float, ...] = field((20.0, 40.0), "epochs at which the paper's schedule falls", minimum=0)
    warm_start: str | None = field(None, "run directory of a trained compressor to start from", path=True)
    max_images: int = field(0, "use only the first N training images (0 = all)", minimum=0)
    log_steps: int = field(100, "steps between rows of metrics.csv", minimum=1)
    checkpoint_steps: int = field(500, "steps between checkpoints", operational=True, minimum=1)
    seed: int = field(0, "seed of the initial weights", **SEEDS)
    order_seed: int = field(0, "seed of the order of the images", minimum=0)
    eval_gamma: float = field(1.0, "gamma of the attack in `eval`", operational=True, above=0)
    eval_images: int = field(1000, "test images attacked in `eval`", operational=True, minimum=1)

    def idle(self) -> dict[str, str]:
        """Return settings that have no effect, each with the reason; see `flags.idle`."""
        schedules = {"cosine": "decay_epochs", "paper": "rate_warmup_steps"}
        found = {schedules[self.learning_rate_schedule]: f"--learning-rate-schedule={self.learning_rate_schedule}"}
        if self.model != "successive_refinement":
            found["warmup_epochs"] = "only --model=successive_refinement uses it"
        return found

    def shaped_by_length(self) -> bool:
        """Return whether what a run does at a step depends on how long it is, so that it cannot be made longer."""
        return self.learning_rate_schedule == "cosine"

    def check(self) -> None:
        """Refuse settings that do not fit together."""
        if self.side % 16:
            raise InvalidArgument(f"--side must be a multiple of 16. Received: {self.side}")
        super().check()


@dataclasses.dataclass(frozen=True)
class PhotographSettings(AttackSettings):
    """Flags that train a codec for photographs; by default of the form of the one that comes with the package."""

    data: str = field("photographs", "folder of pictures in colour; every tenth is for test", path=True)
    train_dir: str = field("out-photo", "run directory", operational=True)
    model: str = field("hyperprior", "kind of codec", choices=("hyperprior", "factorized"))
    warm_start: str | None = field(
        None, "trained model to start from: photo, the one that comes with the package, or a run directory", path=True
    )
    latents: int = field(256, "channels of the latents", minimum=1)
    widths: tuple[int, ...] = field((64, 96, 128), "channels at 1/4, 1/8 and 1/16 of the resolution", minimum=1)
    blocks: tuple[int, ...] = field((2, 2, 1), "residual blocks there", minimum=0)
    lambdas: tuple[float, ...] = field(
        (0.0012, 0.07), "weight of the mean squared error against bits per pixel at quality 0 and 1"
    )
    attacked: str = field("distortion", "what the adversary makes large", choices=("distortion", "rate", "both"))
    distortion: str = field(
        "mse", "what is weighed against the rate: mean squared error, or 1 - MS-SSIM", choices=("mse", "msssim")
    )
    crop: int = field(192, "pixels of a side of the training crops, a multiple of 64", minimum=64)
    shrink: float = field(1.0, "half of the crops are made smaller by up to this factor", minimum=1, maximum=8)
    batch_size: int = field(16, "crops in a batch", minimum=1)
    steps: int = field(20_000, "steps of the whole training", minimum=1, length=True)
    learning_rate: float = field(8e-4, "of Adam, at the start; falls to 0 as a cosine", above=0)
    clip_norm: float = field(2.0, "clip gradients to this norm over all weights (0 = never)", minimum=0)
    ema_momentum: float = field(0.999, "of the averaged weights that are kept in the end", minimum=0, maximum=1)
    log_steps: int = field(100, "steps between rows of metrics.csv", minimum=1)
    checkpoint_steps: int = field(500, "steps between checkpoints", operational=True, minimum=1)
    seed: int = field(0, "seed of the initial weights", **SEEDS)
    order_seed: int = field(0, "seed of the crops", minimum=0)

    def shaped_by_length(self) -> bool:
        """Return whether what a run does at a step depends on how long it is."""
        return True

    def check(self) -> None:
        """Refuse settings that do not fit together."""
        if self.crop % 64:
            raise InvalidArgument(f"--crop must be a multiple of 64. Received: {self.crop}")
        for name, count in (("widths", 3), ("blocks", 3), ("lambdas", 2)):
            if len(getattr(self, name)) != count:
                raise InvalidArgument(f"{spelled(name)} must be {count} numbers. Received: {getattr(self, name)}")
        super().check()


@dataclasses.dataclass(frozen=True)
class BoundSettings(DeviceSettings):
    """Flags that train a network with a short code, and bound its error by the size of its file."""

    data: str = field("mnist", "labelled images: mnist, digits, FILE.npz, or training records as TFRecords", path=True)
    train_dir: str = field("out-bound", "folder of the run directories and of bounds.csv", operational=True)
    model: str = field("", "bound this instead: a run directory, a .keras, .rcsm or .rcnb file", path=True)
    method: str = field(
        "quantize", "what is coded: all weights, or coordinates in a subspace", choices=("quantize", "subspace")
    )
    width: int = field(16, "channels of the network", minimum=1, maximum=64)
    repeats: int = field(6, "times its convolutions are used", minimum=1, maximum=16)
    stages: int = field(2, "image sizes that it sees", minimum=1, maximum=4)
    shared: bool = field(True, "use the same convolutions each time; --noshared gives each block its own")
    dim: int = field(1000, "dimensions of the subspace", minimum=1, maximum=65535)
    levels: int = field(31, "values of a coded number, odd", minimum=3, maximum=255)
    bit_weights: tuple[float, ...] = field((3.0,), "weights of the code length in the loss; a grid", minimum=0)
    seeds: tuple[int, ...] = field((0,), "seeds of the weights and of the subspace; a grid", minimum=0, maximum=65535)
    prior_share: float = field(
        0.0,
        "train the beginning on this fraction of the images, and code and bound the change on the rest",
        minimum=0,
        maximum=0.99,
    )
    prior_epochs: float = field(10.0, "passes over the images of the prior", above=0)
    epochs: float = field(16.0, "passes over the images", above=0)
    batch_size: int = field(128, "images in a batch", minimum=1)
    learning_rate: float = field(0.012, "of Adam at its highest; it rises for 400 steps, then falls to 0", above=0)
    proportion_random: float = field(0.0, "fraction of the labels that are redrawn", minimum=0, maximum=1)
    label_seed: int = field(42, "seed of the random labels", **SEEDS)
    max_images: int = field(0, "use only the first N training images (0 = all)", minimum=0)
    order_seed: int = field(0, "seed of the order of the images", minimum=0)
    delta: float = field(0.05, "probability with which the bound may fail", operational=True, above=0, maximum=0.999999)
    log_steps: int = field(100, "steps between rows of metrics.csv", minimum=1)
    checkpoint_steps: int = field(1000, "steps between checkpoints", operational=True, minimum=1)

    def shaped_by_length(self) -> bool:
        """Return whether what a run does at a step depends on how long it is: the rate does."""
        return True

    def check(self) -> None:
        """Refuse settings that do not fit together."""
        if self.levels % 2 == 0:
            raise InvalidArgument(f"--levels must be odd. Received: {self.levels}")
        for name in ("bit_weights", "seeds"):
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InvalidArgument(f"{spelled(name)} must be numbers, each once. Received: {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class EncoderSettings:
    """Flags of every command that codes images."""

    encoder: tuple[str, ...] = field(
        (), "how codes are found: network, search, list, transformed, or several of them, separated by commas"
    )
    encoder_budget: int | None = field(None, "decoder evaluations of each image that a search takes at most", minimum=1)

    def check_encoder(self) -> None:
        """Refuse encoders that there are not."""
        for name in self.encoder:
            check_choice("--encoder", name, tuple(registry.variants("encoder")))


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Flags of every command that evaluates trained compressors together."""

    models: tuple[str, ...] = field((), "run directories of train_compressor, separated by commas", path=True)
    labels: tuple[str, ...] = field((), "names in the figure [default: the directories' names]")
    data: str = field(
        "",
        f"images: {IMAGES}; its test set is used [default: the models' training data]",
        path=True,
    )
    images: int = field(0, "use only the first N test images (0 = all)", minimum=0)
    force: bool = outputs.force()

    def check(self) -> None:
        """Refuse models and labels that do not fit together."""
        if not self.models:
            raise InvalidArgument("--models must name at least one run directory. Received: none")
        if self.labels and len(self.labels) != len(self.models):
            raise InvalidArgument(
                f"--labels must be as many as --models. Received: {len(self.labels)}, {len(self.models)}"
            )
        if len(self.labelled()) < len(self.models):
            raise InvalidArgument(f"--labels must differ. Received: {','.join(self._names())}")

    def labelled(self) -> dict[str, str]:
        """Return the run directories by label."""
        return dict(zip(self._names(), self.models, strict=True))

    def _names(self):
        return self.labels or [Path(path).resolve().name for path in self.models]


@dataclasses.dataclass(frozen=True)
class CodedEvaluationSettings(EncoderSettings, EvaluationSettings):
    """Flags of every command that evaluates trained compressors with an encoder of choice."""

    def check(self) -> None:
        """Refuse models, labels and encoders that do not fit together."""
        super().check()
        self.check_encoder()


@dataclasses.dataclass(frozen=True)
class ExecutorSettings:
    """Flags of every command that performs many runs."""

    executor: str = field("local", "where the runs go", operational=True, choices=("local", "ray"))
    jobs: int = field(1, "local: runs at a time; they share the cores", operational=True, minimum=1)
    ray_address: str | None = field(
        None, "ray: `auto` or HOST:PORT of a running cluster [default: one is started here]", operational=True
    )
    cpus_per_run: int = field(1, "ray: cores, and threads, of each run", operational=True, minimum=1)
    gpus_per_run: float = field(0.0, "ray: GPUs of each run; a fraction shares one", operational=True, minimum=0)


@dataclasses.dataclass(frozen=True)
class SweepSettings(ExecutorSettings):
    """Flags of a command that can be swept."""

    sweep: tuple[str, ...] = field(
        (),
        "SETTING=VALUES, may be repeated: a run for each combination, in --train-dir, with the table of all in "
        "sweep.csv; values are separated by commas, START:STOP are whole numbers below STOP, the items of a list are "
        "joined by + (stage-dims=3+7,7+3)",
        repeated=True,
    )
    rank_by: str | None = field(None, "column by which a sweep's table is sorted; -COLUMN: greatest first")


@dataclasses.dataclass(frozen=True)
class ResNetSettings(ClassifierSettings):
    """Flags that train a ResNet; the defaults are the published settings."""

    seed: int = field(0, "seed of the initial weights", **SEEDS)
    max_steps: int = field(64_000, "steps", minimum=1, length=True)
    learning_rates: tuple[float, ...] = field((0.001, 0.1, 0.01, 0.001), "learning rates in turn", minimum=0)
    boundaries: tuple[int, ...] = field((400, 32_000, 48_000), "steps between which they hold", minimum=1)

    def check(self) -> None:
        """Refuse settings that do not fit together."""
        super().check()
        rising = list(self.boundaries) == sorted(set(self.boundaries))
        if len(self.learning_rates) != len(self.boundaries) + 1 or not rising:
            raise InvalidArgument(
                "--learning-rates must be one more than --boundaries, which must rise. Received: "
                f"{list(self.learning_rates)} and {list(self.boundaries)}"
            )

    def with_defaults(self) -> Any:
        """Return the settings with the run directory filled in."""
        return dataclasses.replace(self, train_dir=self.train_dir or trained_directory(self.proportion_random))


@dataclasses.dataclass(frozen=True)
class PruningSettings(ClassifierSettings):
    """Flags that prune a trained ResNet; the defaults are the published settings."""

    variants: ClassVar[dict[str, str]] = {"rule": "pruning rule"}

    rule: str = field("dns", "pruning rule", choices=lambda: [*registry.variants("pruning rule")])
    target_sparsity: float = field(0.9, "fraction of every kernel that becomes zero", minimum=0, maximum=0.999999)
    warm_start: str | None = field(None, "run directory to start from [default: out-<100P>]", path=True)
    max_steps: int = field(20_000, "steps", minimum=1, length=True)
    ramp_steps: int = field(15_000, "steps in which the sparsity rises to its target", minimum=0)
    update_steps: int = field(500, "steps between new thresholds", minimum=1)
    learning_rate: float = field(0.05, "learning rate at the start", minimum=0)
    learning_rate_decay_steps: int = field(
        200, "the learning rate falls as 1 / (1 + 0.1 t / DECAY_STEPS); lower it for short runs", minimum=1
    )
    surgery_decay_steps: int = field(
        100,
        "probability that a kernel's mask is updated at step t: 1 / (1 + 0.2 floor(t / DECAY_STEPS)); lower it for "
        "short runs",
        minimum=1,
    )
    threshold: str = field(
        "quantile",
        "`quantile` of all magnitudes as published, which leaves fewer zeros than the target, or `exact`",
        choices=THRESHOLDS,
    )
    train_unpruned: bool = field(False, "train biases and batch norm too")
    surgery_seed: int = field(0, "seed of the random numbers that decide when masks are updated", minimum=0)

    def with_defaults(self) -> Any:
        """Return the settings with both run directories filled in.

        Raises:
            InvalidArgument: both are the same.
        """
        own = self.train_dir or pruned_directory(self.proportion_random, self.target_sparsity)
        start = self.warm_start or trained_directory(self.proportion_random)
        if Path(own).resolve() == Path(start).resolve():
            raise InvalidArgument(f"--train-dir and --warm-start must differ. Received: {own} for both")
        return dataclasses.replace(self, train_dir=own, warm_start=start)


def percent(proportion: float) -> str:
    """Return a fraction as directory names have it: 0.3 is ``30``."""
    return f"{round(100 * proportion, 6):g}"


def trained_directory(proportion_random: float) -> str:
    """Return the run directory of a training, by its fraction of random labels."""
    return f"out-{percent(proportion_random)}"


def pruned_directory(proportion_random: float, target_sparsity: float) -> str:
    """Return the run directory of a pruning."""
    return f"out-prune-{percent(proportion_random)}-{round(10 * target_sparsity, 6):g}"


@dataclasses.dataclass(frozen=True)
class CodecSettings(EncoderSettings):
    """Flags of the command codec."""

    model: str = field(
        "",
        "run directory of a trained compressor, its .keras file, or mnist-standard, which comes with the package "
        "[default: photo, which comes with it, too]",
        path=True,
    )
    out: str = field("", "encode: the file; decode: a folder")
    quality: float | None = field(
        None, "encode photographs: from 0, smallest, to 1, best [default: 0.5]", minimum=0, maximum=1
    )
    target_bpp: float | None = field(None, "encode photographs: bits per pixel that are not exceeded", above=0)
    force: bool = outputs.force()
    mode: str = field("entropy", "coding of the symbols", choices=("entropy", "fixed"))
    max_distortion: float | None = field(
        None, "sum of squared errors of a tile, on [0, 1], that is never exceeded, at the price of bits", above=0
    )
    tile: int = field(
        0, "encode photographs: --max-distortion holds for every tile of so many pixels a side (0 = whole picture)"
    )
    resize: bool = field(False, "encode: first bring pictures to the model's size, as in training")
    stage: int = field(0, "decode: how much of the code to use (0 = all)", minimum=0)
    similarity: bool = field(True, "encode: measure MS-SSIM too; --nosimilarity is faster for many sizes of pictures")
    quality_report: str = field("", "encode: also write this .csv, and a .png of pictures before and after")
    data: str = field("mnist", f"fit, fit-list: training images: {IMAGES}", path=True)

    def checked_words(self, words: Sequence[str]) -> tuple[str, Sequence[str]]:
        """Return ``(action, further words)``, checked with the flags that the action needs."""
        action, *others = words or ("",)
        if action not in ("fit", "fit-list", "encode", "decode", "info"):
            raise InvalidArgument(
                "the first word must be one of fit, fit-list, encode, decode, info. Received: "
                f"{action or 'none'} (see --help)"
            )
        self.check_encoder()
        needed = {"encode": ("out",), "decode": ("out",), "info": ()}.get(action, ("model",))
        missing = [name for name in needed if not getattr(self, name)]
        if action in ("fit", "fit-list") and others:
            raise InvalidArgument(f"{action} takes no further words. Received: {' '.join(others)} (see --help)")
        if missing:
            raise InvalidArgument(f"{spelled(missing[0])} must be given. Received: none (see --help)")
        if action == "encode" and not others:
            raise InvalidArgument("encode takes at least one INPUT. Received: none (see --help)")
        if action in ("decode", "info") and len(others) != 1:
            raise InvalidArgument(f"{action} takes one FILE. Received: {' '.join(others) or 'none'} (see --help)")
        return action, others

    def report_paths(self) -> list[tuple[Path, bytes]]:
        """Return the files of the quality report, and by what they are known."""
        if not self.quality_report:
            return []
        report = Path(self.quality_report)
        table = (report.with_suffix(".csv"), b"name,picture,height,width,distortion")
        return [table, (report.with_suffix(".png"), MARK)]

    def check_outputs(self, sources: Sequence[str], model_files: Sequence[Path]) -> None:
        """Refuse outputs of ``encode`` that would write over what they must not; make their folders."""
        for path in (Path(self.out), Path(self.quality_report or self.out)):
            if not path.name:
                raise InvalidArgument(f"--out and --quality-report must be names of files. Received: {path}")
        read: list[str | Path] = [*pictures.find(sources).values(), *model_files]
        outputs.check([(Path(self.out), container.MAGIC), *self.report_paths()], read, self.force)

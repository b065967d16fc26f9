"""Settings of training compressors, for small images and for photographs, against an adversary."""

import dataclasses
from typing import ClassVar

from tf_robustcomp.cli.settings.common import IMAGES, SEEDS, DeviceSettings, ExtensionSettings
from tf_robustcomp.utils import registry
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.settings import field, spelled


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

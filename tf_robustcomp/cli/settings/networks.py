"""Settings of training and pruning classifiers, and the names of their run directories."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from tf_robustcomp.cli.settings.common import SEEDS, DeviceSettings, ExtensionSettings
from tf_robustcomp.utils import registry
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.settings import field

THRESHOLDS = ("quantile", "exact")
CONVERT = "make it with `python tools/download_and_convert_cifar10.py`"


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

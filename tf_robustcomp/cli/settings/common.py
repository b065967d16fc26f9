"""Settings of every training: the device, seeds, and where images come from."""

import dataclasses
from typing import Any

from tf_robustcomp.utils.settings import field

IMAGES = "mnist, digits, FILE.npz with x_train and x_test, FILE.npy, or a folder of pictures"
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

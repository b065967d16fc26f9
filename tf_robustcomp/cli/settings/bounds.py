"""Settings of training a network with a short code and bounding its error."""

import dataclasses

from tf_robustcomp.cli.settings.common import SEEDS, DeviceSettings
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.settings import field, spelled


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
    views: int = field(
        1, "mean of the logits over views^2 copies of the image, shifted by pixels", minimum=1, maximum=4
    )
    dim: int = field(1000, "dimensions of the subspace", minimum=1, maximum=65535)
    levels: int = field(31, "values of a coded number, odd", minimum=3, maximum=255)
    bit_weights: tuple[float, ...] = field((3.0,), "weights of the code length in the loss; a grid", minimum=0)
    seeds: tuple[int, ...] = field((0,), "seeds of the weights and of the subspace; a grid", minimum=0, maximum=65535)
    start: str = field("", "begin with the weights of this coded network (.rcnb), of the same sizes", path=True)
    compared: int = field(
        32,
        "kinds of network that were compared on such data before this one was chosen; log2 of it is paid for",
        operational=True,
        minimum=1,
    )
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
        if self.start and (self.prior_share or self.method == "subspace"):
            raise InvalidArgument("--start needs --method=quantize and no --prior-share: the code holds all weights")
        for name in ("bit_weights", "seeds"):
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InvalidArgument(f"{spelled(name)} must be numbers, each once. Received: {getattr(self, name)}")

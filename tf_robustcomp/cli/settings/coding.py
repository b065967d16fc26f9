"""Settings of coding images."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from tf_robustcomp.cli import outputs
from tf_robustcomp.cli.settings.common import IMAGES
from tf_robustcomp.coding import container
from tf_robustcomp.data import pictures
from tf_robustcomp.utils import registry
from tf_robustcomp.utils.checks import check_choice
from tf_robustcomp.utils.drawing import MARK
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.settings import field, spelled


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
class CodecSettings(EncoderSettings):
    """Flags of the command codec."""

    model: str = field(
        "",
        "run directory of a trained compressor, its .keras file, or the name of one that comes with the package "
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

"""Compare trained compressors with PNG, WebP and JPEG: file sizes and distortions on the same test images.

    python -m tf_robustcomp.compare_codecs --models=out-standard,out-robust --data=mnist --max-distortion=20

The other formats get all images as one picture, so that their headers count once.  Writes OUTPUT.csv (and .png, .pdf):
bytes, bits per image and distortion; with --max-distortion also OUTPUT-promise.csv: the bits to keep that promise on
clean, rotated, noisy and inverted images.
"""

import dataclasses
import sys
from collections.abc import Sequence

from tf_robustcomp.cli import flags, outputs, startup
from tf_robustcomp.cli.settings import EvaluationSettings
from tf_robustcomp.runs.directory import training_data
from tf_robustcomp.utils.settings import field

COMMAND = "compare_codecs"
SUFFIXES = (".csv", ".png", ".pdf", "-promise.csv")


@dataclasses.dataclass(frozen=True)
class Settings(EvaluationSettings):
    """Flags of this command."""

    max_distortion: float | None = field(None, "also code shifted images under this promise", above=0)
    promise_images: int = field(500, "images of each shift that are coded under the promise", minimum=1)
    output: str = field("compare_codecs", "path of the files written, without suffix")


def command(parsed: flags.Parsed) -> None:
    """Load, measure and write."""
    settings = parsed.settings
    written = outputs.with_suffixes(settings.output, SUFFIXES)
    outputs.check(written, settings.models, settings.force)
    settings = dataclasses.replace(settings, data=training_data(settings.models, settings.data))
    startup.load("experiments.evaluations").codecs(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv)


if __name__ == "__main__":
    sys.exit(main())

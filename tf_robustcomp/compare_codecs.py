"""Compare trained compressors with PNG, WebP and JPEG: file sizes and distortions on the same test images.

    python -m tf_robustcomp.compare_codecs --models=out-standard,out-robust --data=mnist --max-distortion=20

The other formats get all images as one picture, so that their headers count once.  Writes OUTPUT.csv (and .png, .pdf):
bytes, bits per image and distortion; with --max-distortion also OUTPUT-promise.csv: the bits to keep that promise on
clean, rotated, noisy and inverted images.
"""

import dataclasses
import functools
import sys

from tf_robustcomp.cli import flags
from tf_robustcomp.cli.settings.evaluations import CodedEvaluationSettings
from tf_robustcomp.experiments import comparison
from tf_robustcomp.utils.settings import field

COMMAND = "compare_codecs"
SUFFIXES = (".csv", ".png", ".pdf", "-promise.csv")


@dataclasses.dataclass(frozen=True)
class Settings(CodedEvaluationSettings):
    """Flags of this command."""

    max_distortion: float | None = field(None, "also code shifted images under this promise", above=0)
    promise_images: int = field(500, "images of each shift that are coded under the promise", minimum=1)
    output: str = field("compare_codecs", "path of the files written, without suffix")


main = functools.partial(flags.run, COMMAND, __doc__, Settings, comparison.command("codecs", SUFFIXES))


if __name__ == "__main__":
    sys.exit(main())

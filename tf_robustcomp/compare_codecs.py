"""Trained compressors beside PNG, WebP and JPEG: file sizes and distortions on the same test images.

    python -m tf_robustcomp.compare_codecs --models=out-standard,out-robust --data=mnist --max-distortion=20

The other formats get all images as one picture, so that their headers count once.  Writes OUTPUT.csv (and .png, .pdf):
bytes, bits per image and distortion; and with --max-distortion OUTPUT-promise.csv: what keeping that promise costs on
clean, turned, noisy and inverted images.
"""

import dataclasses
import sys
from pathlib import Path

from tf_robustcomp import evaluating, flags
from tf_robustcomp.errors import InvalidArgument

COMMAND = "compare_codecs"


@dataclasses.dataclass(frozen=True)
class Settings(evaluating.EvaluationSettings):
    """Flags of this entry point."""

    max_distortion: float | None = flags.field(None, "also code shifted images under this promise")
    promise_images: int = flags.field(500, "images of each shift that are coded under the promise", minimum=1)
    output: str = flags.field("compare_codecs", "path of what is written, without its suffix")


def command(settings):
    """Load, code, write."""
    bound = settings.max_distortion
    if bound is not None and not 0 < bound < float("inf"):
        raise InvalidArgument(f"--max-distortion must be > 0. Received: {bound}")
    subjects = evaluating.load(settings)
    import numpy as np

    from tf_robustcomp.evaluation import formats

    output = Path(settings.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    images = (np.round(subjects.images * 255) / 255).astype(np.float32)
    results = formats.rates_of_formats(images)
    for label, model in subjects.models.items():
        results += formats.rates_of_model(label, model, images, progress=True)
    evaluating.write(results, output, f"{len(images)} test images")
    if bound is None:
        return
    promise = formats.Promise(())
    for label, model in subjects.models.items():
        promise += formats.cost_of_promise(label, model, images[: settings.promise_images], bound, progress=True)
    path = output.with_name(f"{output.name}-promise.csv")
    promise.to_csv(path)
    print(f"{promise.table()}\n{path}")


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv)


if __name__ == "__main__":
    sys.exit(main())

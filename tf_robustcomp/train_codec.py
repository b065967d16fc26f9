"""Train a codec for photographs: one model for images of any size at many rates.

    python -m tf_robustcomp.train_codec train --flagfile=flags_configs/photo.cfg --data=FOLDER
    python -m tf_robustcomp.train_codec eval --flagfile=flags_configs/photo.cfg --data=FOLDER

FOLDER holds pictures; every tenth is for test, or those in its folder `test`.  They are decoded once, and crops are cut
beside the training step.  A training that was stopped goes on where it was.  `eval` writes eval_test.json: bits per
pixel of the files, PSNR and MS-SSIM of the test pictures at five qualities.  --warm-start=photo fine-tunes the model
that comes with the package, for instance against an adversary: --adversary=linf --epsilon=0.02 --attacked=both.
"""

import functools
import sys

from tf_robustcomp.cli import flags, startup
from tf_robustcomp.cli.settings.compressors import PhotographSettings
from tf_robustcomp.runs.directory import check_before

COMMAND = "train_codec"
Settings = PhotographSettings


def command(parsed: flags.Parsed) -> None:
    """Train or evaluate."""
    (action,) = parsed.words
    check_before(action, COMMAND, parsed, "data")
    photographs = startup.load("experiments.photographs")
    if action == "train":
        photographs.train(COMMAND, parsed.settings)
    else:
        photographs.evaluate(parsed)


main = functools.partial(flags.run, COMMAND, __doc__, Settings, command, positional=(("train", "eval"),))


if __name__ == "__main__":
    sys.exit(main())

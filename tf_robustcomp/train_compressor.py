"""Train a learned compressor, ordinarily or against an adversary (Lei, Hassani, Saeedi Bidokhti 2021).

    python -m tf_robustcomp.train_compressor train --flagfile=flags_configs/compress_ae_wass_ball.cfg
    python -m tf_robustcomp.train_compressor eval --flagfile=flags_configs/compress_ae_wass_ball.cfg

Every value is a flag; flags after the flag file override it.  `eval` writes eval_test.json: the distortion (sum of
squared errors per image) of clean, noisy, rotated and attacked test images, for every stage of the model.
"""

import dataclasses
import functools
import sys

from tf_robustcomp.cli import flags, startup
from tf_robustcomp.cli.settings.compressors import CompressorSettings
from tf_robustcomp.cli.settings.studies import SweepSettings
from tf_robustcomp.runs.directory import check_before
from tf_robustcomp.runs.models import model_path
from tf_robustcomp.scheduling import sweep

COMMAND = "train_compressor"


@dataclasses.dataclass(frozen=True)
class Settings(SweepSettings, CompressorSettings):
    """Flags of a run, and of a sweep over many."""


def command(parsed: flags.Parsed) -> None:
    """Train or evaluate, one run or a sweep."""
    (action,) = parsed.words
    if parsed.settings.sweep:
        sweep.perform(COMMAND, CompressorSettings, parsed, check)
        return
    own = parsed.only(CompressorSettings)
    check(action, own)
    compressor = startup.load("experiments.compressor")
    if action == "train":
        compressor.train(COMMAND, own.settings)
    else:
        compressor.evaluate(own)


def check(action: str, parsed: flags.Parsed) -> None:
    """Refuse what cannot be done, before anything slow."""
    check_before(action, COMMAND, parsed, "data")
    if action == "train" and parsed.settings.warm_start:
        model_path(parsed.settings.warm_start)


main = functools.partial(flags.run, COMMAND, __doc__, Settings, command, positional=(("train", "eval"),))


if __name__ == "__main__":
    sys.exit(main())

"""Run a whole published study with one command, and report ours beside the published figures.

    python -m tf_robustcomp.reproduce robust --scale smoke --out study
    python -m tf_robustcomp.reproduce randomisation --scale laptop --out study --dataset data/cifar10_train.tfrecord
    python -m tf_robustcomp.reproduce robust --report results/robust

`robust` is arXiv 2110.07007, `randomisation` arXiv 1804.05862.  Scales: `smoke`, minutes on the embedded digits;
`laptop`, hours on two cores; `paper`, the published settings.  Finished tasks are skipped, so the same command
continues.  OUT holds runs/, tasks/, figures/, runs.json and the report.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path

from tf_robustcomp.cli import flags, startup
from tf_robustcomp.cli.settings.networks import THRESHOLDS
from tf_robustcomp.cli.settings.studies import ExecutorSettings
from tf_robustcomp.experiments.studies import randomisation, robust
from tf_robustcomp.scheduling import study
from tf_robustcomp.utils.settings import field

COMMAND = "reproduce"
STUDIES: dict[str, Callable] = {"robust": robust.tasks, "randomisation": randomisation.tasks}


@dataclasses.dataclass(frozen=True)
class Settings(ExecutorSettings):
    """Flags of this command."""

    scale: str = field("smoke", "size of the study", choices=("smoke", "laptop", "paper"))
    out: str = field("study", "folder of the study", operational=True)
    data: str = field("mnist", "images of `robust`: mnist or FILE.npz (smoke: digits)", path=True)
    dataset: str = field("data/cifar10_train.tfrecord", "records of `randomisation` (smoke: digits)", path=True)
    seed: int = field(0, "seed of the first networks", minimum=0, maximum=2**31)
    seeds: int = field(0, "`randomisation`: networks of each kind (0 = as many as the scale has)", minimum=0)
    threshold: str = field("", "`randomisation`: its --threshold [default: the scale's]", choices=("", *THRESHOLDS))
    export: str = field("", "copy report, runs.json, tables and figures to this folder")
    report: str = field("", "folder of an exported study: only write its report again")


def command(parsed: flags.Parsed) -> None:
    """Perform the study and report it."""
    (name,), settings = parsed.words, parsed.settings
    if settings.report:
        print(*startup.load("experiments.reproduction").report(Path(settings.report)), sep="\n")
        return
    with study.performed(name, STUDIES[name], settings) as (folder, tasks, description):
        finish = startup.load("experiments.reproduction").finish
        print(*finish(folder, tasks, description, settings.export), sep="\n")


main = functools.partial(flags.run, COMMAND, __doc__, Settings, command, positional=(tuple(STUDIES),))


if __name__ == "__main__":
    sys.exit(main())

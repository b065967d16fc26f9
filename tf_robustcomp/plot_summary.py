"""Draw accuracy against sparsity, a line for each fraction of random labels (Zhou et al. 2018, arXiv 1804.05862).

    python -m tf_robustcomp.plot_summary [DIRECTORY ...] [--output summary]

Reads the evaluated run directories in the DIRECTORIES (default: the present one); writes summary.png and summary.csv.
"""

import dataclasses
import functools
import sys
from pathlib import Path

from tf_robustcomp.cli import flags, outputs
from tf_robustcomp.experiments import summary
from tf_robustcomp.utils.settings import field

COMMAND = "plot_summary"
MARKS = {".csv": b"proportion_random,target_sparsity", ".png": outputs.MARKS[".png"]}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this command."""

    output: str = field("summary", "path of the figure and the table, without .png and .csv")
    force: bool = outputs.force()


def command(parsed: flags.Parsed) -> None:
    """Summarise the runs in the given folders."""
    written = [(Path(f"{parsed.settings.output}{suffix}"), mark) for suffix, mark in MARKS.items()]
    outputs.check(written, parsed.words, parsed.settings.force)
    summary.write(parsed.words or (".",), Path(parsed.settings.output))


main = functools.partial(flags.run, COMMAND, __doc__, Settings, command, positional=None)


if __name__ == "__main__":
    sys.exit(main())

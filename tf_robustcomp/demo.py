"""Show both halves of the package on scikit-learn's handwritten digits: no download, a few minutes on two cores.

    python -m tf_robustcomp.demo [--out-dir demo-out]

Networks: labels 0 % and 100 % random, a ResNet-8, three sparsities.  Data: a standard and a min-max compressor.  Each
half ends with a table and a figure.
"""

import dataclasses
import functools
import sys
from pathlib import Path

from tf_robustcomp import plot_reconstructions, plot_summary, run, train_compressor
from tf_robustcomp.cli import flags
from tf_robustcomp.experiments import demonstration
from tf_robustcomp.utils.settings import field

COMMAND = "demo"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this command."""

    out_dir: str = field("demo-out", "folder to write to")


def command(parsed: flags.Parsed) -> int:
    """Run the commands of both halves, each on its words."""
    out = Path(parsed.settings.out_dir)
    commands = {
        "run": run.main,
        "plot_summary": plot_summary.main,
        "train_compressor": train_compressor.main,
        "plot_reconstructions": plot_reconstructions.main,
    }
    for name, words in demonstration.networks(out / "networks") + demonstration.compressors(out / "data"):
        code = commands[name](words)
        if code:
            return code
    demonstration.print_distortions(out / "data")
    print(f"\nLook at {out}/networks/summary.png and {out}/data/reconstructions.png")
    return 0


main = functools.partial(flags.run, COMMAND, __doc__, Settings, command)


if __name__ == "__main__":
    sys.exit(main())

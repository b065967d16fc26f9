"""Say what the size of a network's file proves about its error (docs/bounds.md).

    python -m tf_robustcomp.bound --data mnist --method quantize --bit-weights 2,4
    python -m tf_robustcomp.bound --data mnist --prior-share 0.5
    python -m tf_robustcomp.bound --data mnist --start out-bound/w3-s0/network.rcnb --bit-weights 1,10 --epochs 1
    python -m tf_robustcomp.bound --data mnist --model out-bound/w4-s0/network.rcnb

Trains a network that has a short code for each point of the grid, writes its file, reads it back, evaluates what it
read, and writes bounds.csv and bounds.png.  `--model` takes a run directory, a .keras, a .rcsm or a .rcnb file instead.
"""

import functools
import sys

from tf_robustcomp.cli import flags, startup
from tf_robustcomp.cli.settings.bounds import BoundSettings
from tf_robustcomp.data.images import check_source

COMMAND = "bound"
Settings = BoundSettings


def command(parsed: flags.Parsed) -> None:
    """Bound the error of networks that are trained here, or of the one that is given."""
    check_source(parsed.settings.data)
    bounds = startup.load("experiments.bounds")
    if parsed.settings.model:
        bounds.of_model(parsed.settings)
    else:
        bounds.of_grid(COMMAND, parsed.settings)


main = functools.partial(flags.run, COMMAND, __doc__, Settings, command)


if __name__ == "__main__":
    sys.exit(main())

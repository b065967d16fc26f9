"""Draw to files with matplotlib, and mark the files as this package's own."""

from pathlib import Path
from typing import Any

from tf_robustcomp.utils import files

MARK = b"tf_robustcomp"  # in every picture that the package writes: by it a command knows its own files
# Without a date the same figure is the same file.
METADATA = {".pdf": {"CreationDate": None, "Creator": MARK.decode()}, ".png": {"Software": MARK.decode()}}


# Eight colours that colour-blind readers tell apart (Okabe and Ito 2008); lines differ by marker and dashes, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B8A800")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")


def line(number: int, dashes: int = 0) -> dict[str, Any]:
    """Return colour, marker and dashes of the line with a number, and another line of the same colour by ``dashes``."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[(number + dashes) % len(DASHES)],
    }


def pyplot() -> Any:
    """Return matplotlib's pyplot, drawing to files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save(figure: Any, *paths: Path) -> None:
    """Write a figure to each path, in the format of its suffix, and close it."""
    for path in paths:
        with files.replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, metadata=METADATA.get(path.suffix))
    pyplot().close(figure)

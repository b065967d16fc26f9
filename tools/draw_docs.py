"""Draw the pictures of docs/how_it_works.md: boxes in the order of a pruning step, a min-max step and a stream.

    python tools/draw_docs.py [--out docs/figures]

Colours are those of Okabe and Ito, which colour-blind readers tell apart; every box says what it is in words.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

BLUE, ORANGE, GREEN, GREY = "#cfe5f5", "#fbe3bf", "#c9ebdf", "#ececec"  # tints: network, variant's own box, bytes, data
EDGE = {BLUE: "#0072b2", ORANGE: "#b35f00", GREEN: "#00795a", GREY: "#555555"}
WIDTH, HEIGHT = 1.62, 0.95

Place = tuple[float, float]


def box(axes: Axes, place: Place, text: str, colour: str) -> None:
    """Draw a box around ``place`` with a text of two or three lines."""
    corner = (place[0] - WIDTH / 2, place[1] - HEIGHT / 2)
    patch = FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.1", fc=colour, ec=EDGE[colour], lw=1.4)
    axes.add_patch(patch)
    axes.text(*place, text, ha="center", va="center", fontsize=9.5, linespacing=1.35)


def arrow(axes: Axes, start: Place, end: Place, text: str = "", bend: float = 0.0, lift: float = 0.12) -> None:
    """Draw an arrow, with a word beside its middle."""
    style = {"arrowstyle": "-|>", "color": "#333333", "lw": 1.4, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 13}
    axes.annotate("", end, start, arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"})
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + lift)
    axes.text(*middle, text, ha="center", va="bottom", fontsize=8.5, color="#333333")


def row(axes: Axes, boxes: list[tuple[str, str]], height: float, words: list[str], step: float = 2.3) -> list[Place]:
    """Draw boxes from left to right with arrows between them; return their places."""
    places = [(step * index + 1, height) for index in range(len(boxes))]
    for place, (text, colour) in zip(places, boxes, strict=True):
        box(axes, place, text, colour)
    for first, second, word in zip(places, places[1:], words, strict=False):
        arrow(axes, (first[0] + WIDTH / 2, height), (second[0] - WIDTH / 2, height), word)
    return places


def back(axes: Axes, last: Place, first: Place, below: float, text: str) -> None:
    """Draw the way back, below the boxes."""
    down, up = (last[0], last[1] - HEIGHT / 2), (first[0], first[1] - HEIGHT / 2)
    axes.plot([down[0], down[0], up[0]], [down[1], below, below], color="#333333", lw=1.4, solid_capstyle="butt")
    arrow(axes, (up[0], below), up)
    axes.text((down[0] + up[0]) / 2, below - 0.1, text, ha="center", va="top", fontsize=9)


def canvas(width: float, height: float) -> tuple[plt.Figure, Axes]:
    """Return a figure on white, in units of boxes."""
    figure, axes = plt.subplots(figsize=(width * 0.78, height * 0.78))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return figure, axes


def pruning_step() -> plt.Figure:
    """Return the picture of a pruning step."""
    figure, axes = canvas(11.3, 2.6)
    boxes = [
        ("model holds\ndense × mask", GREY),
        ("gradient at the\nmasked weights", BLUE),
        ("inner optimizer\nsteps", BLUE),
        ("dense weights\nmove, cut ones\ntoo", GREY),
        ("rule: scores,\nnew mask where\nscheduled", ORANGE),
    ]
    places = row(axes, boxes, 1.9, [""] * 4)
    back(axes, places[-1], places[0], 0.75, "dense × mask goes back into the model: exact zeros after every step")
    return figure


def min_max_step() -> plt.Figure:
    """Return the picture of a min-max step."""
    figure, axes = canvas(11.3, 2.6)
    boxes = [
        ("clean images", GREY),
        ("adversary\nproposes worse\nimages", ORANGE),
        ("clip to [0, 1],\nmeasure on\nthe model", BLUE),
        ("keep the worse:\nproposal or\nclean image", GREY),
        ("ordinary step\nlowers the\ndistortion", BLUE),
    ]
    places = row(axes, boxes, 1.9, [""] * 4)
    back(axes, places[-1], places[1], 0.75, "the next batch meets the new weights")
    return figure


def stream() -> plt.Figure:
    """Return the picture of a stream."""
    figure, axes = canvas(11.3, 4.6)
    up, down = 3.1, 0.9
    above = [("images", GREY), ("encoder\nnetwork", BLUE), ("quantiser", BLUE), ("symbols:\nintegers", GREY)]
    places = row(axes, [*above, ("entropy coder,\ninteger tables", GREEN)], up, ["", "latents", "", ""])
    below = [("images", GREY), ("decoder\nnetwork", BLUE), ("latents", GREY), ("symbols:\nthe same", GREY)]
    row(axes, [*below, ("entropy decoder,\nthe same tables", GREEN)], down, [])
    for index in range(4):
        arrow(axes, (2.3 * index + 3.3 - WIDTH / 2, down), (2.3 * index + 1 + WIDTH / 2, down))
    end = places[-1][0]
    arrow(axes, (end, up - HEIGHT / 2), (end, down + HEIGHT / 2))
    axes.text(end - 0.12, (up + down) / 2, "bytes:\nheader, checksums", ha="right", va="center", fontsize=9)
    symbols = places[3]
    arrow(axes, (symbols[0], up + HEIGHT / 2 + 0.5), (symbols[0], up + HEIGHT / 2))
    axes.text(
        symbols[0], up + HEIGHT / 2 + 0.55, "a search may offer nearer symbols", ha="center", va="bottom", fontsize=9
    )
    return figure


def main(argv: list[str] | None = None) -> int:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "figures")
    folder = parser.parse_args(argv).out
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "tf_robustcomp", "font.family": "DejaVu Sans"}):
        for draw in (pruning_step, min_max_step, stream):
            figure = draw()
            figure.savefig(folder / f"{draw.__name__}.svg", metadata={"Date": None}, facecolor="white")
            plt.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Clean and worst-case distortion of compressors by encoder, with floors, ceilings, bits and speed.

    python tools/compare_encoders.py MODEL [MODEL ...] --data mnist.npz --out results/robust/encoders

MODEL is the name of a model that comes with the package, or LABEL=FILE.keras.  Writes encoders.csv, encoders.png and
budgets.csv, the clean distortion of the search by its budget, and prints both tables.  A floor is what an attack
through the encoder found: it begins at the worst images of the ensemble on the network.  A ceiling is a proof, which
only a list has.  What stands in a table is not measured again.
"""

import argparse
import csv
import math
import sys
import time
from pathlib import Path

import numpy as np

import tf_robustcomp as rc
from tf_robustcomp.compression.pretrained import pretrained_names
from tf_robustcomp.compression.symbols import decode_all
from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.data.images import load_images, resized
from tf_robustcomp.evaluation.codec_attack import CodecAttack
from tf_robustcomp.evaluation.ensemble import Ensemble
from tf_robustcomp.utils import files
from tf_robustcomp.utils.drawing import line, pyplot, save

NEAREST = 24
GAMMAS = (4.0, 2.5, 1.7, 1.4, 1.2)
RADII = (24.0, 54.0)
BUDGETS = (0, 10, 25, 50, 100, 200)  # decoder evaluations of an image; 0 is the network's code
BUDGET_COLUMNS = ("model", "budget", "images", "clean")
COLUMNS = ("model", "encoder", "bits", "images", "clean", "floor_24", "ceiling_24", "floor_54", "ceiling_54", "speed")


def main(argv: list[str] | None = None) -> int:
    """Measure what is missing, and write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--list-sweeps", type=int, default=1, help="of the search that finds the codes of the list")
    words = parser.parse_args(argv)
    data = load_images(words.data)
    train, test = resized(data.x_train, 32), resized(data.x_test[: words.images], 32)
    words.out.mkdir(parents=True, exist_ok=True)
    table = words.out / "encoders.csv"
    rows, budgets = _read(table), _read(words.out / "budgets.csv")
    for word in words.models:
        label, _, path = word.partition("=")
        known = {row["encoder"] for row in rows if row["model"] == label}
        searched = label in {row["model"] for row in budgets}
        attacked = known >= {"network", "search", "list and search"}
        if searched and attacked:
            continue
        if not path and label not in pretrained_names():
            print(f"{label}: no model of this name; name a file by LABEL=FILE.keras", file=sys.stderr)
            return 2
        model = rc.load_model(path) if path else rc.load_pretrained(label)
        if not searched:
            budgets += _by_budget(model, label, test)
            _write(words.out / "budgets.csv", budgets, BUDGET_COLUMNS)
        if attacked:
            continue
        for row in _measured(model, label, known, train, test, words.list_sweeps):
            rows.append(row)
            _write(table, rows)
            print(*row.values(), sep="\t", flush=True)
    _draw(words.out / "encoders.png", rows)
    return 0


def _measured(model, label, known, train, images, sweeps):
    """Yield the row of each encoder that is not known."""
    worst, network = [], Ensemble(model, images, model.stages)
    for gamma in GAMMAS:
        network.climb(gamma)
        worst.append(network.worst.copy())
    common = {"model": label, "bits": round(model.latent_dim * math.log2(model.levels), 2), "images": len(images)}
    if "network" not in known:
        floors = network.points.at(np.array(RADII))
        yield _row(common, model, "network", rc.NetworkEncoder(), images, floors)
    finder = rc.SearchEncoder(sweeps=sweeps, gradient_steps=0) if sweeps else rc.NetworkEncoder()
    listed = rc.ListEncoder.fit(model, train, finder)
    indices, _ = listed.nearest(model, images, None, NEAREST)
    codewords = listed.decoded(model, None)[0][indices]  # a guess at what any encoder may return, for the attack
    both = rc.BestOf([listed, rc.SearchEncoder()])
    for name, encoder in {"search": rc.SearchEncoder(), "list and search": both}.items():
        if name in known:
            continue
        attack = CodecAttack(_coder(model, encoder), images, worst, codewords)
        for gamma in GAMMAS:
            attack.climb(gamma)
        floors, ceilings = attack.points.at(np.array(RADII)), [math.nan] * len(RADII)
        if encoder is both:
            rows = rc.certified_curve(model, images, RADII, both).rows
            floors, ceilings = np.maximum(floors, [row.floor for row in rows]), [row.ceiling for row in rows]
        yield _row(common, model, name, encoder, images, floors, ceilings)


def _by_budget(model, label, images):
    rows = []
    for budget in BUDGETS:
        encoder = rc.SearchEncoder(budget=budget) if budget else rc.NetworkEncoder()
        values = (label, budget, len(images), f"{_clean(model, encoder, images):.2f}")
        rows.append(dict(zip(BUDGET_COLUMNS, values, strict=True)))
        print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def _clean(model, encoder, images):
    return squared_error(images, decode_all(model, encoder(model, images))).mean()


def _coder(model, encoder):
    return lambda images: decode_all(model, encoder(model, images))


def _row(common, model, name, encoder, images, floors, ceilings=(math.nan, math.nan)):
    encoder(model, images[:2])
    start = time.perf_counter()
    clean = _clean(model, encoder, images)
    speed = len(images) / (time.perf_counter() - start)
    measured = {"encoder": name, "clean": clean, "speed": speed}
    for radius, floor, ceiling in zip(RADII, floors, ceilings, strict=True):
        measured |= {f"floor_{radius:.0f}": floor, f"ceiling_{radius:.0f}": ceiling}
    rounded = {key: value if isinstance(value, str) else f"{value:.2f}" for key, value in measured.items()}
    return {column: (common | rounded)[column] for column in COLUMNS}


def _read(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _write(path, rows, columns=COLUMNS):
    with files.replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _draw(path, rows):
    """Bars of the floors, one group for each model, a line at each ceiling."""
    figure, panels = pyplot().subplots(1, 3, figsize=(9, 3), layout="constrained")
    models = list(dict.fromkeys(row["model"] for row in rows))
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    names = {"clean": "clean", "floor_24": "worst case, rho 24", "floor_54": "worst case, rho 54"}
    for axes, (column, title) in zip(panels, names.items(), strict=True):
        for row in rows:
            place = models.index(row["model"]) + 0.27 * (encoders.index(row["encoder"]) - 1)
            color = line(encoders.index(row["encoder"]), 0)["color"]
            axes.bar(place, float(row[column]), 0.25, color=color, label=row["encoder"])
            ceiling = float(row.get(column.replace("floor", "ceiling"), "nan") if column != "clean" else "nan")
            axes.plot([place - 0.125, place + 0.125], [ceiling] * 2, color="black", label="ceiling")
        axes.set_xticks(range(len(models)), models, fontsize=8)
        axes.set_title(title, fontsize=10)
    panels[0].set_ylabel("squared error of an image")
    found = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    panels[1].legend(found.values(), found, fontsize=8, loc="upper right")
    save(figure, path)


if __name__ == "__main__":
    sys.exit(main())

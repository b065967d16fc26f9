"""Attack and corrupt crops of photographs: worse pictures and larger files, for the codec and a fine-tuned one.

    python tools/attack_photographs.py FOLDER --out results/photographs --robust out-photo-robust

Writes attacks.csv: for each model, radius of an Linf ball and objective the PSNR of the decoded attacked crop against
that crop, the bytes of its stream, and rate + lambda * distortion in bits per pixel, as means over the central crops of
the pictures in FOLDER; the attack is on the network, and its images are also coded by the search.  Writes
corruptions.csv: the distortion under common corruptions, and attacks.png.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from keras import ops
from PIL import Image

import tf_robustcomp as rc
from tf_robustcomp.runs.models import load_trained

COLUMNS = ("model", "encoder", "radius_255", "objective", "psnr_db", "bits_per_pixel", "cost_per_pixel")


def main(argv: list[str] | None = None) -> int:
    """Attack, corrupt, and write tables and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--robust", help="run directory of a fine-tuned model")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--search", type=int, default=0, help="gradient steps of the search (0 = network alone)")
    parser.add_argument("--quality", type=float, default=0.5)
    parser.add_argument("--severities", type=int, nargs="*", default=[1, 3, 5])
    words = parser.parse_args(argv)
    paths = sorted(words.folder.glob("*.png"))
    images = np.stack([central(path, words.crop) for path in paths[:: max(1, len(paths) // words.pictures)]])
    models = {"photo": rc.load_pretrained("photo")}
    if words.robust:
        models["fine-tuned"] = load_trained(words.robust)
    words.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in attacked(models, images, words):
        rows.append(row)
        print(*row.values(), sep="\t", flush=True)
        with open(words.out / "attacks.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    draw(words.out / "attacks.png", rows)
    if words.severities:
        curve = rc.corruption_curve(models, images, severities=words.severities)
        curve.to_csv(words.out / "corruptions.csv")
        print(curve.summary())
    return 0


def attacked(models, images, words):
    """Yield a row for each model, radius, objective and encoder."""
    encoders = {"network": None}
    if words.search:
        encoders["search"] = rc.SearchEncoder(gradient_steps=words.search)
    for label, model in models.items():
        for radius in (0, 1, 2, 4):
            for objective in ("distortion", "rate", "both") if radius else ("none",):
                found = images
                if radius:
                    adversary = rc.LinfBall(epsilon=radius / 255, steps=words.steps)
                    found = adversary.attack(model, images, objective=objective, quality=words.quality).x
                    found = np.clip(np.asarray(ops.convert_to_numpy(found)), 0, 1)
                for name, encoder in encoders.items():
                    values = (label, name, radius, objective, *measured(model, found, words.quality, encoder))
                    yield dict(zip(COLUMNS, values, strict=True))


def central(path, side):
    """Return the central crop of a picture, float32 in [0, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return (pixels[top : top + side, left : left + side] / 255).astype(np.float32)


def measured(model, images, quality, encoder):
    """Return the mean PSNR, and per pixel the bits of a stream of images and rate + lambda * distortion."""
    data = model.compress(images, quality=quality, encoder=encoder)
    squares = np.sum((model.decompress(data) - images) ** 2, axis=(1, 2, 3))
    pixels = np.prod(images.shape[:3])
    cost = (8 * len(data) + model.price_per_pixel(quality) * squares.sum()) / pixels
    psnr = -10 * np.log10(squares / np.prod(images.shape[1:]))
    return round(float(np.mean(psnr)), 3), round(8 * len(data) / pixels, 4), round(float(cost), 4)


def draw(path, rows):
    """Draw bits and cost per pixel against the radius."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    panels = (("rate", "bits_per_pixel"), ("both", "cost_per_pixel"))
    for axis, (objective, name) in zip(axes, panels, strict=True):
        for label, encoder in dict.fromkeys((row["model"], row["encoder"]) for row in rows):
            own = [row for row in rows if (row["model"], row["encoder"]) == (label, encoder)]
            points = [(row["radius_255"], row[name]) for row in own if row["objective"] in ("none", objective)]
            axis.plot(*zip(*points, strict=True), "o-", label=f"{label}, {encoder}")
        axis.set(xlabel="Linf radius, in 1/255", ylabel=name.replace("_", " "), title=f"attack on {objective}")
    axes[1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())

"""Compare codes that a search finds with the network's, on crops of photographs.

    python tools/search_photographs.py FOLDER --out results/photographs/search.csv

Each row is one encoder and quality: bits per pixel of the streams, PSNR, rate + lambda * distortion per pixel, and
seconds, as means over central crops.  It prints Bjontegaard's difference of rates, by the package bjontegaard.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

import tf_robustcomp as rc

COLUMNS = ("encoder", "quality", "bits_per_pixel", "psnr_db", "cost_per_pixel", "seconds")
QUALITIES = (0.1, 0.35, 0.6, 0.85)


def main(argv: list[str] | None = None) -> int:
    """Code by the network and by the search, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    words = parser.parse_args(argv)
    paths = sorted(words.folder.glob("*.png"))
    images = [central(path, words.crop) for path in paths[:: max(1, len(paths) // words.pictures)]]
    model = rc.load_pretrained("photo")
    rows = []
    for quality in QUALITIES:
        for name, encoder in (("network", None), ("search", rc.SearchEncoder(gradient_steps=words.steps))):
            began = time.perf_counter()
            values = list(np.mean([measured(model, image, quality, encoder) for image in images], axis=0))
            row = (name, quality, *np.round(values, 5), round((time.perf_counter() - began) / len(images), 2))
            rows.append(dict(zip(COLUMNS, row, strict=True)))
            print(*row, sep="\t", flush=True)
    with open(words.out, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"rate at equal PSNR: {bd_rate(rows):+.2f} %")
    return 0


def central(path, side):
    """Return the central crop of a picture (1, side, side, 3), float32 in [0, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return (pixels[None, top : top + side, left : left + side] / 255).astype(np.float32)


def measured(model, image, quality, encoder):
    """Return bits per pixel of a stream, PSNR, and rate + lambda * distortion per pixel."""
    data = model.compress(image, quality=quality, encoder=encoder)
    squares = np.sum((model.decompress(data) - image) ** 2)
    pixels = image.shape[1] * image.shape[2]
    cost = 8 * len(data) + model.price_per_pixel(quality) * squares
    return 8 * len(data) / pixels, -10 * np.log10(squares / image.size), cost / pixels


def bd_rate(rows):
    """Return by how many percent the search's files are smaller (negative) at equal PSNR."""
    import bjontegaard

    curves = []
    for name in ("network", "search"):
        own = [row for row in rows if row["encoder"] == name]
        curves += [np.array([row[key] for row in own]) for key in ("bits_per_pixel", "psnr_db")]
    return bjontegaard.bd_rate(*curves, method="akima", require_matching_points=False, min_overlap=0)


if __name__ == "__main__":
    sys.exit(main())

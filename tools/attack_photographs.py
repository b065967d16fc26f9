"""Attack the photograph codec on crops: worse pictures and larger files, per radius of an Linf ball.

    python tools/attack_photographs.py FOLDER --out results/photographs/attacks.csv

Each row is one radius and one objective: PSNR of the decoded attacked crop against that crop, and the bytes of its
stream, as means over the central crops of all pictures in FOLDER.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from keras import ops
from PIL import Image

import tf_robustcomp as rc

COLUMNS = ("radius_255", "objective", "quality", "psnr_db", "bits_per_pixel", "bits_ratio")


def main(argv: list[str] | None = None) -> int:
    """Attack, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--quality", type=float, default=0.5)
    words = parser.parse_args(argv)
    images = np.stack([central(path, words.crop) for path in sorted(words.folder.glob("*.png"))])
    model = rc.load_pretrained("photo")
    clean, rate = measured(model, images, words.quality)
    rows = [dict(zip(COLUMNS, (0, "none", words.quality, clean, rate, 1.0), strict=True))]
    for radius in (1, 2, 4):
        for objective in ("distortion", "rate"):
            adversary = rc.LinfBall(epsilon=radius / 255, steps=words.steps)
            attacked = adversary.attack(model, images, objective=objective, quality=words.quality).x
            attacked = np.clip(np.asarray(ops.convert_to_numpy(attacked)), 0, 1)
            psnr, bits = measured(model, attacked, words.quality)
            values = (radius, objective, words.quality, psnr, bits, round(bits / rate, 4))
            rows.append(dict(zip(COLUMNS, values, strict=True)))
            print(*values, sep="\t", flush=True)
    with open(words.out, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return 0


def central(path, side):
    """Return the central crop of a picture, float32 in [0, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return (pixels[top : top + side, left : left + side] / 255).astype(np.float32)


def measured(model, images, quality):
    """Return the mean PSNR and the bits per pixel of a stream of images."""
    data = model.compress(images, quality=quality)
    errors = np.mean((model.decompress(data) - images) ** 2, axis=(1, 2, 3))
    pixels = np.prod(images.shape[:3])
    return round(float(np.mean(-10 * np.log10(errors))), 3), round(8 * len(data) / pixels, 4)


if __name__ == "__main__":
    sys.exit(main())

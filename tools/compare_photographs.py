"""Rate and distortion of the photograph codec beside common formats, on a folder of pictures.

    python tools/compare_photographs.py FOLDER --out results/photographs

Writes points.csv (each picture at each quality: bytes of the file, PSNR over RGB, MS-SSIM), curves.csv (means over the
pictures), bd_rate.csv (Bjontegaard's rate difference against each format, by the package bjontegaard), curves.png, and
prints the tables.  JPEG XL needs the package pillow-jxl-plugin; formats that Pillow cannot write are left out by name.
"""

import argparse
import csv
import functools
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, features

import tf_robustcomp as rc
from tf_robustcomp.evaluation.quality import ms_ssim

OURS = "tf_robustcomp"
QUALITIES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0)
FORMATS = {
    "JPEG": ({"format": "jpeg", "optimize": True, "subsampling": "4:2:0"}, (5, 10, 15, 20, 30, 40, 50, 60, 75, 85, 92)),
    "WebP": ({"format": "webp", "method": 6}, (0, 5, 10, 20, 30, 45, 60, 75, 85, 92)),
    "AVIF": ({"format": "avif", "speed": 4}, (10, 20, 30, 40, 50, 60, 70, 80)),
    "JPEG XL": ({"format": "jxl", "effort": 7}, (5, 15, 30, 45, 60, 70, 80, 88, 93)),
}
# Kodak's means of CompressAI (bits per pixel, PSNR over RGB in dB), as its documentation lists them.
PUBLISHED = {
    "bmshj2018-hyperprior (CompressAI)": ((0.131, 27.58), (0.209, 29.20), (0.320, 30.97), (0.478, 32.84)),
}
BJONTEGAARD = {"method": "akima", "require_matching_points": False, "min_overlap": 0}
COLUMNS = ("codec", "quality", "picture", "bytes", "bits_per_pixel", "psnr_db", "ms_ssim")


def main(argv: list[str] | None = None) -> int:
    """Compare, and write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--codecs", default=",".join((OURS, *FORMATS)), help="measured now; others as in points.csv")
    words = parser.parse_args(argv)
    paths = sorted(words.folder.glob("*.png"))
    if not paths:
        print(f"{words.folder}: no .png in it", file=sys.stderr)
        return 2
    words.out.mkdir(parents=True, exist_ok=True)
    named = words.codecs.split(",")
    kept = [row for row in read(words.out / "points.csv") if row["codec"] not in named]
    rows = [*measured(paths, named), *kept]
    write(words.out / "points.csv", COLUMNS, rows)
    curves = means(rows)
    write(words.out / "curves.csv", tuple(curves[0]), curves)
    table = bd_rates(curves)
    write(words.out / "bd_rate.csv", ("against", "by_psnr_percent", "by_ms_ssim_percent"), table)
    draw(words.out / "curves.png", curves)
    for row in (*curves, *table):
        print(*row.values(), sep="\t")
    return 0


def measured(paths: list[Path], named: list[str]) -> Iterator[dict]:
    """Yield a row for each codec, quality and picture."""
    found = [entry for entry in coders() if entry[0] in named]
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        for codec, quality, coder in found:
            data = coder[0](pixels)
            decoded = coder[1](data)
            error = np.mean((pixels / 255 - decoded / 255) ** 2)
            yield {
                "codec": codec,
                "quality": quality,
                "picture": path.stem,
                "bytes": len(data),
                "bits_per_pixel": round(8 * len(data) / pixels[..., 0].size, 6),
                "psnr_db": round(-10 * np.log10(error), 4),
                "ms_ssim": round(float(ms_ssim(pixels[None], decoded[None])[0]), 6),
            }
        print(path.stem, file=sys.stderr, flush=True)


def coders() -> Iterator[tuple[str, float, tuple[Callable, Callable]]]:
    """Yield ``(codec, quality, (pixels -> bytes, bytes -> pixels))``."""
    model = rc.load_pretrained("photo")

    def decoded(data):
        return np.round(model.decompress(data)[0] * 255).astype(np.uint8)

    for quality in QUALITIES:

        def encoded(pixels, quality=quality):
            return model.compress((pixels / 255).astype(np.float32)[None], quality=quality)

        yield OURS, quality, (encoded, decoded)
    for name, (options, qualities) in FORMATS.items():
        for quality in qualities if available(name) else ():
            yield name, quality, (functools.partial(saved, options=options, quality=quality), opened)


def available(name: str) -> bool:
    """Return whether Pillow writes a format, of which JPEG XL is a plugin."""
    if name == "JPEG XL":
        try:
            import pillow_jxl  # noqa: F401
        except ImportError:
            return False
        return True
    return name == "JPEG" or bool(features.check(name.lower()))


def saved(pixels, options, quality):
    """Return the bytes of a picture in a format of Pillow."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, quality=quality, **options)
    return file.getvalue()


def opened(data):
    """Return the pixels of a picture's bytes."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def means(rows: list[dict]) -> list[dict]:
    """Return the means over the pictures, for each codec and quality."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["codec"], row["quality"]), []).append(row)
    names = ("bits_per_pixel", "psnr_db", "ms_ssim")
    return [
        {"codec": codec, "quality": quality, **{n: round(float(np.mean([r[n] for r in part])), 4) for n in names}}
        for (codec, quality), part in groups.items()
    ]


def bd_rates(curves: list[dict]) -> list[dict]:
    """Return by how many percent our files are smaller (negative) or larger at equal quality, against each format."""
    import bjontegaard

    def curve(codec, name):
        points = sorted((row["bits_per_pixel"], row[name]) for row in curves if row["codec"] == codec)
        rate, value = map(np.array, zip(*points, strict=True))
        return rate, -10 * np.log10(1 - value) if name == "ms_ssim" else value

    found = []
    for codec in dict.fromkeys(row["codec"] for row in curves if row["codec"] != OURS):
        by = {
            name: bjontegaard.bd_rate(*curve(codec, name), *curve(OURS, name), **BJONTEGAARD)
            for name in ("psnr_db", "ms_ssim")
        }
        found.append(
            {
                "against": codec,
                "by_psnr_percent": round(float(by["psnr_db"]), 2),
                "by_ms_ssim_percent": round(float(by["ms_ssim"]), 2),
            }
        )
    for name, points in PUBLISHED.items():
        rate, value = map(np.array, zip(*points, strict=True))
        difference = bjontegaard.bd_rate(rate, value, *curve(OURS, "psnr_db"), **BJONTEGAARD)
        found.append({"against": name, "by_psnr_percent": round(float(difference), 2), "by_ms_ssim_percent": ""})
    return found


def draw(path: Path, curves: list[dict]) -> None:
    """Draw PSNR and MS-SSIM against the rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for codec in dict.fromkeys(row["codec"] for row in curves):
        points = sorted((r["bits_per_pixel"], r["psnr_db"], r["ms_ssim"]) for r in curves if r["codec"] == codec)
        rate, psnr, alike = map(np.array, zip(*points, strict=True))
        style = {"marker": "o", "ms": 3, "lw": 2.2 if codec == OURS else 1.2, "label": codec}
        axes[0].plot(rate, psnr, **style)
        axes[1].plot(rate, -10 * np.log10(1 - alike), **style)
    for name, published in PUBLISHED.items():
        axes[0].plot(*zip(*published, strict=True), "k--", lw=1, label=name)
    axes[0].set(xlabel="bits per pixel", ylabel="PSNR over RGB, dB", xlim=(0, 1.5))
    axes[1].set(xlabel="bits per pixel", ylabel="MS-SSIM, -10 log10(1 - value)", xlim=(0, 1.5))
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def read(path: Path) -> list[dict]:
    """Return the rows of a CSV file, numbers as such; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return [
            {k: v if k in ("codec", "picture") else float(v) for k, v in row.items()} for row in csv.DictReader(file)
        ]


def write(path: Path, columns: tuple, rows: list[dict]) -> None:
    """Write rows as CSV."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())

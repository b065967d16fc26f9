"""Results of the randomisation study beside the published ones (arXiv 1804.05862)."""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp.experiments import published, summary
from tf_robustcomp.experiments import reports as report
from tf_robustcomp.experiments.records import Record
from tf_robustcomp.experiments.studies.randomisation import SPARSITIES
from tf_robustcomp.networks import resnet_v2
from tf_robustcomp.pruning import save_sparse
from tf_robustcomp.pruning.roles import is_kernel
from tf_robustcomp.utils import table


def text(folder: Path, records: Sequence[Record], heading: str) -> str:
    """Return the report as Markdown, and complete ``figures/summary.csv``; see `robust_report.text`."""
    rows = table.read_csv(folder / "figures/summary.csv")
    kept = _complete(rows, records)
    table.write_csv(folder / "figures/summary.csv", rows)
    records_of = {f"{split}_records": _records(records, split) for split in ("train", "test")}
    numbers = [{name: float(value) if value else "" for name, value in row.items()} for row in rows]
    title = summary.title(record.config["settings"]["dataset"] for record in records if record.config)
    summary.draw(folder / "figures/summary.png", [{**records_of, **row} for row in numbers], title)
    targets = sorted({float(row["target_sparsity"]) for row in rows})
    found = {(float(row["proportion_random"]), float(row["target_sparsity"])): row for row in rows}
    proportions = sorted({proportion for proportion, _ in found})
    header = ["random labels", *(f"sparsity {target:g}" if target else "unpruned" for target in targets)]

    def ours(column):
        return report.table(
            header, [[_percent(p), *(_cell(found[p, t], column) for t in targets)] for p in proportions]
        )

    theirs = ["random labels", *(f"sparsity {target:g}" for target in SPARSITIES)]
    return "\n".join(
        [
            f"# Randomisation and compressibility\n\n{heading}\n",
            "## Accuracy on the randomly labelled training set\n",
            f"{records_of['train_records']:,} images. Means over seeds; their range where there are several.\n",
            ours("train_accuracy"),
            "Sparsity reached, mean over seeds:\n",
            ours("sparsity"),
            "Bits that every code of a network of this accuracy needs, with probability 0.95, since no network "
            "predicts a label drawn at random (docs/bounds.md); 0 where the accuracy proves nothing. "
            f"{_files(rows, kept)}\n",
            report.table(header, [[_percent(p), *(_needed(found[p, t]) for t in targets)] for p in proportions]),
            "![Accuracy against sparsity](figures/summary.png)\n",
            "## The same, as published\n",
            f"50,000 images, one seed. {_compared(records)}\n",
            report.table(theirs, [[_percent(p), *values] for p, values in published.RANDOMISATION.items()]),
            "## Accuracy on the test set, true labels\n",
            f"{records_of['test_records']:,} images.\n",
            ours("test_accuracy"),
            report.runs(records),
        ]
    )


def _compared(records):
    """Columns that the table above and the published one have in common."""
    quantile = (
        "The published threshold is a quantile of all magnitudes, which prunes less than its target: at a target of "
        "0.9 it ends between 0.86 and 0.89, by the network."
    )
    if any(one.config.get("settings", {}).get("threshold") == "exact" for one in records):
        return (
            f"{quantile} Runs here with `--threshold=exact` reach their target: a column compares ours at a sparsity "
            "with the published ones at a smaller one."
        )
    return f"{quantile} The runs here have the same threshold: a column compares one target, reached as the table says."


def _records(records, split):
    return next((one.evaluations[split]["records"] for one in records if split in one.evaluations), 0)


def _cell(row, column):
    if not row[column]:
        return "-"
    if column + "_min" not in row:
        return f"{float(row[column]):.4f}"
    mean, low, high = (float(row[column + end]) for end in ("", "_min", "_max"))
    return f"{mean:.4f}" + (f" ({low:.4f}-{high:.4f})" if row["seeds"] != "1" else "")


def _complete(rows, records):
    """Fill in the bits that each row needs and those of its files; return whether these are of files that were kept."""
    sizes: dict[tuple, list] = {}
    remake = _Remade()
    kept = True
    for record in records:
        settings, found = record.config.get("settings", {}), record.evaluations.get("train", {})
        if "sparsity_per_layer" in found:
            kept = kept and "file_bits" in found
            bits = found.get("file_bits") or remake.file_bits(settings, found["sparsity_per_layer"])
            sizes.setdefault((settings["proportion_random"], settings["target_sparsity"]), []).append(bits)
    for row in rows:
        accuracy, images = float(row["train_accuracy"]), int(row.get("train_records") or 0)
        proportion, target = float(row["proportion_random"]), float(row["target_sparsity"])
        needed = summary.needed_bits(proportion, accuracy, images)
        row["least_bits"] = needed if needed == "" else round(float(needed))
        row["file_bits"] = round(statistics.mean(sizes[proportion, target])) if (proportion, target) in sizes else ""
    return kept


class _Remade:
    """Files of networks that were not kept: as many nonzeros in each kernel, the largest of what training begins with.

    A file of `save_sparse` codes places by the number of nonzeros alone.  Batch norm's parameters, all alike here, take
    more bits once they are trained, and so do the values: these files are shorter than those of trained networks.
    """

    def __init__(self) -> None:
        self._models: dict[Any, Any] = {}

    def file_bits(self, settings, sparsities):
        shape = (8, 8, 1) if settings["dataset"] == "digits" else (32, 32, 3)
        key = settings["model_size"], shape
        if key not in self._models:
            model = resnet_v2(*key)
            self._models[key] = (
                model,
                [(v, np.abs(v.numpy()).ravel(), v.numpy()) for v in model.weights if is_kernel(v.path, v)],
            )
        model, kernels = self._models[key]
        for (variable, sizes, values), share in zip(kernels, sparsities.values(), strict=True):
            cut = np.argsort(sizes, kind="stable")[: round(share * sizes.size)]
            left = values.ravel().copy()
            left[cut] = 0
            variable.assign(left.reshape(values.shape))
        with tempfile.TemporaryDirectory() as folder:
            save_sparse(model, Path(folder) / "network.rcsm")
            return 8 * (Path(folder) / "network.rcsm").stat().st_size


def _needed(row):
    if row["least_bits"] == "":
        return "-"
    return f"{float(row['least_bits']):,.0f}" + (f" (file {float(row['file_bits']):,.0f})" if row["file_bits"] else "")


def _files(rows, kept):
    if not any(row["file_bits"] for row in rows):
        return "The sizes of the files were not kept."
    if kept:
        return "The file is that of `rc.save_sparse`, every nonzero in float32."
    return (
        "The file is that of `rc.save_sparse`, every nonzero in float32, for a network with as many nonzeros in each "
        "kernel as `runs.json` says: the networks themselves were not kept."
    )


def _percent(proportion):
    return f"{100 * proportion:g} %"

"""Accuracy against sparsity, one line for each share of random labels (Zhou et al. 2018, randomisation experiment).

    python -m tf_robustcomp.plot_summary [DIRECTORY ...] [--output summary]

Reads the evaluated run directories in the DIRECTORIES (default: the present one); writes summary.png and summary.csv.
"""

import csv
import dataclasses
import json
import statistics
import sys
from pathlib import Path

from tf_robustcomp import files, flags, prune_resnet_dns, runs, train_resnet_random
from tf_robustcomp.errors import DataError, RunError

COMMAND = "plot_summary"
COLUMNS = (
    "proportion_random",
    "target_sparsity",
    "seeds",
    "sparsity",
    "train_accuracy",
    "train_accuracy_min",
    "train_accuracy_max",
    "train_top5_recall",
    "test_accuracy",
    "test_accuracy_min",
    "test_accuracy_max",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this entry point."""

    output: str = flags.field("summary", "path of the figure and the table, without .png and .csv")


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluated run: shares in [0, 1]; the sparsity of an unpruned network is 0, its target None."""

    proportion_random: float
    target_sparsity: float | None
    sparsity: float
    train_accuracy: float
    train_top5_recall: float
    test_accuracy: float | None


def collect(roots):
    """Results of the evaluated runs in ``roots`` and their direct children.

    Args:
        roots: directories.

    Returns:
        list of `Result`

    Raises:
        RunError: there is none.
    """
    results, waiting = [], []
    for command in (train_resnet_random.COMMAND, prune_resnet_dns.COMMAND):
        for run in runs.find_runs(roots, command):
            if (run.path / "eval_train.json").is_file():
                results.append(_read(run))
            else:
                waiting.append(str(run.path))
    if waiting:
        print(f"left out, not evaluated yet: {', '.join(waiting)}")
    if not any(result.target_sparsity is not None for result in results):
        raise RunError(
            f"{', '.join(map(str, roots))}: no evaluated pruning here; train and evaluate with `python -m "
            "tf_robustcomp.run train 0.3 20000`, then `run eval 0.3 20000`"
        )
    return results


def _read(run):
    settings = run.config["settings"]
    results: dict = {"train": {}, "test": {}}
    for split in results:
        path = run.path / f"eval_{split}.json"
        try:
            results[split] = json.loads(path.read_text())
        except FileNotFoundError:
            continue  # the test records are optional
        except (OSError, ValueError):
            raise DataError(f"{path}: cannot be read; evaluate the run again") from None
    train, test = results["train"], results["test"]
    try:
        return Result(
            proportion_random=settings["proportion_random"],
            target_sparsity=settings.get("target_sparsity"),
            sparsity=train.get("sparsity", 0.0),
            train_accuracy=train["random_labels"]["accuracy"],
            train_top5_recall=train["random_labels"]["top5_recall"],
            test_accuracy=test["true_labels"]["accuracy"] if test else None,
        )
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"{run.path}: its evaluation lacks a figure; evaluate the run again") from None


def summarise(results):
    """One row, a dict with keys `COLUMNS`, for each share of random labels and target; means and ranges over seeds."""
    groups: dict = {}
    for result in results:
        groups.setdefault((result.proportion_random, result.target_sparsity or 0.0), []).append(result)
    rows = []
    for (proportion, target), group in sorted(groups.items()):
        train = [result.train_accuracy for result in group]
        test = [result.test_accuracy for result in group if result.test_accuracy is not None]
        values = (
            proportion,
            target,
            len(group),
            statistics.mean([result.sparsity for result in group]),
            *(statistics.mean(train), min(train), max(train)),
            statistics.mean([result.train_top5_recall for result in group]),
            *((statistics.mean(test), min(test), max(test)) if test else ("", "", "")),
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def write_csv(path, rows):
    """Write the rows of `summarise` with a header."""
    with files.replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(
            {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
            for row in rows
        )


def draw(path, rows):
    """Draw training accuracy (on the random labels) and test accuracy (on true ones) against target sparsity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True, layout="constrained")
    titles = ("training accuracy, on the labels trained on", "test accuracy, on true labels")
    proportions = sorted({row["proportion_random"] for row in rows})
    colours = plt.colormaps["viridis"]([0.85 * i / max(len(proportions) - 1, 1) for i in range(len(proportions))])
    for axis, split, title in zip(axes, ("train", "test"), titles, strict=True):
        for proportion, colour in zip(proportions, colours, strict=True):
            _line(axis, [row for row in rows if row["proportion_random"] == proportion], split, proportion, colour)
        axis.set(title=title, xlabel="target sparsity", ylabel="accuracy", ylim=(-0.02, 1.04))
        axis.axhline(0.1, color="grey", linewidth=0.8, linestyle=":", label="chance")
        axis.grid(alpha=0.3)
        axis.legend(title="random labels (accuracy\nbefore pruning)", fontsize=8, title_fontsize=8, loc="best")
    targets = sorted({row["target_sparsity"] for row in rows if row["target_sparsity"]})
    axes[0].set_xticks(targets)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)


def _line(axis, rows, split, proportion, colour):
    dense = [row for row in rows if not row["target_sparsity"] and row[f"{split}_accuracy"] != ""]
    pruned = [row for row in rows if row["target_sparsity"] and row[f"{split}_accuracy"] != ""]
    if not pruned:
        return
    mean, low, high = ([row[f"{split}_accuracy{end}"] for row in pruned] for end in ("", "_min", "_max"))
    errors = [[m - lo for m, lo in zip(mean, low, strict=True)], [h - m for m, h in zip(mean, high, strict=True)]]
    label = f"{100 * proportion:g} %" + (f" ({dense[0][f'{split}_accuracy']:.3f})" if dense else "")
    x = [row["target_sparsity"] for row in pruned]
    axis.errorbar(x, mean, yerr=errors, marker="o", capsize=3, color=colour, label=label)


def print_table(rows):
    """Print the rows, one a line."""
    print("random labels  target  sparsity  seeds  training accuracy  test accuracy")
    for row in rows:
        test = f"{row['test_accuracy']:.4f}" if row["test_accuracy"] != "" else "-"
        print(
            f"{100 * row['proportion_random']:>11g} %  {row['target_sparsity']:>6g}  {row['sparsity']:>8.4f}  "
            f"{row['seeds']:>5}  {row['train_accuracy']:>17.4f}  {test:>13}"
        )


def command(settings, *roots):
    """Collect, print, write."""
    rows = summarise(collect(roots or (".",)))
    output = Path(settings.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    table, figure = output.with_name(f"{output.name}.csv"), output.with_name(f"{output.name}.png")
    write_csv(table, rows)
    draw(figure, rows)
    print_table(rows)
    print(f"{figure}\n{table}")


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv, positional=None)


if __name__ == "__main__":
    sys.exit(main())

"""Summarise evaluated trainings and prunings: accuracy against sparsity, means and ranges over seeds."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tf_robustcomp.bounds.kl import least_bits
from tf_robustcomp.runs.models import find_runs
from tf_robustcomp.utils import documents, drawing, table
from tf_robustcomp.utils.errors import DataError, RunError

COMMANDS = ("train_resnet_random", "prune_resnet_dns")
GUESSED_WRONG = 0.9  # of labels drawn at random from 10 classes


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluated run: fractions in [0, 1]; the sparsity of an unpruned network is 0, its target None."""

    proportion_random: float
    target_sparsity: float | None
    sparsity: float
    train_accuracy: float
    train_top5_recall: float
    test_accuracy: float | None
    train_records: int = 0
    test_records: int = 0
    dataset: str = ""
    file_bits: float | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run that the summary reads."""

    proportion_random: float
    target_sparsity: float | None = None
    dataset: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    """The part of config.json that the summary reads."""

    settings: Settings


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The figures against one kind of labels that the summary reads."""

    accuracy: float
    top5_recall: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The part of eval_<split>.json that the summary reads."""

    random_labels: Accuracy
    true_labels: Accuracy
    sparsity: float = 0.0
    records: int = 0
    file_bits: float | None = None


def write(roots: Sequence[str | Path], output: Path) -> None:
    """Write ``output.csv`` and ``output.png`` of the runs in folders, and print the table."""
    results = collect(roots)
    rows = summarise(results)
    paths = [output.with_name(f"{output.name}{suffix}") for suffix in (".csv", ".png")]
    write_table(paths[0], rows)
    draw(paths[1], rows, title(result.dataset for result in results))
    print(text(rows))
    print("\n".join(map(str, reversed(paths))))


def collect(roots: Sequence[str | Path]) -> list[Result]:
    """Return the results of the evaluated runs in ``roots`` and their direct children.

    Raises:
        RunError: there is none.
    """
    runs = [run for command in COMMANDS for run in find_runs(roots, command)]
    evaluated = [run for run in runs if (run.path / "eval_train.json").is_file()]
    waiting = [str(run.path) for run in runs if run not in evaluated]
    if waiting:
        print(f"left out, not evaluated yet: {', '.join(waiting)}")
    results = []
    for run in evaluated:
        try:
            results.append(_read(run))
        except DataError as error:
            print(f"left out: {error}; evaluate the run again")
    if not any(result.target_sparsity is not None for result in results):
        raise RunError(
            f"{', '.join(map(str, roots))}: no evaluated pruning here; train and evaluate with `python -m "
            "tf_robustcomp.run train 0.3 20000`, then `run eval 0.3 20000`"
        )
    return results


def summarise(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a row for each fraction of random labels and target: means over seeds, and ranges of the accuracies."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault((result.proportion_random, result.target_sparsity or 0.0), []).append(result)
    return [_row(proportion, target, group) for (proportion, target), group in sorted(groups.items())]


def needed_bits(proportion_random: float, accuracy: float, records: int) -> float | str:
    """Return the bits of the shortest code that a network of such accuracy may have, "" where its data are not known.

    Of labels of which a fraction is redrawn from 10 classes, no network gets less than 0.9 of the fraction wrong on
    new examples; so `least_bits` holds at that error, with probability 0.95, and no file is smaller.

    Args:
        proportion_random: fraction of labels that are redrawn.
        accuracy: on the labels trained on.
        records: that the network was trained on.
    """
    return least_bits(1 - accuracy, GUESSED_WRONG * proportion_random, records) if records else ""


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of `summarise` as CSV."""
    rounded = ({name: round(v, 6) if isinstance(v, float) else v for name, v in row.items()} for row in rows)
    table.write_csv(path, rounded)


def text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of `summarise` as an aligned table."""
    columns = ("random labels", "target", "sparsity", "seeds", "training accuracy", "test accuracy")
    return table.text(
        columns,
        [
            (
                f"{100 * row['proportion_random']:g} %",
                f"{row['target_sparsity']:g}",
                f"{row['sparsity']:.4f}",
                row["seeds"],
                f"{row['train_accuracy']:.4f}",
                f"{row['test_accuracy']:.4f}" if row["test_accuracy"] != "" else "-",
            )
            for row in rows
        ],
    )


def title(datasets: Iterable[str]) -> str:
    """Return the title of the figure, from each run's flag ``--dataset``."""
    return f"trained on {', '.join(sorted({Path(dataset).stem for dataset in datasets}))}"


def draw(path: Path, rows: Sequence[dict[str, Any]], heading: str) -> None:
    """Draw training and test accuracy, and the bits that a network needs and its file has, against sparsity reached.

    Args:
        path: of the figure.
        rows: of `summarise`, as numbers; "" where one is missing.
        heading: title of the figure.
    """
    plt = drawing.pyplot()
    figure, (*axes, bits) = plt.subplots(1, 3, figsize=(15, 4), sharex=True, layout="constrained")
    titles = {"train": "training accuracy, on the labels trained on", "test": "test accuracy, on true labels"}
    proportions = sorted({row["proportion_random"] for row in rows})
    for axis, (split, name) in zip(axes, titles.items(), strict=True):
        records = max((int(row.get(f"{split}_records") or 0) for row in rows), default=0)
        for number, proportion in enumerate(proportions):
            own = [row for row in rows if row["proportion_random"] == proportion and row[f"{split}_accuracy"] != ""]
            _draw_line(axis, own, split, f"{100 * proportion:g} %", drawing.line(number))
        axis.set_title(f"{name}\n{records:,} images" if records else name, fontsize=10)
        axis.set(xlabel="sparsity reached", ylabel="accuracy", ylim=(-0.02, 1.04))
        axis.axhline(0.1, color="grey", linewidth=0.8, linestyle=":", label="chance")
        axis.grid(alpha=0.3)
        axis.legend(title="random labels", fontsize=8, title_fontsize=8, loc="best")
    for number, proportion in enumerate(proportions):
        _draw_bits(bits, [row for row in rows if row["proportion_random"] == proportion], drawing.line(number))
    bits.set_title("least bits of a code (lines), bits of the file (marks alone)\nprobability 0.95", fontsize=10)
    bits.set(xlabel="sparsity reached", ylabel="bits", yscale="symlog")
    bits.grid(alpha=0.3)
    figure.suptitle(heading, fontsize=10)
    drawing.save(figure, path)


def _read(run):
    settings = documents.read(run.config_path, Config).settings
    train = documents.read(run.path / "eval_train.json", Evaluation)
    try:
        test = documents.read(run.path / "eval_test.json", Evaluation)
    except FileNotFoundError:
        test = None  # the test records are optional
    return Result(
        proportion_random=settings.proportion_random,
        target_sparsity=settings.target_sparsity,
        sparsity=train.sparsity,
        train_accuracy=train.random_labels.accuracy,
        train_top5_recall=train.random_labels.top5_recall,
        test_accuracy=test.true_labels.accuracy if test else None,
        train_records=train.records,
        test_records=test.records if test else 0,
        dataset=settings.dataset,
        file_bits=train.file_bits,
    )


def _row(proportion, target, group):
    train = [result.train_accuracy for result in group]
    test = [result.test_accuracy for result in group if result.test_accuracy is not None]
    files = [result.file_bits for result in group if result.file_bits is not None]
    return {
        "proportion_random": proportion,
        "target_sparsity": target,
        "seeds": len(group),
        "sparsity": statistics.mean([result.sparsity for result in group]),
        "train_accuracy": statistics.mean(train),
        "train_accuracy_min": min(train),
        "train_accuracy_max": max(train),
        "train_top5_recall": statistics.mean([result.train_top5_recall for result in group]),
        "test_accuracy": statistics.mean(test) if test else "",
        "test_accuracy_min": min(test) if test else "",
        "test_accuracy_max": max(test) if test else "",
        "train_records": group[0].train_records,
        "test_records": group[0].test_records,
        "least_bits": needed_bits(proportion, statistics.mean(train), group[0].train_records),
        "file_bits": statistics.mean(files) if files else "",
    }


def _draw_bits(axis, rows, look):
    """Draw the least bits as a line; no file, a mark, may lie below it."""
    rows = sorted(rows, key=lambda row: row["sparsity"])
    needed = [
        (row["sparsity"], needed_bits(row["proportion_random"], row["train_accuracy"], int(row["train_records"])))
        for row in rows
        if row.get("train_records")
    ]
    kept = [(row["sparsity"], row["file_bits"]) for row in rows if row.get("file_bits")]
    axis.plot([x for x, _ in needed], [y for _, y in needed], **look | {"marker": ""})
    axis.plot([x for x, _ in kept], [y for _, y in kept], **look | {"linestyle": ""})


def _draw_line(axis, rows, split, label, look):
    """Draw a line from the network before pruning, at sparsity 0, with the ranges over seeds."""
    rows = sorted(rows, key=lambda row: row["sparsity"])
    mean, low, high = ([row[f"{split}_accuracy{end}"] for row in rows] for end in ("", "_min", "_max"))
    errors = [[m - lo for m, lo in zip(mean, low, strict=True)], [h - m for m, h in zip(mean, high, strict=True)]]
    axis.errorbar([row["sparsity"] for row in rows], mean, yerr=errors, **look, ms=5, capsize=3, label=label)

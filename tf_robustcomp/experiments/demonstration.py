"""The demo, as words of commands."""

from pathlib import Path
from typing import Any

from tf_robustcomp.utils import documents, table

PRUNING_STEPS = 300
NETWORK_FLAGS = (
    "--dataset=digits",
    "--model-size=8",
    "--bn-momentum=0.9",
    "--train-steps=300",
    "--learning-rates=0.1,0.01",
    "--boundaries=200",
    "--sparsities=0.5,0.8,0.95",
    "--ramp-steps=200",
    "--update-steps=20",
    "--learning-rate-decay-steps=3",
    "--surgery-decay-steps=2",
    "--threshold=exact",
    "--checkpoint-steps=300",
)
COMPRESSOR_FLAGS = (
    "--data=digits",
    "--width=16",
    "--latent-dim=10",
    "--learning-rate-schedule=cosine",
    "--rate-warmup-steps=50",
    "--clip-norm=20",
    "--eval-images=300",
)
COMPRESSORS = {
    "standard": ("--epochs=30", "--learning-rate=4e-3"),
    "robust": ("--epochs=15", "--learning-rate=2e-3", "--adversary=wasserstein", "--gamma=1"),
}


def networks(folder: Path) -> list[tuple[str, list[str]]]:
    """Return the commands, with their words, that train on true and on random labels, prune, evaluate and draw."""
    print("Networks: the more random the labels, the less a network can be pruned", flush=True)
    commands = [
        ("run", [action, proportion, str(PRUNING_STEPS), *NETWORK_FLAGS, f"--train-dir={folder}"])
        for proportion in ("0", "1")
        for action in ("train", "eval")
    ]
    return [*commands, ("plot_summary", [str(folder), f"--output={folder / 'summary'}"])]


def compressors(folder: Path) -> list[tuple[str, list[str]]]:
    """Return the commands that train a compressor ordinarily, then one against an adversary, and compare them."""
    commands = []
    for name, own in COMPRESSORS.items():
        start = [] if name == "standard" else [f"--warm-start={folder / 'standard'}"]
        words = [*COMPRESSOR_FLAGS, *own, *start, f"--train-dir={folder / name}"]
        commands += [("train_compressor", ["train", *words]), ("train_compressor", ["eval", *words])]
    models = ",".join(str(folder / name) for name in COMPRESSORS)
    figure = [f"--models={models}", "--data=digits", f"--output={folder / 'reconstructions.png'}"]
    return [*commands, ("plot_reconstructions", figure)]


def print_distortions(folder: Path) -> None:
    """Print the distortions of both compressors."""
    print("\nData: a compressor trained on worst cases loses less when images are unlike its training data")
    columns = ("distortion per image", "clean", "noisy", "rotated", "worst case less its squared distance (gamma 1)")
    rows = []
    for name in COMPRESSORS:
        entry = documents.read(folder / name / "eval_test.json", dict[str, Any])["stage_1"]
        worst = entry["worst_case"]["adaptive"]
        values = (entry["clean"], entry["noisy"], entry["rotated"], worst["distortion"] - worst["rho"])
        rows.append((name, *(f"{value:.2f}" for value in values)))
    print(table.text(columns, rows), flush=True)

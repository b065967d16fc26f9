"""Both halves of the package on scikit-learn's handwritten digits: no download, a few minutes on two cores.

    python -m tf_robustcomp.demo [--out-dir demo-out]

Networks: labels 0 % and 100 % random, a ResNet-8, three sparsities.  Data: a standard and a min-max compressor.  Each
ends with a table and a figure.
"""

import dataclasses
import json
import sys
from pathlib import Path

from tf_robustcomp import flags, plot_reconstructions, plot_summary, run, train_compressor

COMMAND = "demo"
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


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of this entry point."""

    out_dir: str = flags.field("demo-out", "folder to write to")


def network_half(folder):
    """Train on true and on random labels, prune, evaluate, draw."""
    print("Networks: the more random the labels, the less a network can be pruned", flush=True)
    settings, given, _ = flags.parse(run.Settings, [*NETWORK_FLAGS, f"--train-dir={folder}"])
    for proportion in ("0", "1"):
        for action in ("train", "eval"):
            run.command(settings, action, proportion, str(PRUNING_STEPS), given)
    plot_summary.command(plot_summary.Settings(output=str(folder / "summary")), str(folder))


def data_half(folder):
    """Train a compressor ordinarily, then one against an adversary; compare them in and out of their distribution."""
    print("\nData: a compressor trained on worst cases loses less where the world is not as it was", flush=True)
    for name, own in COMPRESSORS.items():
        start = [] if name == "standard" else [f"--warm-start={folder / 'standard'}"]
        words = [*COMPRESSOR_FLAGS, *own, *start, f"--train-dir={folder / name}"]
        settings, given, _ = flags.parse(train_compressor.Settings, words)
        train_compressor.train(settings)
        train_compressor.evaluate(settings, given)
    _print_distortions(folder)
    models = tuple(str(folder / name) for name in COMPRESSORS)
    output = str(folder / "reconstructions.png")
    plot_reconstructions.command(plot_reconstructions.Settings(models=models, data="digits", output=output))


def _print_distortions(folder):
    print("distortion per image   clean   noisy  rotated  worst case less its squared distance (gamma 1)")
    for name in COMPRESSORS:
        entry = json.loads((folder / name / "eval_test.json").read_text())["stage_1"]
        worst = entry["worst_case"]["adaptive"]
        print(
            f"{name:<20} {entry['clean']:>7.2f} {entry['noisy']:>7.2f} {entry['rotated']:>8.2f}  "
            f"{worst['distortion'] - worst['rho']:>10.1f}"
        )


def command(settings):
    """Run the demo."""
    network_half(Path(settings.out_dir) / "networks")
    data_half(Path(settings.out_dir) / "data")
    print(f"\nLook at {settings.out_dir}/networks/summary.png and {settings.out_dir}/data/reconstructions.png")


def main(argv=None):
    """Command line; returns the exit code."""
    return flags.run(COMMAND, __doc__, Settings, command, argv)


if __name__ == "__main__":
    sys.exit(main())

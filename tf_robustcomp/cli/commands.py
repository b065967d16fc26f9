"""The package's commands, a line each."""

import importlib
import sys
from collections.abc import Sequence

import tf_robustcomp

COMMANDS = {
    "demo": "Show both halves of the package on handwritten digits",
    "convert_cifar10": "Write CIFAR-10 as TFRecords",
    "train_resnet_random": "Train a ResNet on CIFAR-10 with partly random labels",
    "prune_resnet_dns": "Prune a trained ResNet, by Dynamic Network Surgery or another rule",
    "bound": "Say what the size of a network's file proves about its error",
    "run": "Train one fraction of random labels, then prune it to every sparsity",
    "plot_summary": "Draw accuracy against sparsity, a line for each fraction of random labels",
    "train_compressor": "Train a learned compressor, ordinarily or against an adversary",
    "train_codec": "Train a codec for photographs of any size, at many rates",
    "eval_wass_ball": "Measure worst-case distortion over Wasserstein balls",
    "eval_rotations": "Measure distortion on images rotated by every angle",
    "plot_reconstructions": "Draw reconstructions of clean, rotated and worst-case images",
    "codec": "Write images to a compressed file, and read them back",
    "compare_codecs": "Compare compressors with PNG, WebP and JPEG",
    "reproduce": "Run a whole published study, and report ours beside the published figures",
}


def listing() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, line in COMMANDS.items()]
    return "\n".join(
        ["Commands, run as `robustcomp NAME` or `python -m tf_robustcomp.NAME`:", *lines, "Each has --help."]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, or list all of them; return the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["--version"]:
        print(f"tf_robustcomp {tf_robustcomp.__version__}")
        return 0
    if not words or words[0] in ("-h", "--help"):
        print(listing())
        return 0
    if words[0] not in COMMANDS:
        print(f"robustcomp: error: no command {words[0]}; `robustcomp` lists them", file=sys.stderr)
        return 2
    return importlib.import_module(f"tf_robustcomp.{words[0]}").main(words[1:])

"""Prune a trained ResNet on its partly random labels (Guo et al. 2016, arXiv 1608.04493, and other rules)."""

import tempfile
from pathlib import Path
from typing import Any

import keras

from tf_robustcomp.cli.flags import Parsed
from tf_robustcomp.experiments import classifier
from tf_robustcomp.pruning import PolynomialDecay, save_sparse, sparsity_report
from tf_robustcomp.runs.directory import Run
from tf_robustcomp.utils import registry


def train(command: str, settings: Any) -> None:
    """Prune from `PruningSettings`, or continue where a run stopped."""
    classifier.train(command, settings, lambda shape: _build(settings, shape), _sparsity)


def evaluate(parsed: Parsed) -> None:
    """Evaluate a pruned network on the records it was trained on and on the test records."""
    classifier.evaluate(parsed, _layers)


def _build(settings, image_shape):
    model = classifier.resnet(settings, image_shape)  # made here, so that precision and devices are those of this run
    Run(settings.warm_start).load_model(model.load_weights)
    decay = keras.optimizers.schedules.InverseTimeDecay
    rate = decay(settings.learning_rate, settings.learning_rate_decay_steps, decay_rate=0.1)
    schedule = PolynomialDecay(
        0.0, settings.target_sparsity, 0, settings.ramp_steps, frequency=settings.update_steps, hold=True
    )
    rule = registry.variants("pruning rule")[settings.rule]
    optimizer = rule.build(
        settings, keras.optimizers.SGD(rate, momentum=0.9), schedule, train_unpruned=settings.train_unpruned
    )
    return classifier.compiled(model, optimizer, settings)


def _sparsity(model):
    report = sparsity_report(model, sizes=False)
    return {"learning_rate": float(model.optimizer.learning_rate), "sparsity": report.total.sparsity}


def _layers(model):
    report = sparsity_report(model, sizes=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.rcsm"
        save_sparse(model, file)
        bits = 8 * file.stat().st_size
    return {
        "file_bits": bits,
        "sparsity": report.total.sparsity,
        "sparsity_per_layer": {row.path: row.sparsity for row in report.rows},
    }

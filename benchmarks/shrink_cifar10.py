"""ResNet-20 on CIFAR-10: trained, its channels pruned while training, shrunk, fine-tuned.

    python -m benchmarks.shrink_cifar10 DATA OUT [--keep-residual] [--share=0.5] [--round-to=16] [--epochs 80 16 80]

``--keep-residual`` cuts only channels inside of residual blocks; ``--share`` is the fraction that is cut of those that
may go; ``--epochs`` are those of the three trainings.  Fine-tuning distils the trained network into the small one.
The trained network is also pruned at once, without training, by three methods.

DATA holds the records of ``tools/download_and_convert_cifar10.py``.  OUT gets the models of each stage, ``stages.json``
and the reports of both models; a stage that is there is not made again, and a training that was cut off goes on.
"""

import argparse
import json
import math
from pathlib import Path

import keras
import numpy as np

import tf_robustcomp as rc
from tf_robustcomp.data.tfrecord import read_records
from tf_robustcomp.utils import table

BATCH = 256
RATES = {"base": 0.4, "pruned": 0.1, "fine-tuned": 0.2}
WEIGHT_DECAY = 5e-3  # Keras decays outside of the momentum of 0.9: an L2 penalty of 5e-4 in other libraries


class Batches(keras.utils.PyDataset):
    """Shuffled batches of images in [0, 1], shifted and mirrored; a shift serves a quarter of a batch."""

    def __init__(self, x, y):
        super().__init__(workers=2, max_queue_size=8)
        self.x, self.y, self.epoch = np.pad(x, [(0, 0), (4, 4), (4, 4), (0, 0)]), y, 0
        self.on_epoch_end()

    def __len__(self):
        return len(self.y) // BATCH

    def on_epoch_end(self):
        """Draw the order of the next epoch."""
        self.epoch += 1
        self.order = np.random.default_rng(self.epoch).permutation(len(self.y))

    def __getitem__(self, index):
        rng = np.random.default_rng((self.epoch, index))
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        images = np.empty((BATCH, 32, 32, 3), np.float32)
        for part in np.split(np.arange(BATCH), 4):
            top, left = rng.integers(0, 9, 2)
            images[part] = self.x[chosen[part], top : top + 32, left : left + 32]
        mirrored = rng.random(BATCH) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
        return images / np.float32(255), self.y[chosen]


def computing_in(model, policy):
    """The model with every layer computing by the dtype policy; its variables stay float32."""
    for layer in model.layers:
        layer.dtype_policy = policy
    return model


def compiled(model, stage, steps, wrap=lambda optimizer: optimizer, teacher=None):
    """The model, ready to train for ``steps`` with a rate that falls to zero; as a student where it has a teacher."""
    warm = 400 if stage == "base" else 50
    rate = keras.optimizers.schedules.CosineDecay(
        RATES[stage] / 20, steps - warm, warmup_target=RATES[stage], warmup_steps=warm
    )
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    computing_in(model, "mixed_bfloat16")  # twice as fast as float32 on processors that multiply bfloat16
    if teacher is not None:
        computing_in(teacher, "mixed_bfloat16")
        losses = keras.distillation.LogitsDistillation(temperature=4.0)
        model = keras.distillation.Distiller(teacher, model, losses, student_loss_weight=0.1)
    model.compile(wrap(optimizer), loss, metrics=["accuracy"])
    return model


def pruning(optimizer, steps, options):
    """Magnitude pruning of coupled channels, over the first half of the steps."""
    schedule = rc.PolynomialDecay(0.0, options.share, 0, steps // 2, frequency=50)
    pattern = rc.Channels(coupled=True, round_to=options.round_to, keep_residual=options.keep_residual)
    return rc.MagnitudePruning(optimizer, schedule, pattern=pattern)


def at_once(base, x, x_test, y_test):
    """Rows of accuracy after pruning without training, by method and sparsity, as it is and recalibrated."""
    rows, weights = [], base.get_weights()
    calibration = x[np.random.default_rng(0).choice(len(x), 256, replace=False)] / np.float32(255)
    for method in ("magnitude", "wanda", "sparsegpt"):
        for sparsity in (0.5, 0.6, 0.7, 0.8):
            base.set_weights(weights)
            rc.prune(base, sparsity, method, None if method == "magnitude" else calibration)
            row = {"method": method, "sparsity": sparsity}
            for name in ("test_accuracy", "recalibrated_test_accuracy"):
                row[name] = base.evaluate(x_test, y_test, batch_size=500, verbose=0, return_dict=True)["accuracy"]
                rc.recalibrate(base, calibration)
            print(row, flush=True)
            rows.append(row)
    base.set_weights(weights)
    return rows


def parsed():
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--keep-residual", action="store_true")
    parser.add_argument("--share", type=float, default=0.5)  # about half of the multiply-accumulates
    # Processors and runtimes compute 16 channels at once: others cost time and save nothing.
    parser.add_argument("--round-to", type=int, default=16)
    parser.add_argument("--epochs", type=int, nargs=3, default=(80, 16, 80))
    return parser.parse_args()


def main():
    options = parsed()
    data, out = options.data, options.out
    epochs = dict(zip(RATES, options.epochs, strict=True))
    out.mkdir(parents=True, exist_ok=True)
    (x, y), (x_test, y_test) = (read_records(data / f"cifar10_{split}.tfrecord") for split in ("train", "test"))
    x_test = x_test / np.float32(255)
    stages = {}

    def trained(stage, make):
        path, steps = out / f"{stage}.keras", epochs[stage] * (len(x) // BATCH)
        if not path.exists():
            keras.utils.set_random_seed(0)
            backup = keras.callbacks.BackupAndRestore(str(out / f"{stage}-backup"))
            model = make(steps)
            model.fit(Batches(x, y), epochs=epochs[stage], verbose=2, callbacks=[backup], shuffle=False)
            computing_in(getattr(model, "student", model), "float32").save(path)
        return rc.load_model(path)

    def noted(stage, model):
        accuracy = model.evaluate(x_test, y_test, batch_size=500, verbose=0, return_dict=True)["accuracy"]
        stages[stage] = {"test_accuracy": accuracy, "parameters": model.count_params()}
        (out / "stages.json").write_text(json.dumps(stages, indent=2) + "\n")
        print(stage, stages[stage], flush=True)

    base = trained("base", lambda steps: compiled(rc.resnet_v2(20, bn_momentum=0.9), "base", steps))
    noted("base", base)
    if not (out / "at_once.csv").exists():
        table.write_csv(out / "at_once.csv", at_once(base, x, x_test, y_test))

    def prunable(steps):
        return compiled(rc.load_model(out / "base.keras"), "pruned", steps, lambda one: pruning(one, steps, options))

    pruned = trained("pruned", prunable)
    noted("pruned", pruned)
    small = rc.shrink(pruned)
    noted("shrunk", small)
    masked, shrunk = (model.predict(x_test[:500], verbose=0) for model in (pruned, small))
    difference = float(np.abs(masked - shrunk).max() / np.abs(masked).max())
    print(f"largest difference of the outputs, over the largest output: {difference:.1e}")

    def distilled(steps):
        return compiled(rc.shrink(pruned), "fine-tuned", steps, teacher=rc.load_model(out / "base.keras"))

    tuned = trained("fine-tuned", distilled)
    noted("fine-tuned", tuned)
    report = rc.model_report(tuned, x_test[:1], before=base)
    report.to_csv(out / "report.csv")
    print(report)
    error = math.sqrt(stages["base"]["test_accuracy"] * (1 - stages["base"]["test_accuracy"]) / len(x_test))
    print(f"standard error of an accuracy: {error:.4f}")


if __name__ == "__main__":
    main()

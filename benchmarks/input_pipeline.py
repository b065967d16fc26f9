"""The input pipelines alone, back to back: images/s, and a batch's time by that of a training step on it."""

from benchmarks.pairs import medians
from benchmarks.rows import row

BATCHES, STEPS = 2000, 4


def measure(rounds=3):
    return [row for network in (_classifier, _compressor) for row in _rows(*network(), rounds)]


def _rows(name, batches, batch_size, step, rounds):
    def draw():
        for _ in range(BATCHES):
            next(batches)

    def train():
        for _ in range(STEPS):
            step()

    trained = medians([train], rounds)[0] / STEPS
    drawn = medians([draw], rounds, warm_up=5)[0] / BATCHES  # not in turns: what was fetched meanwhile would count
    return [
        row(f"input of {name}", batch_size / drawn, "images/s", ">= 20,000"),
        row(f"input of {name}, batch / training step", drawn / trained, goal="<= 0.02"),
    ]


def _classifier(records=50_000, batch_size=128):
    import keras
    import numpy as np

    import tf_robustcomp as rc
    from tf_robustcomp.data.batches import scaled, training_batches

    images = np.random.default_rng(0).integers(0, 256, (records, 32, 32, 3), dtype=np.uint8)
    batches = iter(training_batches((images, np.zeros(records, np.int32)), batch_size, seed=0, prepare=scaled))
    model = rc.resnet_v2(56)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True), loss)
    batch = next(batches)
    return "ResNet-56", batches, batch_size, lambda: model.train_on_batch(*batch)


def _compressor(records=60_000, batch_size=64):
    import numpy as np

    import tf_robustcomp as rc
    from tf_robustcomp.data.batches import training_batches

    images = np.random.default_rng(0).random((records, 32, 32, 1), dtype="float32")
    batches = iter(training_batches((images,), batch_size, seed=0))
    model = rc.Compressor(10)
    model.compile(rc.Adam(1e-4))
    batch = next(batches)
    return "a compressor", batches, batch_size, lambda: model.train_on_batch(*batch)

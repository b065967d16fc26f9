"""The input pipeline alone: batches of 128 CIFAR-sized images, shuffled, as float32 in [0, 1]."""

import time


def measure(records=50_000, batch_size=128, steps=400):
    import numpy as np

    from tf_robustcomp.datasets.batches import scaled, training_batches

    images = np.random.default_rng(0).integers(0, 256, (records, 32, 32, 3), dtype=np.uint8)
    labels = np.zeros(records, np.int32)
    batches = iter(training_batches((images, labels), batch_size, seed=0, prepare=scaled))
    for _ in range(20):
        next(batches)
    began = time.perf_counter()
    for _ in range(steps):
        next(batches)
    rate = steps * batch_size / (time.perf_counter() - began)
    return [{"what": "input pipeline alone", "value": rate, "unit": "images/s", "goal": ">= 20,000"}]

"""A training step that prunes against the same step that does not: ResNet-56, batch 128."""

from benchmarks.pairs import medians


def measure(depth=56, batch_size=128, rounds=15):
    import keras
    import numpy as np

    import tf_robustcomp as rc
    from tf_robustcomp.sparsity import DNS, MagnitudePruning, PolynomialDecay

    rng = np.random.default_rng(0)
    x = rng.random((batch_size, 32, 32, 3), dtype="float32")
    y = rng.integers(0, 10, batch_size)

    def stepper(wrap):
        model = rc.resnet_v2(depth)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(wrap(keras.optimizers.SGD(0.01, momentum=0.9)), loss=loss)
        return lambda: float(model.train_on_batch(x, y))

    schedule = PolynomialDecay(0.0, 0.9, 0, 15_000, frequency=500)  # within the rounds one update, at step 0
    dense, dns, magnitude = medians(
        [
            stepper(lambda inner: inner),
            stepper(lambda inner: DNS(inner, schedule)),
            stepper(lambda inner: MagnitudePruning(inner, schedule)),
        ],
        rounds,
    )
    return [
        {"what": f"DNS step / dense step, ResNet-{depth}", "value": dns / dense, "unit": "", "goal": "<= 1.03"},
        {
            "what": f"magnitude step / dense step, ResNet-{depth}",
            "value": magnitude / dense,
            "unit": "",
            "goal": "<= 1.03",
        },
        {"what": f"dense step, ResNet-{depth}, batch {batch_size}", "value": batch_size / dense, "unit": "images/s"},
    ]

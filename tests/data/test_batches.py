"""Batches: their order is a function of (seed, step)."""

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow_only


def batches(count, batch_size, seed, first_step=0, steps=40):
    from tf_robustcomp.data.batches import training_batches

    data = training_batches((np.arange(count), -np.arange(count)), batch_size, seed, first_step)
    return [(index.numpy(), other.numpy()) for index, other in data.take(steps)]


def test_a_resumed_order_is_the_order_that_was_left():
    whole = batches(50, 8, seed=3)
    for first_step in (1, 6, 7, 25, 39):
        for straight, resumed in zip(whole[first_step:], batches(50, 8, 3, first_step, 40 - first_step), strict=True):
            np.testing.assert_array_equal(straight[0], resumed[0])


@pytest.mark.parametrize(("count", "batch_size"), [(50, 8), (48, 8), (5, 12), (1, 3)])
def test_every_record_is_seen_equally_often_and_epochs_differ(count, batch_size):
    order = np.concatenate([index for index, _ in batches(count, batch_size, seed=0)])
    epochs = order[: len(order) // count * count].reshape(-1, count)
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 5:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_seeds_give_different_orders_and_arrays_stay_aligned():
    one, two = batches(50, 8, seed=0), batches(50, 8, seed=1)
    assert any((a != b).any() for (a, _), (b, _) in zip(one, two, strict=True))
    assert all((index == -other).all() for index, other in one)


def test_evaluation_sees_every_record_once_in_order():
    from tf_robustcomp.data.batches import evaluation_batches, scaled

    images = np.arange(10, dtype=np.uint8).reshape(10, 1)
    parts = [x.numpy() for x, _ in evaluation_batches((images, np.arange(10)), 4, prepare=scaled)]
    assert [len(part) for part in parts] == [4, 4, 2]
    np.testing.assert_allclose(np.concatenate(parts), images / 255.0, rtol=1e-6)

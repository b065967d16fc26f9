"""Random labels against RandomState itself."""

import numpy as np
import pytest

import tf_robustcomp as rc


def by_hand(labels, proportion, seed, classes, drawn):
    state = np.random.RandomState(seed)
    replacements = [state.randint(classes) for _ in range(drawn)]  # one by one: the same stream
    draws = [state.random_sample() for _ in range(drawn)]
    noisy = [r if d <= proportion else y for y, r, d in zip(labels, replacements, draws, strict=False)]
    return noisy, [d <= proportion for _, d in zip(labels, draws, strict=False)]


@pytest.mark.parametrize(("count", "drawn"), [(50_000, 50_000), (700, 50_000), (50_100, 50_100)])
def test_labels_equal_the_construction_record_by_record(count, drawn):
    labels = np.arange(count) % 10
    noisy, redrawn = rc.random_labels(labels, 0.3)
    expected, expected_redrawn = by_hand(labels, 0.3, 42, 10, drawn)
    np.testing.assert_array_equal(noisy, expected)
    np.testing.assert_array_equal(redrawn, expected_redrawn)


def test_published_numbers_for_seed_42():
    noisy, redrawn = rc.random_labels(np.zeros(50_000, int), 1.0)
    assert noisy[:5].tolist() == [6, 3, 7, 4, 6]
    assert redrawn.all()
    assert rc.random_labels(np.zeros(50_000, int), 0.3)[1].sum() == 15_003


def test_noisy_sets_are_nested_in_the_proportion():
    labels = np.arange(2_000) % 10
    before = np.zeros(2_000, bool)
    for proportion in (0.0, 0.1, 0.3, 0.5, 0.7, 1.0):
        noisy, redrawn = rc.random_labels(labels, proportion)
        assert (redrawn | ~before).all()
        np.testing.assert_array_equal(noisy[~redrawn], labels[~redrawn])
        before = redrawn


def test_other_seeds_and_class_counts_give_other_labels_of_the_same_type():
    labels = np.zeros(1_000, np.int16)
    one, two = rc.random_labels(labels, 1.0, seed=1)[0], rc.random_labels(labels, 1.0, seed=2)[0]
    assert one.dtype == np.int16 and (one != two).mean() > 0.8
    assert set(rc.random_labels(labels, 1.0, num_classes=3)[0]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (([0, 1], 1.1), "proportion"),
        (([0, 1], float("nan")), "proportion"),
        (([0, 10], 0.5), "labels"),
        (([0.5], 0.5), "labels"),
        (([[1]], 0.5), "labels"),
        (([0], 0.5, -1), "seed"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        rc.random_labels(*arguments)

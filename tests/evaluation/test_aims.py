"""Attacks on the rate and towards a target, against closed forms and random opponents."""

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tf_robustcomp.data.unlabelled import images_of
from tf_robustcomp.utils.errors import InvalidArgument

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def coded():
    """A small compressor with an entropy model, and images."""
    keras.utils.set_random_seed(0)
    images = images_of("digits", "train", (16, 16), 400)
    model = rc.Compressor(latent_dim=3, levels=5, width=4, image_shape=(16, 16, 1))
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(images, epochs=4, batch_size=20, verbose=0)
    return model.fit_entropy_model(images), images


@pytest.mark.slow
def test_rates_are_the_bits_of_the_entropy_model(coded):
    model, images = coded
    symbols = keras.ops.convert_to_numpy(model.encode(images))
    expected = [
        -sum(
            np.log2(table[int(sum(row[p] * 5 ** (len(own) - 1 - i) for i, p in enumerate(own))), row[latent]] / 65536)
            for latent, (own, table) in enumerate(
                zip(model.entropy_model.parents, model.entropy_model.tables, strict=True)
            )
        )
        for row in symbols
    ]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model.rates(images)), expected, rtol=1e-5)
    assert sum(expected) == pytest.approx(model.entropy_model.ideal_bits(symbols))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.slow
def test_no_random_image_of_the_ball_takes_more_bits_than_the_attacked_one(coded, norm):
    model, images = coded
    few, epsilon = images[:8], {"l2": 3.0, "linf": 0.3}[norm]
    (row,) = rc.rate_curve(model, few, [epsilon], norm=norm).rows
    assert row.attacked > row.clean
    worst = np.zeros(len(few))
    for _ in range(50):
        move = np.sign(RNG.normal(size=few.shape)) if norm == "linf" else RNG.normal(size=few.shape)
        length = np.abs(move).max() if norm == "linf" else np.sqrt((move**2).sum(axis=(1, 2, 3), keepdims=True))
        tried = np.clip(few + epsilon * move / length, 0, 1).astype("float32")
        worst = np.maximum(worst, keras.ops.convert_to_numpy(model.rates(tried)))
    assert worst.mean() <= row.attacked


@pytest.mark.slow
def test_a_promise_takes_more_bits_under_attack(coded):
    model, images = coded
    (row,) = rc.rate_curve(model, images[:3], [2.0], steps=5, restarts=0, max_distortion=4.0).rows
    own = [8 * len(model.compress(image[None], max_distortion=4.0)) for image in images[:3]]
    assert row.clean == pytest.approx(np.mean(own))
    assert row.attacked >= row.clean


def test_a_target_is_approached_as_far_as_the_ball_allows():
    images, targets = np.full((3, 4, 4, 1), 0.5, "float32"), np.full((3, 4, 4, 1), 0.35, "float32")
    (row,) = rc.targeted_curve(lambda x: 0.8 * x, images, targets, [0.1], restarts=0).rows
    # 0.8 y = 0.35 at y = 0.4375, which is 0.0625 * 4 away from 0.5 in the 2-norm: the ball lets 0.1 of it.
    np.testing.assert_allclose(row.clean, 16 * 0.05**2, rtol=1e-5)
    np.testing.assert_allclose(row.attacked, (0.05 * 4 - 0.8 * 0.1) ** 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, x: rc.rate_curve(lambda y: y, x, [1.0]), "must have an entropy model"),
        (lambda model, x: rc.rate_curve(model, x, [0.0]), "epsilon must be > 0"),
        (lambda model, x: rc.rate_curve(model, x, [1.0], norm="l7"), "norm must be"),
        (lambda model, x: rc.rate_curve(model, x, [1.0], max_distortion=-1), "max_distortion must be"),
        (lambda model, x: rc.targeted_curve(model, x, x[:1], [1.0]), "targets must be one for each"),
    ],
)
def test_bad_input_gets_one_line(coded, call, message):
    with pytest.raises(InvalidArgument, match=message):
        call(coded[0], coded[1][:2])

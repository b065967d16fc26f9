import math

import keras
import numpy as np
import pytest
from keras import ops

from tf_robustcomp.bounds import code
from tf_robustcomp.bounds.network_file import code_bits, coded_optimizer, load_code, save_code
from tf_robustcomp.bounds.optimizers import Quantize, Subspace, projection, seeded_weights
from tf_robustcomp.networks import compact_network
from tf_robustcomp.utils.errors import DataError, InvalidArgument

SIZES = {"width": 3, "repeats": 2, "stages": 2}
MAKERS = {
    "quantize": lambda **more: Quantize(keras.optimizers.Adam(0.02), 128, **more),
    "change": lambda **more: Quantize(keras.optimizers.Adam(0.02), 128, begin="model", **more),
    "subspace": lambda **more: Subspace(keras.optimizers.Adam(0.05), 128, 60, 3, **more),
    "change in a subspace": lambda **more: Subspace(
        keras.optimizers.SGD(0.5, momentum=0.9), 128, 20, begin="model", **more
    ),
}


def data():
    rng = np.random.default_rng(0)
    images = rng.random((128, 8, 8, 1)).astype("float32")
    return images, (images[:, :4].mean((1, 2, 3)) > images[:, 4:].mean((1, 2, 3))).astype(int)


def network(seed=1):
    keras.utils.set_random_seed(seed)
    return compact_network((8, 8, 1), 10, **SIZES)


def compiled(model, optimizer):
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def trained(name, epochs=2, **more):
    model = compiled(network(), MAKERS[name](**more))
    model.fit(*data(), epochs=epochs, batch_size=32, shuffle=False, verbose=0)
    return model


def gradient_step(optimizer, weights, gradients):
    variables = [keras.Variable(np.asarray(w, "float32")) for w in weights]
    optimizer.build(variables)
    optimizer.apply([ops.convert_to_tensor(np.asarray(g, "float32")) for g in gradients], variables)
    return [ops.convert_to_numpy(v) for v in variables]


@pytest.mark.parametrize("name", MAKERS)
def test_the_file_gives_back_the_network_that_was_trained(name, tmp_path):
    model = trained(name)
    parts = save_code(model, tmp_path / "a.rcnb", SIZES)
    loaded = load_code(tmp_path / "a.rcnb", network() if name.startswith("change") else None)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)  # compilers may fuse theta0 + P w
    assert (
        parts["total"]
        == code_bits(tmp_path / "a.rcnb")
        == 8 * len((tmp_path / "a.rcnb").read_bytes()) - (64 if name.startswith("change") else 32)
    )
    assert sum(bits for part, bits in parts.items() if part != "total") <= parts["total"]
    again = load_code(tmp_path / "a.rcnb", network() if name.startswith("change") else None)
    images, _ = data()
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), again.predict(images, verbose=0))


def test_a_quantised_network_and_its_file_predict_bit_for_bit_the_same(tmp_path):
    model = trained("quantize")
    save_code(model, tmp_path / "a.rcnb")
    loaded = load_code(tmp_path / "a.rcnb", network(seed=5))
    images, _ = data()
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))


@pytest.mark.parametrize("name", MAKERS)
def test_training_goes_on_from_a_file_as_if_it_had_not_stopped(name, tmp_path):
    model = trained(name)
    model.save(tmp_path / "a.keras")
    resumed = keras.saving.load_model(tmp_path / "a.keras")
    for one in (model, resumed):
        one.fit(*data(), epochs=1, batch_size=32, shuffle=False, verbose=0)
    for a, b in zip(resumed.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", MAKERS)
def test_every_argument_survives_the_config(name):
    optimizer = MAKERS[name](bit_weight=0.25, levels=63)
    config = optimizer.get_config()
    assert type(optimizer).from_config(config).get_config() == config
    assert config["levels"] == 63 and config["bit_weight"] == 0.25


def test_every_weight_is_an_integer_times_the_step_size():
    model = trained("quantize")
    for weight, numbers, place in zip(model.get_weights(), *model.optimizer.symbols(), strict=True):
        np.testing.assert_array_equal(weight, numbers.astype("float32") * code.STEPS[place])
        assert np.abs(numbers).max() <= 15


def test_one_step_is_that_of_the_published_estimates():
    """LSQ's gradients (Esser et al. 2020) by NumPy, and the code length's by differences."""
    weights, gradient = np.array([0.9, -0.2, 0.05, 3.0]), np.array([1.0, -2.0, 0.5, 1.0])
    rate, n, price = 0.01, 10, 0.7
    optimizer = Quantize(keras.optimizers.SGD(rate), n, bit_weight=price, levels=5)
    after = gradient_step(optimizer, [weights], [gradient])[0]
    step = float(code.STEPS[np.abs(code.STEPS - np.sqrt(np.mean(weights**2)) / 4).argmin()])
    scaled = weights / step
    inside = np.abs(scaled) <= 2.5
    numbers = np.clip(np.round(scaled), -2, 2)

    def bits(values, size):
        mean = np.abs(values / size).sum() / 4 + 0.5 / 4
        t = (math.sqrt(1 + mean**2) - 1) / mean
        return -4 * (math.log2((1 - t) / (1 + t)) + mean * math.log2(t))

    tiny = 1e-6
    slope = gradient * inside
    slope = slope + price * math.log(2) / n * np.array(
        [(bits(weights + tiny * e, step) - bits(weights - tiny * e, step)) / (2 * tiny) for e in np.eye(4)]
    )
    of_step = (gradient * (numbers - scaled * inside)).sum() * step * math.log(2)
    of_step += price * math.log(2) / n * (bits(weights, step * 2**tiny) - bits(weights, step * 2**-tiny)) / (2 * tiny)
    latent, log_step = (ops.convert_to_numpy(v) for v in optimizer._trained)
    np.testing.assert_allclose(latent, weights - rate * slope, rtol=1e-4)
    expected = np.log2(np.sqrt(np.mean(weights**2)) / 4) - rate * of_step
    np.testing.assert_allclose(log_step, [expected], rtol=1e-4)
    assert set(np.unique(after)) <= {k * s for k in range(-2, 3) for s in map(float, code.STEPS)}


@pytest.mark.slow
def test_a_greater_weight_of_the_bits_gives_a_shorter_code():
    lengths = [trained("quantize", epochs=8, bit_weight=weight).optimizer.code_length() for weight in (0, 1, 30)]
    assert lengths[0] > lengths[1] > lengths[2]


def test_the_estimate_is_near_the_file(tmp_path):
    model = trained("quantize", epochs=4)
    parts = save_code(model, tmp_path / "a")
    assert parts["values"] == pytest.approx(model.optimizer.code_length(), rel=0.1, abs=60)


def test_a_subspace_step_is_that_of_its_matrix():
    rng = np.random.default_rng(0)
    weights, gradients = [rng.normal(size=(4, 5)), np.zeros(3)], [rng.normal(size=(4, 5)), rng.normal(size=3)]
    optimizer = Subspace(keras.optimizers.SGD(0.1), 10, dim=6, seed=9, bit_weight=0, levels=255)
    after = gradient_step(optimizer, weights, gradients)
    rows = projection(9, [(4, 5), (3,)], 6)
    matrix = np.zeros((23, 6))
    matrix[np.arange(23), np.concatenate([index for index, _ in rows])] = np.concatenate([scale for _, scale in rows])
    w = -0.1 * matrix.T @ np.concatenate([g.ravel() for g in gradients])
    np.testing.assert_allclose(ops.convert_to_numpy(optimizer._trained[0]), w, rtol=1e-4, atol=1e-6)
    numbers, (place,) = optimizer.symbols()
    theta0 = np.concatenate([v.ravel() for v in seeded_weights(9, weights)])
    np.testing.assert_allclose(
        np.concatenate([a.ravel() for a in after]), theta0 + matrix @ (numbers[0] * code.STEPS[place]), atol=1e-6
    )


def test_the_file_says_what_is_shared(tmp_path):
    model = compact_network((8, 8, 1), 10, **SIZES, shared=False)
    optimizer = MAKERS["quantize"]()
    optimizer.build(compiled(model, optimizer).trainable_variables)
    save_code(model, tmp_path / "a", SIZES | {"shared": False})
    for one, other in zip(load_code(tmp_path / "a").get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_seed_makes_the_same_beginning_everywhere():
    (first,) = seeded_weights(7, [np.zeros((3, 3, 1, 2))])
    np.testing.assert_array_equal(first, seeded_weights(7, [np.ones((3, 3, 1, 2))])[0])
    assert np.abs(first).max() <= math.sqrt(6 / 27) and len(np.unique(first)) == 18
    assert float(first.ravel()[0]) == np.float32(0.11794113367795944)


def test_statistics_of_batch_normalisation_are_counted(tmp_path):
    def normalised():
        keras.utils.set_random_seed(0)
        layers = keras.layers
        statistics, noise = layers.BatchNormalization(), layers.Dropout(0.5)
        first, last = layers.Conv2D(4, 3), layers.Dense(10)
        return keras.Sequential([keras.Input((8, 8, 1)), first, statistics, noise, layers.Flatten(), last])

    model = compiled(normalised(), Quantize("adam", 128))
    model.fit(*data(), epochs=1, verbose=0)
    parts = save_code(model, tmp_path / "a")
    assert parts["statistics"] == 2 * 4 * 16
    loaded = load_code(tmp_path / "a", normalised())
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=2**-8)


def test_the_optimizer_is_found_inside_loss_scaling():
    model = compiled(network(), keras.optimizers.LossScaleOptimizer(MAKERS["quantize"]()))
    model.fit(*data(), epochs=1, verbose=0)
    assert coded_optimizer(model.optimizer).code_length() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantize("adam", 0), "examples must be an integer >= 1"),
        (lambda: Quantize("adam", 10, bit_weight=-1), "bit_weight must be a number >= 0"),
        (lambda: Quantize("adam", 10, levels=4), "levels must be odd"),
        (lambda: Quantize("adam", 10, begin="end"), "begin must be"),
        (lambda: Quantize("adam", 10, clipnorm=1.0), "clipnorm must be an argument of the inner optimizer"),
        (lambda: Quantize(Quantize("adam", 10), 10), "inner_optimizer must be one of Keras"),
        (lambda: Subspace("adam", 10, dim=0), "dim must be an integer >= 1"),
        (lambda: Subspace("adam", 10, dim=10, seed=70000), "dim and seed must be at most"),
    ],
)
def test_bad_arguments_are_one_line(make, message):
    with pytest.raises(InvalidArgument, match=message):
        make()


def test_a_vector_that_saw_data_cannot_begin_a_seeded_subspace():
    model = network()
    model.layers[-1].bias.assign(np.arange(10.0))
    with pytest.raises(InvalidArgument, match="begin='model'"):
        compiled(model, MAKERS["subspace"]()).optimizer.build(model.trainable_variables)


@pytest.mark.slow
def test_files_of_other_networks_are_refused(tmp_path):
    path = tmp_path / "a.rcnb"
    with pytest.raises(InvalidArgument, match="must be trained by rc.Quantize or rc.Subspace"):
        save_code(compiled(network(), "adam"), path)
    save_code(trained("quantize"), path)
    with pytest.raises(InvalidArgument, match="holds no architecture"):
        load_code(path)
    with pytest.raises(DataError, match="not the code of this model"):
        load_code(path, compact_network((8, 8, 1), 10, width=5, repeats=2))
    save_code(trained("change"), path)
    with pytest.raises(DataError, match="a change of other weights"):
        load_code(path, network(seed=2))


def test_hostile_files_are_refused_at_once(tmp_path):
    """Sound checksums around bytes that no writer wrote."""
    rng = np.random.default_rng(0)
    for size in (30, 60, 400):
        body = rng.integers(1, 256, size, dtype=np.uint8).tobytes()
        code.write(tmp_path / "a", code._length(size) + body)
        with pytest.raises((DataError, InvalidArgument)):
            load_code(tmp_path / "a", network())


def test_the_slope_of_the_code_length_is_finite_for_many_zeros():
    """Of 100,000 weights near 0 the mean magnitude is so small that 1 + m^2 rounds to 1."""
    optimizer = Quantize(keras.optimizers.SGD(0.1), 10, bit_weight=5)
    weights = np.zeros(100000)
    weights[0] = 1e-3
    (after,) = gradient_step(optimizer, [weights], [np.zeros(100000)])
    assert np.isfinite(after).all() and np.isfinite(ops.convert_to_numpy(optimizer._trained[-1])).all()

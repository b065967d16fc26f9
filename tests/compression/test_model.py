"""The contract of all compressors: code, training, files."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.sampling import sampled
from tf_robustcomp.adversaries import L2Ball, LinfBall, RotationRandom, RotationSearch, WassersteinBall
from tf_robustcomp.adversaries.augmentation import NoiseAugmentation
from tf_robustcomp.compression import Compressor, ResidualCompressor, RotationAligned, SuccessiveRefinement
from tf_robustcomp.data.distortion import distortion
from tf_robustcomp.utils.errors import InvalidArgument

SHAPE = (16, 16, 1)
SMALL = {"levels": 5, "width": 4, "image_shape": SHAPE}
COMPRESSORS = {
    "standard": lambda **more: Compressor(3, **SMALL, **more),
    "refinement": lambda **more: SuccessiveRefinement((1, 2), **SMALL, **more),
    "residual": lambda **more: ResidualCompressor((1, 2), **SMALL, **more),
    "aligned": lambda **more: RotationAligned(3, **SMALL, **more),
}
ADVERSARIES = [
    None,
    WassersteinBall(gamma=1.0, steps=2),
    WassersteinBall(rho=2.0, steps=2),
    WassersteinBall(gamma=1.0, steps=3, method="adaptive", restarts=0),
    RotationSearch(grid=3, halvings=0),
    RotationRandom(candidates=2),
    L2Ball(epsilon=0.3, steps=2),
    LinfBall(epsilon=0.02, steps=2),
]


def bars(count=48):
    """Bright bars on dark ground, of many places and widths."""
    rng = np.random.default_rng(8)
    images = np.zeros((count, *SHAPE), "float32")
    for image in images:
        start = rng.integers(2, 10)
        image[start : start + rng.integers(2, 5), 3:13] = 0.9
    return images


@pytest.fixture(params=COMPRESSORS)
def model(request):
    return COMPRESSORS[request.param]()


def array(tensor):
    return ops.convert_to_numpy(tensor)


def test_decoding_the_code_is_the_model_bit_for_bit(model):
    x = bars(6)
    for stage in (*range(1, model.stages + 1), None):
        symbols = array(model.encode(x, stage))
        assert symbols.shape == (6, model.stage_width(stage or model.stages))
        assert symbols.min() >= 0 and symbols.max() < 5
        decoded = array(model.decode(symbols))
        np.testing.assert_array_equal(decoded, array(model(x, stage=stage)))
        assert decoded.shape == x.shape and decoded.min() >= 0 and decoded.max() <= 1


def test_the_code_of_a_stage_is_a_prefix_and_decodes_by_itself(model):
    x = bars(5)
    symbols = array(model.encode(x))
    for stage in range(1, model.stages + 1):
        prefix = array(model.encode(x, stage=stage))
        np.testing.assert_array_equal(prefix, symbols[:, : prefix.shape[1]])
        np.testing.assert_array_equal(array(model.decode(symbols, stage)), array(model.decode(prefix)))


def test_alone_or_in_a_batch_an_image_has_the_same_symbols(model):
    x = bars(9)
    together = array(model.encode(x))
    alone = np.concatenate([array(model.encode(image[None])) for image in x])
    np.testing.assert_array_equal(alone, together)


def test_rate_is_d_log_l(model):
    assert model.latent_dim == 3
    np.testing.assert_allclose(model.rate, 3 * np.log2(5))
    rates = [model.stage_rate(stage) for stage in range(1, model.stages + 1)]
    assert rates[-1] == model.rate and rates == sorted(rates)


def test_saved_and_loaded_the_model_is_the_same_bit_for_bit(model, tmp_path):
    model.compile(keras.optimizers.Adam(1e-3), WassersteinBall(rho=2.0, steps=2), NoiseAugmentation(1.0), seed=5)
    model.adversary.variables[0].assign(0.25)
    for layer in model._flatten_layers():  # statistics that no new model would have
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(0.1 * np.arange(layer.moving_mean.shape[0]))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = bars(4)
    np.testing.assert_array_equal(array(again(x)), array(model(x)))
    np.testing.assert_array_equal(array(again.encode(x)), array(model.encode(x)))
    assert again.get_config() == model.get_config()
    assert again.get_compile_config() == model.get_compile_config()
    np.testing.assert_allclose(float(again.adversary.gamma), np.exp(0.25), rtol=1e-6)
    assert again.seed == 5 and repr(again.augmentation) == repr(model.augmentation)


@pytest.mark.parametrize("adversary", sampled(ADVERSARIES, 0, 3, 5), ids=repr)
@pytest.mark.slow
def test_training_against_every_adversary_lowers_the_loss_and_logs_what_was_measured(adversary):
    model = COMPRESSORS["standard"]()
    model.compile(keras.optimizers.Adam(1e-2), adversary=adversary)
    logs = model.fit(bars(), batch_size=16, epochs=6, verbose=0).history
    assert logs["loss"][-1] < 0.7 * logs["loss"][0]
    expected = {"loss", "distortion", "rate"}
    if adversary is not None:
        expected |= {"adversarial_distortion", adversary.reports}
        assert logs["adversarial_distortion"][0] > logs["distortion"][0]
        assert logs[adversary.reports][0] > 0
    assert set(logs) == expected
    np.testing.assert_allclose(logs["rate"], 3 * np.log2(5), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "more"), sampled([("refinement", {"attacked_fraction": 1.0}), ("residual", {}), ("aligned", {})], 0)
)
@pytest.mark.slow
def test_training_lowers_the_loss_of_every_structured_compressor(name, more):
    model = COMPRESSORS[name]()
    model.compile(keras.optimizers.Adam(1e-2), adversary=LinfBall(epsilon=0.02, steps=1), **more)
    logs = model.fit(bars(), batch_size=16, epochs=6, verbose=0).history
    assert logs["loss"][-1] < 0.7 * logs["loss"][0]


def test_evaluation_gives_the_clean_distortion_in_inference_mode():
    model = COMPRESSORS["standard"]()
    model.compile("adam", adversary=WassersteinBall(gamma=1.0, steps=1), augmentation=NoiseAugmentation(50.0))
    x = bars(10)
    logs = model.evaluate(x, batch_size=4, verbose=0, return_dict=True)
    expected = ((x - array(model(x))) ** 2).sum((1, 2, 3)).mean()
    np.testing.assert_allclose(logs["distortion"], expected, rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    assert set(logs) == {"loss", "distortion", "rate"}


@pytest.mark.slow
def test_resumed_training_is_training_that_never_stopped(tmp_path):
    def trained(epochs, model=None, initial_epoch=0):
        if model is None:
            keras.utils.set_random_seed(3)
            model = COMPRESSORS["standard"]()
            ball = WassersteinBall(rho=2.0, steps=2)
            model.compile(keras.optimizers.Adam(1e-3), adversary=ball, augmentation=NoiseAugmentation(2.0))
        model.fit(bars(), batch_size=16, epochs=epochs, initial_epoch=initial_epoch, shuffle=False, verbose=0)
        return model

    straight = trained(2)
    trained(1).save(tmp_path / "half.keras")
    resumed = trained(2, keras.models.load_model(tmp_path / "half.keras"), initial_epoch=1)
    assert int(resumed.optimizer.iterations.numpy()) == 6
    assert float(resumed.adversary.gamma) != 1.0
    np.testing.assert_allclose(float(resumed.adversary.gamma), float(straight.adversary.gamma), rtol=1e-5)
    for one, other in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_compiled_and_eager_training_agree():
    """XLA where Keras may use it; torch.compile needs a C++ compiler on the machine, so there it is eager twice."""
    losses = []
    for switch in ({"jit_compile": keras.backend.backend() != "torch"}, {"run_eagerly": True}):
        keras.utils.set_random_seed(4)
        model = COMPRESSORS["standard"]()  # with nothing random, since XLA draws other numbers
        model.compile(keras.optimizers.Adam(1e-3), adversary=WassersteinBall(rho=2.0, steps=2), **switch)
        losses.append(model.fit(bars(32), batch_size=16, shuffle=False, verbose=0).history["loss"][0])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.slow
def test_mixed_precision_trains_saves_and_measures_in_single_precision(tmp_path):
    model = COMPRESSORS["standard"](dtype="mixed_bfloat16")
    assert model.encoder.layers[1].compute_dtype == "bfloat16"
    ball = WassersteinBall(gamma=1.0, steps=2)
    model.compile(keras.optimizers.Adam(1e-2), adversary=ball)
    logs = model.fit(bars(), batch_size=16, epochs=4, verbose=0).history
    assert logs["loss"][-1] < 0.8 * logs["loss"][0]
    result = ball.attack(model, bars(4))
    assert keras.backend.standardize_dtype(result.distortion.dtype) == "float32"
    model.save(tmp_path / "mixed.keras")
    again = keras.models.load_model(tmp_path / "mixed.keras")
    assert again.encoder.layers[1].compute_dtype == "bfloat16"
    np.testing.assert_array_equal(array(again(bars(4))), array(model(bars(4))))


def test_weights_of_an_ordinary_model_start_one_with_an_adversary(tmp_path):
    ordinary, robust = COMPRESSORS["standard"](), COMPRESSORS["standard"]()
    ordinary.save_weights(tmp_path / "ordinary.weights.h5")
    robust.compile("adam", adversary=WassersteinBall(rho=2.0))
    robust.load_weights(tmp_path / "ordinary.weights.h5")
    np.testing.assert_array_equal(array(robust(bars(2))), array(ordinary(bars(2))))


def test_the_smallest_code_works():
    model = Compressor(1, levels=2, width=1, image_shape=SHAPE)
    assert model.rate == 1.0
    assert set(np.unique(array(model.encode(bars())))) <= {0, 1}


def test_distortion_is_the_sum_of_squared_errors_of_each_image(rng):
    x, y = rng.uniform(size=(2, 3, *SHAPE)).astype("float32")
    np.testing.assert_allclose(array(Compressor.distortion(x, y)), ((x - y) ** 2).sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(array(Compressor.distortion(x, y)), array(distortion(x, y)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be an integer >= 1. Received: latent_dim=0"),
        ({"latent_dim": 3, "levels": 1}, "levels must be an integer >= 2. Received: levels=1"),
        ({"latent_dim": 3, "width": 0}, "width must be an integer >= 1. Received: width=0"),
        ({"latent_dim": 3, "image_shape": (28, 28, 1)}, "image_shape must have sides that are multiples of 16"),
        ({"latent_dim": 3, "image_shape": (32, 32)}, "image_shape must be (height, width, channels)"),
        ({"latent_dim": 3, "image_shape": (32, 32, 0)}, "channels must be an integer >= 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InvalidArgument) as error:
        Compressor(**arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda model: model.fit(255 * bars()), "images must lie in [0, 1]. Received: values from 0 to 229.5"),
        (
            lambda model: model.fit(bars()[:, :8]),
            "images must have shape (n, 16, 16, 1). Received: shape (48, 8, 16, 1)",
        ),
        (lambda model: model.evaluate(bars()[:0]), "images must hold at least one image"),
        (lambda model: model.encode(np.nan * bars()), "images must be finite"),
        (lambda model: model.fit(bars(), bars()), "y must be None"),
        (lambda model: model(bars(), stage=2), "stage must be at most 1. Received: stage=2"),
        (lambda model: model.encode(bars(), stage=0), "stage must be an integer >= 1. Received: stage=0"),
        (lambda model: model.decode(np.zeros((1, 2))), "symbols must have one of [3] columns"),
        (lambda model: model.compile("adam", loss="mse"), "a compressor's loss and metrics are its own"),
        (lambda model: model.compile("adam", adversary="Unheard"), "adversary must be a known one"),
        (lambda model: model.compile("adam", augmentation=3), "augmentation must be an Augmentation"),
    ],
)
def test_bad_use_is_refused_in_one_line(use, message):
    model = COMPRESSORS["standard"]()
    model.compile("adam")
    with pytest.raises(InvalidArgument) as error:
        use(model)
    assert message in str(error.value) and "\n" not in str(error.value)

"""Theorems that hold for every adversary, stated once."""

import types

import keras
import numpy as np
import pytest
from keras import ops

from tf_robustcomp import adversaries
from tf_robustcomp.adversaries import (
    Adversary,
    L2Ball,
    LinfBall,
    Proposal,
    RotationRandom,
    RotationSearch,
    WassersteinBall,
)
from tf_robustcomp.data.distortion import distortion
from tf_robustcomp.data.shifts import rotate
from tf_robustcomp.utils import registry
from tf_robustcomp.utils.errors import InvalidArgument

SETTINGS = types.SimpleNamespace(
    gamma=1.0,
    rho=None,
    epsilon=0.7,
    attack_steps=3,
    attack_method="paper",
    attack_restarts=1,
    attack_precision="float32",
    adversary_seed=1,
)
ADVERSARIES = [
    *(variant.build(SETTINGS) for variant in registry.variants("adversary").values()),
    WassersteinBall(gamma=1.0, steps=4, method="adaptive", restarts=1),
    WassersteinBall(rho=5.0, steps=3),
    RotationSearch(grid=4, peaks=2, halvings=1),
    RotationSearch(per="image", grid=4, peaks=2, halvings=1),
    LinfBall(epsilon=0.05, steps=4),
]


class Restless(keras.layers.Layer):
    """Draws noise and counts its calls even at inference, which an adversary must not let show."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x + 1e-3 * keras.random.normal(ops.shape(x), seed=self.seeds)


def make_model():
    keras.utils.set_random_seed(2)
    layers = [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(3, 3, padding="same", activation="tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        Restless(),
    ]
    model = keras.Sequential(layers)
    model.layers[1].moving_mean.assign([0.2, -0.3, 0.1])
    model.layers[1].moving_variance.assign([0.5, 2.0, 1.5])
    return model


def state_of(model):
    return [np.array(variable.numpy()) for variable in model.variables]


class Case:
    """One attack, looked at by many tests."""

    def __init__(self, adversary):
        self.adversary = adversary
        self.model = make_model()
        self.x = np.random.default_rng(5).uniform(size=(5, 8, 8, 1)).astype("float32")
        self.before = state_of(self.model)
        result = adversary.attack(self.model, self.x, step=4)
        self.result = type(result)(*[ops.convert_to_numpy(value) for value in result])
        self.after = state_of(self.model)


@pytest.fixture(scope="module", params=ADVERSARIES, ids=repr)
def case(request):
    return Case(request.param)


def test_the_result_lies_in_the_unit_interval_and_differs_from_the_input(case):
    assert case.result.x.shape == case.x.shape
    assert case.result.x.min() >= 0 and case.result.x.max() <= 1
    assert (case.result.x != case.x).any()


def test_the_result_lies_in_the_ball(case):
    change = case.result.x - case.x
    if isinstance(case.adversary, L2Ball):
        assert np.sqrt((change**2).sum((1, 2, 3))).max() <= case.adversary.epsilon * (1 + 1e-5)
    elif isinstance(case.adversary, LinfBall):
        assert np.abs(change).max() <= case.adversary.epsilon * (1 + 1e-5)
    elif isinstance(case.adversary, WassersteinBall):
        assert (case.result.radius <= 64).all()
    else:
        turned = rotate(case.x, ops.convert_to_tensor(case.result.angle))
        np.testing.assert_array_equal(case.result.x, ops.convert_to_numpy(turned))
        assert (case.result.angle >= -180).all() and (case.result.angle < 180).all()


def test_the_result_is_never_worse_than_the_clean_input_in_its_own_objective(case):
    if case.adversary.per_batch:
        assert case.result.objective.mean() >= case.result.clean_objective.mean()
    else:
        assert (case.result.objective >= case.result.clean_objective).all()


def test_what_is_reported_is_what_was_reached(case):
    np.testing.assert_allclose(case.result.radius, ((case.result.x - case.x) ** 2).sum((1, 2, 3)), rtol=1e-4)
    gamma = float(ops.convert_to_numpy(getattr(case.adversary, "gamma", 0.0)))
    np.testing.assert_allclose(
        case.result.objective, case.result.distortion - gamma * case.result.radius, rtol=1e-4, atol=1e-4
    )
    inference = ops.convert_to_numpy(make_model()(ops.convert_to_tensor(case.result.x), training=False))
    reached = ((case.result.x - inference) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(case.result.distortion, reached, rtol=0.05)  # but for the layer's small noise


def test_the_state_of_the_model_is_untouched(case):
    for before, after in zip(case.before, case.after, strict=True):
        np.testing.assert_array_equal(before, after)


def test_an_attack_is_a_function_of_the_input_and_the_step(case):
    again = ops.convert_to_numpy(case.adversary(case.model, case.x, step=4))
    np.testing.assert_array_equal(again, case.result.x)


def test_gradients_are_those_of_inference_mode(case):
    """With the layers' training mode made to differ wildly, nothing changes."""
    model = make_model()
    frozen = keras.Sequential([keras.Input((8, 8, 1)), *model.layers])
    frozen.trainable = False  # batch norm then has no other mode
    np.testing.assert_allclose(ops.convert_to_numpy(case.adversary(frozen, case.x, step=4)), case.result.x, atol=1e-5)


def test_config_makes_the_round_trip(case):
    config = keras.saving.serialize_keras_object(case.adversary)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(case.adversary)
    assert again.get_config() == case.adversary.get_config()
    assert repr(again) == repr(case.adversary)
    assert adversaries.get(config).get_config() == case.adversary.get_config()


class Nonsense(Adversary):
    """Proposes what no adversary may: a value outside [0, 1], no number at all, and an image better than the clean."""

    def propose(self, objective, x, step):
        return Proposal(ops.concatenate([x[:1] + 7.0, x[1:2] * np.float32(np.nan), x[2:] - 0.1]))


def test_the_base_class_repairs_a_bad_method():
    x = np.full((3, 4, 4, 1), 0.5, "float32")
    result = Nonsense().attack(lambda images: 0.0 * images + 0.4, x)
    images = ops.convert_to_numpy(result.x)
    np.testing.assert_array_equal(images[0], np.ones((4, 4, 1)))
    np.testing.assert_array_equal(images[1:], x[1:])
    np.testing.assert_allclose(ops.convert_to_numpy(result.objective), [16 * 0.36, 16 * 0.01, 16 * 0.01], rtol=1e-5)


def test_later_weights_are_seen_by_an_attack_that_was_traced_before():
    case = Case(LinfBall(epsilon=0.05, steps=2))
    case.model.layers[0].kernel.assign(0 * case.model.layers[0].kernel)
    fresh = ops.convert_to_numpy(LinfBall(epsilon=0.05, steps=2)(case.model, case.x))
    np.testing.assert_array_equal(ops.convert_to_numpy(case.adversary(case.model, case.x)), fresh)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((1, 4, 4, 1), 1.5), "x must lie in [0, 1]. Received: values from 1.5 to 1.5"),
        (np.full((1, 4, 4, 1), np.nan), "x must be finite. Received: 16 values"),
        (np.zeros((4, 4, 1)), "x must have shape (n, h, w, c). Received: shape (4, 4, 1)"),
        (np.zeros((0, 4, 4, 1)), "x must hold at least one image"),
        (np.zeros((1, 4, 4, 1), complex), "x must be real numbers. Received: dtype complex128"),
    ],
)
def test_bad_images_are_refused_at_the_door(images, message):
    with pytest.raises(InvalidArgument) as error:
        L2Ball(1.0)(lambda x: x, images)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WassersteinBall(), "either gamma or rho must be given"),
        (lambda: WassersteinBall(gamma=1.0, rho=1.0), "either gamma or rho must be given"),
        (lambda: WassersteinBall(gamma=0.0), "gamma must be > 0. Received: gamma=0.0"),
        (lambda: WassersteinBall(rho=float("nan")), "rho must be > 0"),
        (lambda: WassersteinBall(1.0, steps=0), "steps must be an integer >= 1. Received: steps=0"),
        (lambda: WassersteinBall(1.0, method="best"), "method must be 'paper' or 'adaptive'"),
        (lambda: RotationSearch(per="pixel"), "per must be 'batch' or 'image'"),
        (lambda: RotationRandom(0), "candidates must be an integer >= 1"),
        (lambda: L2Ball(-1.0), "epsilon must be > 0. Received: epsilon=-1.0"),
        (lambda: adversaries.get("Unheard"), "adversary must be a known one. Received: Unheard"),
        (lambda: adversaries.get(3), "adversary must be an Adversary or None"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(InvalidArgument) as error:
        make()
    assert message in str(error.value)


def test_get_takes_none_name_config_or_instance():
    ball = L2Ball(1.0)
    assert adversaries.get(None) is None
    assert adversaries.get(ball) is ball
    assert isinstance(adversaries.get("RotationSearch"), RotationSearch)


def test_distortion_is_a_sum_in_single_precision():
    x = ops.cast(np.full((2, 4, 4, 1), 0.5), "float16")
    result = distortion(x, 0 * x)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    np.testing.assert_array_equal(ops.convert_to_numpy(result), [4.0, 4.0])

"""Faults that users of compressors, attacks and their evaluation reported; names begin with the report's number."""

import keras
import numpy as np
import pytest
from keras import ops

import tf_robustcomp as rc
from tests.reports.conftest import command
from tf_robustcomp.adversaries import ascent
from tf_robustcomp.evaluation import models

pytestmark = pytest.mark.slow

rng = np.random.default_rng(11)
IMAGES = rng.uniform(size=(30, 4, 4, 1)).astype("float32")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


class Smooth(keras.layers.Layer):
    """A small smooth model with many maxima, pixel by pixel, so that no rounding depends on the batch."""

    def call(self, images):
        return 0.5 + 0.5 * ops.sin(4.0 * images + 3.0 * ops.roll(images, 1, axis=1))


# B13: the strength of an attack does not depend on the batch ----------------------------------------------------------


@pytest.mark.parametrize("steps", [8, 40])
def test_b13_an_image_is_attacked_alone_as_in_a_batch(steps):
    ball, model = rc.WassersteinBall(gamma=1.5, steps=steps, method="adaptive", restarts=1), Smooth()
    together = numpy(ball.attack(model, IMAGES).objective)
    alone = np.concatenate([numpy(ball.attack(model, image[None]).objective) for image in IMAGES])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_b13_an_image_that_stops_waits_for_the_others_unchanged():
    """On the left an objective at its maximum from the start, on the right one that rises for long."""
    start = np.stack([np.full((2, 2, 1), 0.5), np.full((2, 2, 1), 0.1)]).astype("float32")

    def objective(x):
        flat = ops.reshape(x, (-1, 4))
        return -ops.sum(ops.square(flat - 0.5), axis=1) * 1e-3 + 1.0

    both = ascent.adaptive_ascent(objective, ops.convert_to_tensor(start), 80)
    for row in range(2):
        one = ascent.adaptive_ascent(objective, ops.convert_to_tensor(start[row : row + 1]), 80)
        np.testing.assert_array_equal(numpy(one.points)[0], numpy(both.points)[row])


def test_b13_the_gain_is_that_of_the_ascent_that_still_gains():
    one = ascent.Ascent(ops.zeros((1, 2, 2, 1)), ops.ones(1), 5, 0.0, ops.ones(1, bool))
    other = ascent.Ascent(ops.ones((1, 2, 2, 1)), ops.zeros(1), 7, 0.25, ops.ones(1, bool))
    assert float(one.better_of(other).gain) == float(other.better_of(one).gain) == 0.25


def test_b13_evaluations_give_an_image_the_same_worst_case_in_any_part(monkeypatch):
    whole = rc.worst_case_curve(Smooth(), IMAGES[:9], [1.5], steps=20, check=0).rows[1]
    monkeypatch.setattr(models.batches, "__defaults__", (4,))
    parts = rc.worst_case_curve(Smooth(), IMAGES[:9], [1.5], steps=20, check=0).rows[1]
    assert parts.distortion == pytest.approx(whole.distortion, rel=1e-5)
    assert parts.rho == pytest.approx(whole.rho, rel=1e-5)


# B9: images of 0 to 255 are refused in whatever they come -------------------------------------------------------------

BYTES = rng.integers(0, 256, (8, 16, 16, 1)).astype("float32")


def small_model():
    model = rc.Compressor(latent_dim=2, width=4, image_shape=(16, 16, 1))
    model.compile("adam")
    return model


class Batches(keras.utils.PyDataset):
    """One batch, as Keras' own data sets give it."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return (self.images,)


def torch_tensor(images):
    return pytest.importorskip("torch").from_numpy(images)


CONTAINERS = {
    "array": lambda images: images,
    "tensor": ops.convert_to_tensor,
    "torch": torch_tensor,
    "PyDataset": Batches,
    "generator": lambda images: ((batch,) for batch in [images]),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_b9_images_of_bytes_are_refused_in(container):
    make, model = CONTAINERS[container], small_model()
    with pytest.raises(rc.InvalidArgument, match=r"in \[0, 1\]"):
        model.fit(make(BYTES), verbose=0)
    with pytest.raises(rc.InvalidArgument, match=r"in \[0, 1\]"):
        model.evaluate(make(BYTES), verbose=0)
    with pytest.raises(rc.InvalidArgument, match=r"in \[0, 1\]"):
        model.fit(BYTES / 255, validation_data=make(BYTES), verbose=0)
    model.fit(make(BYTES / 255), validation_data=BYTES / 255, verbose=0)


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_b9_a_tensorflow_dataset_of_bytes_is_refused(dtype):
    import tensorflow as tf

    with pytest.raises(rc.InvalidArgument, match=r"in \[0, 1\]"):
        small_model().fit(tf.data.Dataset.from_tensors(BYTES.astype(dtype)), verbose=0)
    with pytest.raises(rc.InvalidArgument, match=r"shape \(n, 16, 16, 1\)"):
        small_model().fit(tf.data.Dataset.from_tensors(BYTES[0]), verbose=0)


def test_b9_a_refused_dataset_leaves_the_model_as_it_was():
    model = small_model()
    model.fit(BYTES / 255.0, epochs=1, verbose=0)
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in (*model.variables, *model.optimizer.variables)]
    with pytest.raises(rc.InvalidArgument, match=r"in \[0, 1\]"):
        model.fit(((BYTES,) for _ in range(2)), verbose=0)
    after = [keras.ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_b9_predict_refuses_them_too():
    with pytest.raises(rc.InvalidArgument, match=r"in \[0, 1\]"):
        small_model().predict(BYTES, verbose=0)


def test_b9_nan_in_a_dataset_is_refused():
    with pytest.raises(rc.InvalidArgument, match="finite"):
        small_model().fit(Batches(BYTES / 255 * np.nan), verbose=0)


# B11 (Trusted-AI/adversarial-robustness-toolbox 368, 824): a model that is not sound gets no figure -------------------

SOME = rng.uniform(0.3, 0.6, (12, 4, 4, 1)).astype("float32")
EVALUATIONS = {
    "worst_case": lambda model: rc.worst_case_curve(model, SOME, [0.2], steps=20, check=0),
    "published": lambda model: rc.worst_case_curve(model, SOME, [0.2], attack="paper", check=0),
    "dual": lambda model: rc.dual_estimate(model, SOME, 0.2, [1.0]),
    "l2": lambda model: rc.lp_curve(model, SOME, [3.0]),
    "linf": lambda model: rc.lp_curve(model, SOME, [0.5], norm="linf"),
    "noise": lambda model: rc.noise_curve(model, SOME, [4.0]),
}
BY_GRADIENTS = [name for name in EVALUATIONS if name != "noise"]


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_b11_a_model_that_is_nan_on_bright_images_is_not_robust(evaluation):
    def model(x):
        bright = ops.max(x, axis=(1, 2, 3), keepdims=True) > 0.7
        return ops.where(bright, float("nan"), 0.5 + 0.0 * x)

    with pytest.raises(rc.InvalidArgument, match="NaN or infinite"):
        EVALUATIONS[evaluation](model)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(
    "model, message",
    [(lambda x: x[:, :1, :1], "must return images of the shape"), (lambda x: x + np.inf, "NaN or infinite")],
    ids=["shape", "infinite"],
)
def test_b11_output_that_is_no_image_is_refused(evaluation, model, message):
    with pytest.raises(rc.InvalidArgument, match=message):
        EVALUATIONS[evaluation](model)


@pytest.mark.parametrize("evaluation", BY_GRADIENTS)
def test_b11_a_model_without_gradient_is_not_robust(evaluation):
    def model(x):
        return x + ops.stop_gradient(0.3 * ops.sin(9.0 * x))

    with pytest.raises(rc.InvalidArgument, match="must have a gradient"):
        EVALUATIONS[evaluation](model)


def test_b11_an_attack_says_at_which_images_the_model_is_undefined():
    def model(x):
        return ops.where(ops.max(x, axis=(1, 2, 3), keepdims=True) > 0.9, float("nan"), 0.5 * x)

    images = np.stack([np.full((4, 4, 1), 0.05), np.full((4, 4, 1), 0.8)]).astype("float32")
    ball = rc.WassersteinBall(gamma=0.2, steps=3, method="adaptive", restarts=0)
    small = rc.WassersteinBall(gamma=5.0, steps=1, method="adaptive", restarts=0)
    assert numpy(small.attack(model, images).defined).tolist() == [True, True]
    assert not numpy(ball.attack(model, images).defined)[1]


@pytest.mark.parametrize("per", ["batch", "image"])
@pytest.mark.parametrize("kind", [rc.RotationSearch, rc.RotationRandom])
def test_b11_a_search_of_angles_finds_those_where_the_model_is_undefined(kind, per):
    """NaN at nearly all angles but 0."""

    def model(x):
        return ops.where(x[:, 2:3, 3:, :] > 0.9, 0.5 * x, float("nan"))

    image = np.zeros((1, 4, 4, 1), "float32")
    image[:, 2, 3] = 1
    assert not numpy(kind(per=per).attack(model, image).defined).any()


def test_b11_an_untrained_model_is_named():
    model = small_model()
    images = rng.uniform(0.45, 0.55, (12, 16, 16, 1)).astype("float32")
    with pytest.warns(UserWarning, match="compressor is no better than the mean image"):
        rc.noise_curve({"compressor": model}, images, [1.0])


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("switches, code, word", [((), 0, "warning"), (("-W", "error"), 2, "error")])
def test_b11_a_command_says_it_in_one_line(switches, code, word, tmp_path):
    keras.utils.set_random_seed(1)
    model = rc.Compressor(latent_dim=2, width=4, image_shape=(16, 16, 1))
    model.save(tmp_path / "untrained.keras")
    images = rng.integers(120, 130, (20, 16, 16)).astype("uint8")  # nearly constant: the mean image is hard to beat
    np.save(tmp_path / "images.npy", images)
    words = [f"--models={tmp_path / 'untrained.keras'}", f"--data={tmp_path / 'images.npy'}", "--angle-step=180"]
    done = command("eval_rotations", *words, f"--output={tmp_path / 'curve'}", python=switches)
    assert done.returncode == code, done.stderr
    line = f"eval_rotations: {word}: untrained.keras is no better than the mean image"
    assert [text for text in done.stderr.splitlines() if text.startswith(line)], done.stderr
    assert "Traceback" not in done.stderr and "UserWarning" not in done.stderr


def test_b11_shapes_are_not_broadcast_in_training_either():
    class Wrong(rc.MinMaxTraining):
        def __init__(self):
            super().__init__()
            self.layer = keras.layers.Conv2D(3, 1)

        def call(self, images, training=False):
            return self.layer(images)

    model = Wrong()
    model.compile("adam")
    with pytest.raises(rc.InvalidArgument, match="must have one shape"):
        model.fit(SOME, verbose=0)


# B12 (InterDigitalInc/CompressAI 50, 253): tables of other weights are said -------------------------------------------


def test_b12_stale_entropy_tables_are_said(tmp_path):
    model, images = small_model(), BYTES / 255
    model.fit_entropy_model(images).save(tmp_path / "fitted.keras")
    fresh = model.compress(images)
    assert rc.load_model(tmp_path / "fitted.keras").compress(images) == fresh
    model.fit(images, verbose=0)
    model.save(tmp_path / "later.keras")
    for stale in (model, rc.load_model(tmp_path / "later.keras")):
        with pytest.warns(UserWarning, match="weights have changed since fit_entropy_model"):
            data = stale.compress(images)
        np.testing.assert_array_equal(stale.decompress(data), numpy(stale(images)))
    model.fit_entropy_model(images).compress(images)


# C3: export, callbacks, quantisation ----------------------------------------------------------------------------------

COMPRESSORS = {
    "standard": lambda: rc.Compressor(latent_dim=2, width=4, image_shape=(16, 16, 1)),
    "refinement": lambda: rc.SuccessiveRefinement(stage_dims=(1, 2), width=4, image_shape=(16, 16, 1)),
    "aligned": lambda: rc.RotationAligned(latent_dim=3, width=4, image_shape=(16, 16, 1)),
}


KINDS = ["standard", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("refinement", "aligned"))]


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("kind", KINDS)
def test_c3_a_compressor_is_exported(kind, tmp_path):
    import tensorflow as tf

    model, images = COMPRESSORS[kind](), BYTES / 255
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(images), numpy(model(images)), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method")
def test_c3_a_just_loaded_compressor_is_quantised(kind, tmp_path):
    model, images = COMPRESSORS[kind](), BYTES / 255
    model.save(tmp_path / "model.keras")
    loaded = rc.load_model(tmp_path / "model.keras")
    loaded.quantize("int8")
    loaded.save(tmp_path / "quantised.keras")
    again = rc.load_model(tmp_path / "quantised.keras")
    np.testing.assert_array_equal(numpy(again(images)), numpy(loaded(images)))


@pytest.mark.parametrize("name", ["val_distortion", "distortion", "val_rate", "adversarial_distortion"])
def test_c3_callbacks_know_that_less_is_better(name, tmp_path):
    model, images = small_model(), BYTES / 255
    model.compile("adam", adversary=rc.WassersteinBall(gamma=1.0, steps=1))
    stop = keras.callbacks.EarlyStopping(monitor=name, restore_best_weights=True)
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor=name, save_best_only=True)
    history = model.fit(images, validation_data=images, callbacks=[stop, best], verbose=0).history[name]
    assert stop.mode == best.mode == "min"
    assert stop.best == best.best == min(history)

"""Numbers that nobody wants, and sizes at the edge: defined behaviour for each."""

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tests.faults.programs import COMPRESSOR
from tests.pruning.models import compiled, dense_net, small_data
from tests.sampling import sampled
from tf_robustcomp import train_compressor, train_resnet_random
from tf_robustcomp.runs import directory as runs

SHAPE = {"levels": 4, "width": 2, "image_shape": (16, 16, 1)}
ADVERSARIES = [
    rc.WassersteinBall(gamma=1.0, steps=3),
    rc.WassersteinBall(gamma=1.0, steps=6, method="adaptive"),
    rc.RotationSearch(grid=4, halvings=1),
    rc.RotationRandom(3),
    rc.L2Ball(0.5, steps=3),
    rc.LinfBall(0.1, steps=3),
]


numpy = keras.ops.convert_to_numpy


def pictures(count=6, value=None):
    rng = np.random.default_rng(0)
    return (
        np.full((count, 16, 16, 1), value, "float32")
        if value is not None
        else rng.random((count, 16, 16, 1), "float32")
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.1, 1.1])
def test_images_out_of_their_range_are_refused_at_every_door(value):
    model = rc.Compressor(3, **SHAPE)
    model.compile("sgd")
    images = pictures()
    images[2, 3, 4] = value
    for door in (
        lambda: model.fit(images, verbose=0),
        lambda: model.evaluate(images, verbose=0),
        lambda: model.encode(images),
        lambda: model.compress(images, mode="fixed"),
        lambda: model.fit_entropy_model(images),
        lambda: rc.worst_case_curve(model, images, [1.0]),
        lambda: rc.rotation_curve(model, images, [0]),
        lambda: ADVERSARIES[0](model, images),
    ):
        with pytest.raises(rc.InvalidArgument, match=r"must be finite|must lie in \[0, 1\]"):
            door()


@pytest.mark.parametrize("adversary", sampled(ADVERSARIES, 0, 1), ids=repr)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_images_are_attacked_and_coded(adversary, value):
    model = rc.Compressor(3, **SHAPE)
    result = adversary.attack(model, pictures(2, value))
    for part in result:
        assert np.isfinite(numpy(part)).all()
    assert (numpy(result.objective) >= numpy(result.clean_objective)).all()
    data = model.compress(pictures(2, value), mode="fixed")
    np.testing.assert_array_equal(model.decompress(data), numpy(model(pictures(2, value))))


def test_an_adversary_whose_objective_is_not_a_number_leaves_the_image():
    def broken(images):
        return images * np.float32("nan")

    for adversary in ADVERSARIES:
        result = adversary.attack(broken, pictures(3))
        np.testing.assert_array_equal(numpy(result.x), pictures(3))


def test_an_adversary_that_is_far_too_strong_stays_in_the_images(rng):
    model = rc.Compressor(3, **SHAPE)
    for adversary in (rc.WassersteinBall(gamma=1e-6, steps=30), rc.L2Ball(1e6), rc.LinfBall(1e6)):
        x = numpy(adversary(model, pictures()))
        assert np.isfinite(x).all() and x.min() >= 0 and x.max() <= 1


@pytest.mark.parametrize("count", [1, 5, 9])
@pytest.mark.parametrize("adversary", sampled([None, *ADVERSARIES], 0, 1), ids=repr)
def test_batches_of_one_and_last_batches_that_are_smaller(count, adversary):
    model = rc.Compressor(3, **SHAPE)
    model.compile("sgd", adversary=adversary)
    history = model.fit(pictures(count), batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"][0])


@pytest.mark.parametrize("make", [
    lambda: rc.Compressor(1, levels=2, width=1, image_shape=(16, 16, 1)),
    lambda: rc.SuccessiveRefinement((1, 1), levels=2, width=1, image_shape=(16, 16, 1)),
    lambda: rc.ResidualCompressor((1, 1), levels=2, width=1, image_shape=(16, 16, 1)),
    lambda: rc.RotationAligned(3, levels=2, width=1, image_shape=(16, 16, 1)),
])  # fmt: skip
def test_one_latent_of_two_levels_is_a_code(make):
    model = make()
    model.compile("sgd")
    model.fit(pictures(), verbose=0)
    model.fit_entropy_model(pictures(20))
    for mode in ("entropy", "fixed"):
        np.testing.assert_array_equal(model.decompress(model.compress(pictures(), mode=mode)), numpy(model(pictures())))


@pytest.mark.parametrize("rule", [rc.DNS, rc.MagnitudePruning, rc.RigL, rc.MovementPruning, rc.RandomPruning])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.999])
def test_equal_weights_and_extreme_sparsities_leave_what_was_asked(rule, sparsity):
    variable = keras.Variable(np.full((32, 64), 0.25, "float32"), name="kernel")
    optimizer = rule(keras.optimizers.SGD(0.1), rc.ConstantSparsity(sparsity, 0, frequency=1))
    optimizer.build([variable])
    optimizer.apply([keras.ops.zeros((32, 64))], [variable])
    cut = int(np.sum(~keras.ops.convert_to_numpy(optimizer.pruned[0].mask)))
    assert cut == round(sparsity * 2048)


def test_gradients_that_are_not_numbers_stop_a_run_with_its_step(tmp_path, capsys):
    words = ["train", *COMPRESSOR, "--latent-dim=3", "--learning-rate=1e30", "--epochs=10", "--checkpoint-steps=1"]
    code = train_compressor.main([*words, f"--train-dir={tmp_path}"])
    if code:  # a saturated sigmoid may keep even this finite
        assert "the loss is" in capsys.readouterr().err
        assert runs.Run(tmp_path).resume(runs.load_model)


@pytest.mark.tensorflow_only
def test_a_classifier_whose_loss_explodes_keeps_its_last_checkpoint(tmp_path, capsys):
    words = ["train", "--dataset=digits", "--model-size=8", "--batch-size=32", "--max-steps=40", "--checkpoint-steps=1"]
    words += ["--learning-rates=0.01,1e35", "--boundaries=5", f"--train-dir={tmp_path}"]
    assert train_resnet_random.main(words) == 2
    error = capsys.readouterr().err.strip()
    assert "the loss is" in error and "checkpoint.keras holds the last good state" in error
    assert runs.Run(tmp_path).resume(runs.load_model)[1].step >= 5


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("count", [1, 3])
def test_a_data_set_smaller_than_a_batch_trains(count, tmp_path):
    words = ["train", *COMPRESSOR, "--latent-dim=2", "--epochs=2", f"--max-images={count}", f"--train-dir={tmp_path}"]
    assert train_compressor.main(words) == 0
    assert runs.Run(tmp_path).finished


@pytest.mark.tensorflow_only
def test_one_class_only_trains(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    labels = np.zeros(40, np.int64)
    np.savez(tmp_path / "one.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = [
        f"--dataset={tmp_path / 'one.npz'}",
        "--model-size=8",
        "--batch-size=16",
        f"--train-dir={tmp_path / 'run'}",
    ]
    words += ["--max-steps=4", "--learning-rates=0.01", "--boundaries="]
    assert train_resnet_random.main(["train", *words]) == 0
    assert train_resnet_random.main(["eval", *words]) == 0


def test_a_model_without_anything_left_is_still_one():
    model = compiled(dense_net(), rc.MagnitudePruning("sgd", rc.ConstantSparsity(0.999, 0)))
    x, y = small_data()
    model.fit(x, y, verbose=0)
    assert np.isfinite(model.predict(x, verbose=0)).all()

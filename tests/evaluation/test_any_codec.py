"""Evaluations of codecs from elsewhere: without gradient, without Keras' layers, and under common corruptions."""

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import tf_robustcomp as rc
from tests.evaluation.toys import CENTRE, gaussian_images, shrinking
from tf_robustcomp.data.corruptions import corrupted, corruptions

FACTOR = 0.5
K = (1 - FACTOR) ** 2


def jpeg(images, quality=30):
    decoded = []
    for image in keras.ops.convert_to_numpy(images):
        file = io.BytesIO()
        Image.fromarray(np.round(image[..., 0] * 255).astype(np.uint8)).save(file, "jpeg", quality=quality)
        decoded.append(np.asarray(Image.open(file))[..., None] / np.float32(255))
    return np.stack(decoded)


@pytest.fixture
def blocks(rng):
    images = rng.random((8, 2, 2, 1)).repeat(8, axis=1).repeat(8, axis=2).astype("float32")
    return np.roll(images, (3, 5), (1, 2))  # away from the blocks of JPEG


def test_a_codec_without_gradient_is_attacked_from_outside(blocks):
    curve = rc.worst_case_curve(jpeg, blocks, [4.0, 2.0], attack="black_box")
    clean, *rows = curve.rows
    for row in rows:
        assert row.attack == "black_box"
        assert row.distortion - row.gamma * row.rho > 1.05 * clean.distortion
    noisy = rc.noise_curve(jpeg, blocks, [rows[-1].rho])
    assert curve.at(rows[-1].rho) > noisy.rows[0].distortion
    if keras.backend.backend() == "jax":  # which gives a function of NumPy no arrays where it takes gradients
        return
    constant = rc.worst_case_curve(jpeg, blocks, [2.0], steps=30, restarts=0, check=0).rows[-1]
    assert rows[-1].distortion - 2 * rows[-1].rho > 0.9 * (constant.distortion - 2 * constant.rho)


def test_an_attack_from_outside_meets_the_closed_form(rng):
    """The map c + f (y - c): its worst case at price g > k is k d / (1 - k/g)^2, from a codec that has no codewords."""
    images, gamma = gaussian_images(rng, count=10), 4 * K
    clean = K * np.sum((images - CENTRE) ** 2.0, axis=(1, 2, 3))
    curve = rc.worst_case_curve(lambda x: shrinking(FACTOR)(np.asarray(x)), images, [gamma], attack="black_box")
    row = curve.rows[-1]
    best = np.mean(clean) / (1 - K / gamma)  # of D - g r
    assert row.distortion - gamma * row.rho <= best * (1 + 1e-5)
    assert row.distortion - gamma * row.rho >= 0.9 * best


MODULE = """
import numpy as np, torch, tf_robustcomp as rc
module = torch.nn.Conv2d(1, 1, 1)
with torch.no_grad():
    module.weight.fill_({factor})
    module.bias.fill_({centre} * (1 - {factor}))
images = np.load("images.npy")
codec = lambda images: module(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
print(rc.worst_case_curve(codec, images, [{gamma}], check=0).at({rho}))
"""


@pytest.mark.slow
def test_a_module_of_pytorch_is_attacked_by_its_gradient(rng, tmp_path):
    """The map of the test above as a module, in the one line of docs/encoders.md: its gradient flows."""
    pytest.importorskip("torch")
    images, gamma = gaussian_images(rng, count=6), 2 * K
    root = math.sqrt(K * np.sum((images - CENTRE) ** 2.0, axis=(1, 2, 3)).mean())
    rho = (math.sqrt(K) * root / (gamma - K)) ** 2  # all images move away from the centre in proportion
    np.save(tmp_path / "images.npy", images)
    script = MODULE.format(factor=FACTOR, centre=CENTRE, gamma=gamma, rho=rho)
    environment = os.environ | {"KERAS_BACKEND": "torch", "PYTHONPATH": str(Path(rc.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx((root + math.sqrt(K * rho)) ** 2, rel=0.02)


def test_black_and_white_boxes_agree_on_a_list():
    """The cutting planes find from outside what the list allows."""
    codewords = np.random.default_rng(2).random((6, 4, 4, 1)).astype("float32")

    def nearest(images):
        images = keras.ops.convert_to_numpy(images)
        squares = np.sum((images[:, None] - codewords) ** 2, axis=(2, 3, 4))
        return codewords[squares.argmin(axis=1)]

    images = np.random.default_rng(3).random((5, 4, 4, 1)).astype("float32")
    curve = rc.worst_case_curve(nearest, images, [1.5], attack="black_box")
    row = curve.rows[-1]
    from tf_robustcomp.evaluation.list_bound import wasserstein_bound

    stack = np.broadcast_to(codewords.reshape(1, 6, 16), (5, 6, 16))
    ceiling = wasserstein_bound(images.reshape(5, 16), stack, 1.5, 200).value.mean()
    assert 0.98 * ceiling <= row.distortion - 1.5 * row.rho <= ceiling * (1 + 1e-6)


def test_an_autoencoder_of_ones_own_is_trained_and_attacked(blocks):
    class Autoencoder(rc.MinMaxTraining):
        def __init__(self):
            super().__init__()
            self.body = keras.Sequential([keras.layers.Conv2D(4, 3, padding="same"), keras.layers.Conv2D(1, 1)])

        def call(self, images, training=False):
            return self.body(images, training=training)

    model = Autoencoder()
    model.compile("adam", adversary=rc.WassersteinBall(gamma=2.0, steps=2))
    model.fit(blocks, epochs=1, verbose=0)
    with pytest.warns(UserWarning, match="no better than the mean image"):
        curve = rc.worst_case_curve(model, blocks, [8.0], steps=3, restarts=0, check=0)
    assert curve.rows[1].distortion > curve.rows[0].distortion


def test_corruptions_are_measured_for_every_model_alike(blocks):
    models = {"half": shrinking(0.5), "jpeg": jpeg}
    curve = rc.corruption_curve(models, blocks, ["fog", "contrast"], [1, 4])
    assert [(row.model, row.corruption, row.severity) for row in curve.rows] == [
        (model, *condition)
        for model in models
        for condition in [("none", 0), ("fog", 1), ("fog", 4), ("contrast", 1), ("contrast", 4)]
    ]
    for row in curve.line("half"):
        changed = corrupted(blocks, row.corruption, row.severity) if row.severity else blocks
        assert row.distortion == pytest.approx(K * np.mean(np.sum((changed - CENTRE) ** 2.0, axis=(1, 2, 3))), rel=1e-4)
        assert row.rho == pytest.approx(np.mean(np.sum((changed.astype("float64") - blocks) ** 2, axis=(1, 2, 3))))
    means = curve.means("half")
    values = {name: [r.distortion for r in curve.line("half") if r.corruption == name] for name in ("fog", "contrast")}
    by_hand = {name: np.mean(value) for name, value in values.items()}
    assert means == pytest.approx(by_hand | {"mean": np.mean(list(by_hand.values()))})
    assert curve.summary().splitlines()[0].split() == ["corruption", "half", "jpeg"]
    assert len(curve.summary().splitlines()) == 5
    assert rc.CorruptionCurve.from_records(curve.to_records()) == curve
    axes = curve.plot()
    assert len(axes.lines) == 2 * 3


def test_all_corruptions_are_the_default(blocks):
    curve = rc.corruption_curve(shrinking(0.5), blocks[:2], severities=[2])
    assert {row.corruption for row in curve.rows} == {"none", *corruptions()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"names": ["frost"]}, "must be"), ({"severities": [6]}, "must be numbers"), ({"severities": []}, "must")],
)
def test_bad_arguments_are_refused(blocks, arguments, message):
    with pytest.raises(rc.InvalidArgument, match=message):
        rc.corruption_curve(shrinking(0.5), blocks, **arguments)

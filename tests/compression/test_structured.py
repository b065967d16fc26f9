"""What is particular to each structured compressor."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.compression.test_model import SMALL, array, bars
from tf_robustcomp.adversaries import LinfBall
from tf_robustcomp.compression import Compressor, ResidualCompressor, RotationAligned, SuccessiveRefinement
from tf_robustcomp.data.shifts import rotate
from tf_robustcomp.utils.errors import InvalidArgument


def moved(before, network):
    """Which of a network's (trainable weights, statistics) have changed."""
    after = [variable.numpy() for variable in network.weights]
    changed = [not np.array_equal(*pair) for pair in zip(before, after, strict=True)]
    kinds = [weight.trainable for weight in network.weights]
    return tuple(any(c for c, k in zip(changed, kinds, strict=True) if k == kind) for kind in (True, False))


@pytest.mark.parametrize(("fraction", "stage"), [(0.0, 1), (1.0, 2)])
@pytest.mark.slow
def test_refinement_trains_only_the_decoder_of_the_batch(fraction, stage):
    model = SuccessiveRefinement((1, 2), **SMALL)
    model.compile(keras.optimizers.Adam(1e-2), adversary=LinfBall(0.02, steps=1), attacked_fraction=fraction)
    before = [[np.array(v.numpy()) for v in network.weights] for network in (model.encoder, *model.decoders)]
    logs = model.fit(bars(16), batch_size=16, verbose=0).history
    assert moved(before[0], model.encoder) == (True, True)
    assert moved(before[stage], model.decoders[stage - 1]) == (True, True)
    assert moved(before[3 - stage], model.decoders[2 - stage]) == (False, False)
    assert (logs["radius"][0] > 0) == (stage == 2)
    assert logs["distortion"][0] > 0


def test_refinement_begins_clean_and_then_tosses_a_coin_that_depends_on_the_seed():
    def attacked(seed, warmup_steps):
        model = SuccessiveRefinement((1, 2), **SMALL)
        model.compile("adam", adversary=LinfBall(0.02, steps=1), warmup_steps=warmup_steps, seed=seed)
        return [bool(model.attacks_at(step)) for step in range(40)]

    tosses = attacked(seed=0, warmup_steps=15)
    assert not any(tosses[:15])
    assert 5 <= sum(tosses[15:]) <= 20
    assert attacked(seed=0, warmup_steps=0)[15:] == tosses[15:]
    assert attacked(seed=1, warmup_steps=0) != attacked(seed=0, warmup_steps=0)


@pytest.mark.slow
def test_refinement_without_an_adversary_trains_both_stages_on_clean_images():
    model = SuccessiveRefinement((1, 2), **SMALL)
    x = bars()
    model.compile(keras.optimizers.Adam(1e-2))
    before = [float(ops.mean(model.distortion(x, model(x, stage=stage)))) for stage in (1, 2)]
    model.fit(x, batch_size=16, epochs=8, verbose=0)
    after = [float(ops.mean(model.distortion(x, model(x, stage=stage)))) for stage in (1, 2)]
    assert after[0] < before[0] and after[1] < before[1]


def test_residual_stage_one_is_the_first_compressor_and_stays_frozen():
    trained = Compressor(1, **SMALL)
    model = ResidualCompressor((1, 2), **SMALL)
    model.first.set_weights(trained.get_weights())
    x = bars(8)
    np.testing.assert_array_equal(array(model(x, stage=1)), array(trained(x)))
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(x, batch_size=4, epochs=2, verbose=0)
    for one, other in zip(model.first.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_residual_second_code_is_that_of_the_difference():
    model = ResidualCompressor((1, 2), **SMALL)
    x = bars(4)
    coarse = array(model(x, stage=1))
    z2 = model.quantizer.symbols(model.encoder(x - coarse))
    np.testing.assert_array_equal(array(model.encode(x))[:, 1:], array(z2))
    fine = np.clip(coarse + array(model.decoder(model.quantizer.values(z2))), 0, 1)
    np.testing.assert_allclose(array(model(x)), fine, atol=1e-6)


def test_residual_output_is_clipped_towards_the_image_at_inference_only():
    model = ResidualCompressor((1, 2), **SMALL)
    last = model.decoder.layers[-2]
    last.bias.assign([3.0])  # the second decoder adds about 1 everywhere
    x = bars(4)
    assert array(model(x)).max() == 1.0
    assert array(model(x, training=True)).max() > 1.2


def test_aligned_angle_has_distinct_levels_equally_far_apart_round_the_circle():
    model = RotationAligned(3, levels=12, width=1, image_shape=(16, 16, 1))
    symbols = np.stack(np.divmod(np.arange(144), 12), axis=1)
    angles = array(model._angle(ops.convert_to_tensor(symbols)))
    np.testing.assert_allclose(np.diff(angles), 2.5, atol=1e-4)
    assert angles[0] == -180 and len(np.unique(np.round(angles % 360, 3))) == 144
    radians = np.deg2rad(angles + 1.0)  # less than half a step away
    direction = 3.0 * np.stack([np.cos(radians), np.sin(radians)], axis=1).astype("float32")
    np.testing.assert_array_equal(array(model._angle_symbols(ops.convert_to_tensor(direction))), symbols)
    just_below_the_jump = ops.convert_to_tensor([[-1.0, 0.001]])
    np.testing.assert_array_equal(array(model._angle_symbols(just_below_the_jump)), [[0, 0]])


def test_aligned_turns_upright_codes_and_turns_back():
    model = RotationAligned(3, **SMALL)
    x = bars(4)
    angle = array(model.angle(x))
    upright = rotate(x, ops.convert_to_tensor(-angle))
    back = rotate(model.upright(upright), ops.convert_to_tensor(angle))
    np.testing.assert_array_equal(array(model(x)), array(back))
    np.testing.assert_array_equal(array(model.encode(x))[:, 2:], array(model.upright.encode(array(upright))))


@pytest.mark.slow
def test_aligned_angle_net_learns_the_turn():
    """An image that points somewhere, so that its turn can be seen."""
    arrow = np.zeros((1, 16, 16, 1), "float32")
    arrow[:, 7:9, 8:15] = 1.0
    model = RotationAligned(3, levels=12, width=4, image_shape=(16, 16, 1))
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(np.repeat(arrow, 512, axis=0), batch_size=32, epochs=6, verbose=0)
    wanted = np.arange(-170, 180, 20).astype("float32")
    found = array(model.angle(array(rotate(np.repeat(arrow, len(wanted), axis=0), ops.convert_to_tensor(wanted)))))
    error = np.abs((found - wanted + 180) % 360 - 180)
    assert np.median(error) < 15


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SuccessiveRefinement((3,)), "stage_dims must be two integers. Received: stage_dims=(3,)"),
        (lambda: ResidualCompressor((3, 0)), "latent dimension must be an integer >= 1"),
        (lambda: RotationAligned(2), "latent_dim must be an integer >= 3. Received: latent_dim=2"),
        (
            lambda: SuccessiveRefinement((1, 1), **SMALL).compile("adam", attacked_fraction=1.5),
            "attacked_fraction must lie in [0, 1]",
        ),
        (lambda: SuccessiveRefinement((1, 1), **SMALL)(bars(1), stage=3), "stage must be at most 2"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(InvalidArgument) as error:
        make()
    assert message in str(error.value)

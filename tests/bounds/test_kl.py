import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from tf_robustcomp.bounds.kl import KINDS, generalization_bound, kl, kl_inverse, least_bits
from tf_robustcomp.utils.errors import InvalidArgument


@pytest.mark.parametrize(
    ("examples", "error", "bits", "occam", "catoni"),
    [(50000, 0.3216, 8258.01476, 0.5591582, 0.5596506), (60000, 0.0415, 4574.30076, 0.1392890, 0.1397704)],
)
def test_published_networks_have_the_known_bounds(examples, error, bits, occam, catoni):
    assert generalization_bound(error, bits, examples) == pytest.approx(occam, abs=1e-7)
    assert generalization_bound(error, bits, examples, kind="catoni") == pytest.approx(catoni, abs=1e-7)


@pytest.mark.parametrize(("accuracy", "bits"), [(1.0, 166092), (0.888, 123045), (0.674, 68883), (0.208, 3681)])
def test_random_labels_need_the_known_bits(accuracy, bits):
    assert round(least_bits(1 - accuracy, 0.9, 50000)) == bits


def test_kl_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for q, p in rng.uniform(0.001, 0.999, (100, 2)):
        assert kl(q, p) == pytest.approx(special.rel_entr(q, p) + special.rel_entr(1 - q, 1 - p), rel=1e-9, abs=1e-12)
    assert kl(0, 0) == kl(1, 1) == 0 and kl(0.5, 1) == math.inf


def test_the_inverse_inverts_kl():
    for q in (0.0, 1e-4, 0.1, 0.5, 0.99):
        for p in np.linspace(q, 0.9999, 7):
            if p > q:
                assert kl_inverse(q, kl(q, p)) == pytest.approx(p, abs=1e-9)
    assert kl_inverse(1.0, 0.3) == 1.0


def test_the_inverse_is_the_root_that_scipy_finds():
    for q, c in ((0.02, 0.04), (0.3, 0.1), (0.0, 0.01)):
        root = optimize.brentq(
            lambda p, q=q, c=c: special.rel_entr(q, p) + special.rel_entr(1 - q, 1 - p) - c, q + 1e-15, 1 - 1e-12
        )
        assert kl_inverse(q, c) == pytest.approx(root, abs=1e-9)


@pytest.mark.parametrize(("errors", "n", "bits"), [(0, 50, 3.0), (7, 100, 10.0), (40, 2000, 25.0), (99, 100, 1.0)])
def test_the_binomial_tail_is_that_of_scipy(errors, n, bits):
    level = 0.05 * 2.0**-bits
    root = optimize.brentq(lambda p: stats.binom.cdf(errors, n, p) / level - 1, errors / n + 1e-12, 1 - 1e-15)
    assert generalization_bound(errors / n, bits, n, kind="binomial") == pytest.approx(root, abs=1e-9)


def test_catoni_is_the_minimum_that_a_fine_grid_finds():
    q, nats, n = 0.2, 300 * math.log(2) + math.log(20), 5000
    scales = np.exp(np.linspace(1e-6, math.log(100 * n), 200001))
    union = 2 * np.log(2 + np.log(scales) / math.log1p(1e-4))
    values = -np.expm1(-scales / n * (q + (1 + 1e-4) / scales * (nats + union))) / -np.expm1(-scales / n)
    assert generalization_bound(q, 300, n, kind="catoni") == pytest.approx(values.min(), abs=1e-7)


def test_langford_seeger_pays_for_both_sides():
    expected = kl_inverse(0.1, (50 * math.log(2) + math.log(2 * math.sqrt(1000) / 0.05)) / 1000)
    assert generalization_bound(0.1, 50, 1000, kind="langford-seeger") == expected


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_lie_between_the_training_error_and_1_and_grow_with_bits(kind):
    bounds = [generalization_bound(0.1, bits, 1000, kind=kind) for bits in (0, 10, 100, 1000, 1e6)]
    assert bounds == sorted(bounds) and bounds[0] > 0.1 and bounds[-1] <= 1
    assert generalization_bound(1.0, 5, 1000, kind=kind) == 1.0


def test_the_binomial_tail_is_the_least_and_catoni_the_largest():
    bounds = {kind: generalization_bound(0.03, 4000, 60000, kind=kind) for kind in KINDS}
    assert bounds["binomial"] < bounds["occam"] < bounds["langford-seeger"] < bounds["catoni"]


def test_least_bits_inverts_the_bound():
    bits = least_bits(0.1, 0.5, 1000)
    assert generalization_bound(0.1, bits, 1000) == pytest.approx(0.5, abs=1e-9)
    assert least_bits(0.6, 0.5, 1000) == 0.0


@pytest.mark.parametrize("kind", ["occam", "binomial"])
def test_in_simulations_the_bound_fails_for_no_network_more_often_than_delta(kind):
    """10,000 draws of a class of 16 networks, one true error each; the network of least bound is chosen each time."""
    rng, n, delta, draws = np.random.default_rng(0), 60, 0.2, 10000
    true = np.linspace(0.05, 0.6, 16)
    bits = np.array([1 + i if i < 15 else 15 for i in range(16)])  # 2^-1 + ... + 2^-15 + 2^-15 = 1
    table = np.array([[generalization_bound(k / n, b, n, delta, kind) for k in range(n + 1)] for b in bits])
    bounds = table[np.arange(16), rng.binomial(n, true, (draws, 16))]
    assert np.mean((bounds < true).any(axis=1)) <= delta
    chosen = bounds.argmin(axis=1)
    assert np.mean(bounds[np.arange(draws), chosen] < true[chosen]) <= delta


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"training_error": 1.2}, "training_error must lie in"),
        ({"training_error": math.nan}, "training_error must lie in"),
        ({"delta": 0.0}, "delta must lie in"),
        ({"delta": 1.0}, "delta must lie in"),
        ({"examples": 0}, "examples must be an integer >= 1"),
        ({"bits": -1}, "bits must be a number >= 0"),
        ({"bits": math.inf}, "bits must be a number >= 0"),
        ({"kind": "hoeffding"}, "kind must be"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    with pytest.raises(InvalidArgument, match=message) as caught:
        generalization_bound(**({"training_error": 0.1, "bits": 10, "examples": 100} | arguments))
    assert "\n" not in str(caught.value)


def test_least_bits_refuses_bad_input():
    with pytest.raises(InvalidArgument, match="true_error must lie in"):
        least_bits(0.1, 1.5, 100)
    with pytest.raises(InvalidArgument, match="examples must be"):
        least_bits(0.1, 0.5, 0)

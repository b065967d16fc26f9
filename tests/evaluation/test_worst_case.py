import keras
import numpy as np
import pytest
from scipy.spatial import ConvexHull

import tf_robustcomp as rc
from tests.evaluation.toys import CENTRE, gaussian_images, shrinking
from tf_robustcomp.evaluation import attackers, gradient_free, worst_case
from tf_robustcomp.evaluation.models import StageJob
from tf_robustcomp.evaluation.points import AttackedPoints, concave_envelope
from tf_robustcomp.evaluation.worst_case import WorstCaseCurve, worst_case_curve

FACTOR, K = 0.4, 0.36  # k = (1 - 0.4)^2
GAMMAS = [8.0, 4.0, 2.0, 1.0, 0.6]


@pytest.fixture(scope="module")
def images():
    return gaussian_images(np.random.default_rng(3))


@pytest.fixture(scope="module")
def toy_curve(images):
    return worst_case_curve({"toy": shrinking(FACTOR)}, images, GAMMAS, check=4)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(2)
    return rc.Compressor(3, levels=4, width=2, image_shape=(16, 16, 1))


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(5).random((6, 16, 16, 1)).astype("float32")


def test_a_linear_toy_meets_its_closed_form(toy_curve, images):
    # sup of k |y|^2 - g |y - z|^2 over y, z = x - c, is at y = z g / (g - k).
    energy = np.sum((images - CENTRE) ** 2.0, axis=(1, 2, 3)).mean(dtype="float64")
    for row in toy_curve.rows[1:]:
        assert row.rho == pytest.approx((K / (row.gamma - K)) ** 2 * energy, rel=0.01)
        assert row.distortion == pytest.approx(K * (row.gamma / (row.gamma - K)) ** 2 * energy, rel=0.01)
        assert row.gain < 1e-3 and row.evaluations >= 5


def test_the_worst_case_over_a_ball_around_gaussians_is_the_closed_form(toy_curve, images):
    # Over all distributions within rho: k (sqrt(E) + sqrt(rho))^2, reached by scaling (Gelbrich 1990).
    energy = np.sum((images - CENTRE) ** 2.0, axis=(1, 2, 3)).mean(dtype="float64")
    for row in toy_curve.rows:
        assert toy_curve.at(row.rho) == pytest.approx(K * (np.sqrt(energy) + np.sqrt(row.rho)) ** 2, rel=0.01)


def test_without_budget_the_worst_case_is_the_clean_set(toy_curve, images):
    clean = toy_curve.rows[0]
    assert (clean.gamma, clean.rho, clean.attack) == (np.inf, 0.0, "none")
    assert clean.distortion == pytest.approx(K * np.sum((images - CENTRE) ** 2) / len(images), rel=1e-5)
    far = worst_case_curve(shrinking(FACTOR), images, [1e6], check=0).rows[1]
    assert far.rho < 1e-9 and far.distortion == pytest.approx(clean.distortion, rel=1e-4)


@pytest.mark.parametrize("method", ["shrinking", "compressor"])
def test_distortion_and_radius_do_not_fall_as_gamma_falls(method, toy_curve, model, pictures):
    curve = toy_curve
    if method == "compressor":  # an attack too short to converge, so that only the rule can hold the order
        curve = worst_case_curve(model, pictures, [3, 2, 1, 0.5, 0.3, 0.1], steps=3, restarts=0, check=0)
    for name in ("rho", "distortion"):
        values = [getattr(row, name) for row in curve.rows]
        assert values == sorted(values)


def test_an_image_takes_the_best_point_found_at_any_price():
    points = AttackedPoints.clean(np.array([1.0, 1.0]))
    points = points.with_point([4.0, 1.0], [9.0, 2.0], "one").with_point([1.0, 2.0], [5.0, 6.0], "other")
    climbs = [attackers.Climb(gamma, 1, 0.0, 0.0) for gamma in (2.0, 1.0)]
    job = StageJob(None, 1, {"model": "m", "stage": 1, "stages": 1}, None)
    rows = list(worst_case._rows(job, points, climbs, "converged"))
    # Price 2: image one has 1 (clean), 9 - 8, 5 - 2 -> 3; image two 1, 2 - 2, 6 - 4 -> 2.
    # Price 1: image one has 1, 9 - 4, 5 - 1 -> 5 by the first of equals; image two 1, 1, 4 -> 4.
    assert [(row.rho, row.distortion) for row in rows] == [(0, 1), (1.5, 5.5), (3, 7.5)]
    rows = list(worst_case._rows(job, points, climbs, "paper"))
    assert [(row.rho, row.distortion) for row in rows] == [(0, 1), (2.5, 5.5), (1.5, 5.5)]


def test_standard_errors_are_those_of_a_mean_over_images(toy_curve, images):
    values = K * np.sum((images - CENTRE) ** 2.0, axis=(1, 2, 3))
    assert toy_curve.rows[0].distortion_error == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)), rel=1e-4)
    assert toy_curve.rows[0].images == len(images)


def test_the_envelope_is_the_upper_hull(rng):
    for _ in range(50):
        x, y = rng.random(12), rng.random(12)
        vertices = np.stack(concave_envelope(x, y), axis=1)
        # The hull of the points, all that is below and all that is right of them, is bounded by the envelope.
        added = [[x.min(), -5], [9, -5], [9, y.max()]]
        hull = ConvexHull(np.concatenate([np.stack([x, y], axis=1), added]))
        corners = {tuple(hull.points[i]) for i in hull.vertices} - {tuple(map(float, point)) for point in added}
        assert {tuple(vertex) for vertex in vertices} == corners
        assert np.all(np.interp(x, *vertices.T) >= y - 1e-12)


def test_the_envelope_is_never_below_a_point_and_flat_beyond_the_last(toy_curve):
    for row in toy_curve.rows:
        assert toy_curve.at(row.rho) >= row.distortion - 1e-12
    greatest = toy_curve.points["toy"].distortion.max(axis=1).mean()
    assert toy_curve.at(1e9) == pytest.approx(greatest) and greatest >= max(row.distortion for row in toy_curve.rows)
    means = WorstCaseCurve(toy_curve.rows)  # as it is read from a file: without the points of every image
    assert means.at(1e9) == max(row.distortion for row in toy_curve.rows)


def test_the_paper_s_attack_is_the_paper_s(model, pictures):
    row = worst_case_curve(model, pictures, [1.0], attack="paper", check=0).rows[1]
    result = rc.WassersteinBall(gamma=1.0, steps=15).attack(model, pictures)
    assert row.evaluations == 15
    assert row.rho == pytest.approx(np.mean(keras.ops.convert_to_numpy(result.radius)), rel=1e-5)
    assert row.distortion == pytest.approx(np.mean(keras.ops.convert_to_numpy(result.distortion)), rel=1e-5)


def test_a_search_without_gradients_finds_what_an_attack_left(images):
    gamma = 1.0
    toy = shrinking(FACTOR)
    row = worst_case_curve(toy, images, [gamma], check=8).rows[1]
    assert 0 <= row.gradient_free_gain < 0.01
    left = gradient_free.search_gain(toy, 1, images, images, gamma, rounds=300)
    # From the clean images up to the closed form: the objective grows from k E to k g / (g - k) E.
    assert 0.9 * K / (gamma - K) < left <= K / (gamma - K) * 1.001


@pytest.mark.slow
def test_structured_models_have_a_line_for_each_stage(pictures):
    model = rc.SuccessiveRefinement((1, 2), levels=4, width=2, image_shape=(16, 16, 1))
    curve = worst_case_curve({"both": model}, pictures, [1.0], steps=3, check=0)
    assert list(curve.lines()) == ["both, stage 1", "both, stage 2"]
    for stage in (1, 2):
        clean = np.mean(keras.ops.convert_to_numpy(model.distortion(pictures, model(pictures, stage=stage))))
        assert curve.line(f"both, stage {stage}")[0].distortion == pytest.approx(clean, rel=1e-5)


@pytest.mark.parametrize(
    ("gammas", "message"),
    [
        ([], "gammas must be numbers > 0"),
        ([1.0, 0.0], "gammas must be numbers > 0"),
        ([1.0, np.nan], "gammas must be numbers > 0"),
        ([1.0, 2.0, 1.5], "gammas must be sorted"),
        ([1.0, 1.0], "gammas must be sorted"),
    ],
)
def test_gammas_that_break_their_rule_are_refused(gammas, message, images):
    with pytest.raises(rc.InvalidArgument, match=message):
        worst_case_curve(shrinking(FACTOR), images, gammas)


def test_rising_gammas_are_taken(images):
    rows = worst_case_curve(shrinking(FACTOR), images, [1.0, 2.0], check=0).rows
    assert [row.gamma for row in rows] == [np.inf, 2.0, 1.0]


def test_other_bad_arguments_are_refused(images, model, pictures):
    with pytest.raises(rc.InvalidArgument, match="attack must be"):
        worst_case_curve(shrinking(FACTOR), images, [1.0], attack="strong")
    with pytest.raises(rc.InvalidArgument, match="models must take images of one shape"):
        other = rc.Compressor(3, levels=4, width=2, image_shape=(32, 32, 1))
        worst_case_curve([model, other], pictures, [1.0])
    with pytest.raises(rc.InvalidArgument, match="at least one model"):
        worst_case_curve([], pictures, [1.0])
    with pytest.raises(rc.InvalidArgument, match="must have shape"):
        worst_case_curve(model, images, [1.0])
    curve = worst_case_curve({"a": shrinking(0.1), "b": shrinking(0.2)}, images, [1.0], steps=2, check=0)
    with pytest.raises(rc.InvalidArgument, match="label must be one of a, b"):
        curve.at(1.0)
    with pytest.raises(rc.InvalidArgument, match="rho must be >= 0"):
        curve.at(-1.0, "a")


def test_a_trail_keeps_what_mixtures_need_and_who_found_it(rng):
    points = AttackedPoints.clean(rng.random(5)).with_point(rng.random(5), rng.random(5) * 4, "one")
    radius, distortion = rng.random((5, 30)), rng.random((5, 30)) * 5
    names = [f"step {number}" for number in range(30)]
    shorter = points.with_trail(radius, distortion, names)
    every = AttackedPoints(*(np.hstack(pair) for pair in zip(points, (radius, distortion, [names] * 5), strict=True)))
    np.testing.assert_allclose(np.interp(np.linspace(0, 1, 9), *shorter.curve()), every.at(np.linspace(0, 1, 9)))
    for row in range(5):
        known = set(zip(every.radius[row], every.distortion[row], every.finder[row], strict=True))
        assert set(zip(shorter.radius[row], shorter.distortion[row], shorter.finder[row], strict=True)) <= known
    assert shorter.radius.shape[1] < 32


def test_points_and_who_found_them_are_kept_with_the_results(toy_curve):
    again = type(toy_curve).from_records(toy_curve.to_records(), toy_curve.attachments())
    assert set(again.points["toy"].finder.ravel()) == set(toy_curve.points["toy"].finder.ravel()) > {"none"}
    assert again.at(2.0) == toy_curve.at(2.0)

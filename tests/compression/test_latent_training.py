"""Codecs for photographs are trained, attacked, and searched."""

import numpy as np
import pytest

import tf_robustcomp as rc
from tests.compression.latents import MAKERS, codec, numpy, photographs, rate_features
from tf_robustcomp.compression import photograph_stream, tiles


@pytest.fixture(params=MAKERS)
def model(request):
    return codec(request.param)


def test_the_start_is_the_best_linear_transform(model):
    """Coded with fine steps, the error is that of dropping all but the largest eigenvectors of the blocks."""
    images = photographs(50, 80, 112, 3)
    model.start_from(images)
    blocks = np.stack(
        [image[r : r + 16, c : c + 16].ravel() for image in images for r in range(0, 80, 16) for c in range(0, 112, 16)]
    )
    values = np.linalg.eigvalsh((blocks - 0.5).T @ (blocks - 0.5))
    features = rate_features(0.5)
    found = numpy(model.synthesis(model.analysis(images, features), features))
    assert np.sum((found - images) ** 2) == pytest.approx(values[: -model.latents].sum(), rel=1e-3)
    with pytest.raises(rc.InvalidArgument, match="start_from needs"):
        model.start_from(images[:2])


def test_training_lowers_rate_and_distortion(model):
    images = photographs(16, 64, 64, 3)

    def cost():
        bits = numpy(model.rates(images)).mean() / 64**2
        return bits + 0.009 * 255**2 * ((numpy(model(images)) - images) ** 2).mean()

    before = cost()
    model.compile(rc.Adam(2e-3))
    history = model.fit(images, epochs=12, batch_size=8, verbose=0).history
    assert cost() < 0.7 * before and set(history) >= {"loss", "distortion"}


@pytest.mark.slow
def test_training_takes_ms_ssim_for_its_distortion():
    model, images = codec("factorized"), photographs(8, 64, 64, 3)
    model.compile(rc.Adam(2e-3), distortion="msssim")
    assert model.get_compile_config()["distortion"] == "msssim"
    losses = model.fit(images, epochs=6, batch_size=8, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    with pytest.raises(rc.InvalidArgument, match="distortion must be"):
        model.compile("adam", distortion="psnr")


@pytest.mark.slow
def test_training_against_an_adversary_is_that_of_every_compressor():
    model = codec("hyperprior")
    model.compile("adam", adversary=rc.WassersteinBall(gamma=1.0, steps=2))
    results = model.fit(photographs(4, 64, 64, 3), batch_size=4, verbose=0).history
    assert results["adversarial_distortion"][0] >= results["distortion"][0] - 1e-3


@pytest.mark.parametrize("attacked", ["rate", "both"])
@pytest.mark.slow
def test_training_takes_the_rate_for_its_adversary(attacked):
    model = codec("factorized")
    model.compile("adam", adversary=rc.LinfBall(epsilon=0.02, steps=2), attacked=attacked)
    assert model.get_compile_config()["attacked"] == attacked
    model.fit(photographs(4, 64, 64, 3), batch_size=4, verbose=0)
    with pytest.raises(rc.InvalidArgument, match="attacked must be"):
        model.compile("adam", attacked="size")


@pytest.mark.slow
def test_an_attack_on_the_rate_makes_files_larger(model):
    images = photographs(2, 64, 64, 3)
    model.start_from(photographs(60, 64, 128, 3, seed=2)).fit_entropy_model()
    squares = np.sum((numpy(model(images, objective="rate")) - images) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(squares, numpy(model.rates(images)), rtol=1e-3)
    attacked = numpy(rc.LinfBall(epsilon=0.03, steps=8).attack(model, images, objective="rate").x)
    clean, larger = (len(model.compress(np.clip(x, 0, 1))) for x in (images, attacked))
    assert larger > clean
    assert (numpy(model.rates(attacked)) > 1.02 * numpy(model.rates(images))).all()


@pytest.mark.slow
def test_a_search_never_costs_more_and_streams_stay_the_same(model):
    """Its rate + lambda * distortion, computed here from the stream, is at most that of the network's code."""
    images = photographs(2, 70, 64, 3)
    model.start_from(photographs(60, 64, 128, 3, seed=2)).fit_entropy_model()
    encoder = rc.SearchEncoder(gradient_steps=8)

    def costs(**kwargs):
        found = []
        for image in images:
            data = model.compress(image[None], quality=0.8, **kwargs)
            error = 255**2 * np.mean((model.decompress(data) - image) ** 2)
            lowest, highest = model.lambdas
            found.append(8 * len(data) + lowest * (highest / lowest) ** 0.8 * error * 70 * 64)
        return np.array(found)

    clean, searched = costs(), costs(encoder=encoder)
    assert (searched <= clean + 32).all() and searched.sum() < 0.999 * clean.sum()  # streams end at whole words
    data = model.compress(images, quality=0.8, encoder=encoder)
    assert data == model.compress(images, quality=0.8, encoder=encoder)  # no random numbers
    assert np.array_equal(model.decompress(data), model.decode(model.encode(images, 0.8, encoder)))
    code = model.encode(images, 0.8)
    for number, one in enumerate(code):
        bits = photograph_stream.estimated_bits(model, one)
        squares = np.sum((model.decode(one) - images[number]) ** 2)
        assert model.cost(images, code)[number] == pytest.approx(bits + model.price_per_pixel(0.8) * squares, rel=1e-4)


@pytest.mark.slow
def test_a_large_image_is_searched_tile_by_tile(model, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", 64)
    images = photographs(1, 70, 150, 3)
    model.start_from(photographs(60, 64, 128, 3, seed=2)).fit_entropy_model()
    code = model.encode(images, 0.8, rc.SearchEncoder(gradient_steps=4))
    assert model.cost(images, code)[0] <= model.cost(images, model.encode(images, 0.8))[0]


@pytest.mark.parametrize(
    "encoder", [rc.NetworkEncoder(), rc.SearchEncoder(budget=2), rc.BestOf([rc.SearchEncoder(0, 0)])]
)
def test_an_encoder_without_a_search_gives_the_code_of_the_network(encoder):
    model, images = codec("hyperprior"), photographs(1, 64, 64, 3)
    assert model.compress(images, encoder=encoder) == model.compress(images)


@pytest.mark.parametrize("encoder", [rc.TransformedEncoder(), rc.SearchEncoder(starts=rc.ListEncoder([[1, 2]]))])
def test_encoders_of_models_of_one_size_are_refused(encoder):
    with pytest.raises(rc.InvalidArgument, match="encoder must be a NetworkEncoder or a SearchEncoder"):
        codec("factorized").compress(photographs(1, 64, 64, 3), encoder=encoder)

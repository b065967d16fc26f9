"""Every encoder on every compressor: never worse than the network, within its budget, the same each time."""

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tests.compression.test_bitstream import MAKERS, SHAPE, pictures, spread
from tests.sampling import sampled
from tf_robustcomp.compression import bitstream
from tf_robustcomp.compression.encoders import base
from tf_robustcomp.compression.symbols import decode_all, encode_all

numpy = keras.ops.convert_to_numpy


class Random(rc.Encoder):
    """Offers codes that are mostly bad."""

    def improve(self, search):
        rng = np.random.default_rng(3)
        for _ in range(3):
            rows = search.rows()
            search.offer(rows, rng.integers(-2, search.model.levels + 2, search.symbols[rows].shape))


def listed(model):
    return rc.ListEncoder.fit(model, pictures(model, 40, seed=5))


ENCODERS = {
    "network": lambda model: rc.NetworkEncoder(),
    "search": lambda model: rc.SearchEncoder(sweeps=1, gradient_steps=4),
    "sweeps": lambda model: rc.SearchEncoder(gradient_steps=0, budget=7),
    "list": listed,
    "started": lambda model: rc.SearchEncoder(sweeps=1, gradient_steps=0, starts=listed(model)),
    "best": lambda model: rc.BestOf([listed(model), rc.SearchEncoder(gradient_steps=0, sweeps=1)], budget=9),
    "transformed": lambda model: rc.TransformedEncoder(),
    "random": lambda model: Random(),
}


@pytest.fixture(scope="module", params=MAKERS)
def model(request):
    keras.utils.set_random_seed(4)
    return spread(MAKERS[request.param]()).fit_entropy_model(pictures_of(request.param))


def pictures_of(name):
    return pictures(MAKERS[name](), 60, seed=1)


def lively():
    """A compressor whose decoded images differ much from code to code, on every backend."""
    keras.utils.set_random_seed(4)
    model = MAKERS["standard"]()
    rng = np.random.default_rng(6)
    for variable in model.decoder.trainable_variables:
        if variable.name == "kernel":
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(rng.normal(scale=2.5 / np.sqrt(fan_in), size=variable.shape))
    return spread(model).fit_entropy_model(pictures_of("standard"))


@pytest.fixture(scope="module")
def plain():
    return lively()


def squares(images, decoded):
    return np.sum((images.astype("float64") - decoded) ** 2, axis=(1, 2, 3))


@pytest.mark.parametrize("name", sampled(ENCODERS, 0, 1, 5, 7))
def test_no_code_is_further_than_the_network_s_and_none_is_random(model, name):
    images, encoder = pictures(model, 9, seed=2), ENCODERS[name](model)
    for stage in range(1, model.stages + 1):
        network = encode_all(model, images, stage)
        symbols = encoder(model, images, stage)
        assert symbols.dtype == np.int32 and symbols.shape == network.shape
        assert symbols.min() >= 0 and symbols.max() < model.levels
        own, found = (squares(images, decode_all(model, codes, stage)) for codes in (network, symbols))
        assert (found <= own * (1 + 1e-9)).all()
        if name == "network":
            np.testing.assert_array_equal(symbols, network)
        np.testing.assert_array_equal(ENCODERS[name](model)(model, images, stage), symbols)


@pytest.mark.parametrize("name", sampled(ENCODERS, 1, 3))
def test_a_stream_is_decoded_as_before_and_is_better_at_every_stage(model, name):
    images = pictures(model, 9, seed=2)
    encoder = ENCODERS[name](model)
    data = model.compress(images, encoder=encoder)
    symbols = encoder.encode_stages(model, images)
    for stage in range(1, model.stages + 1):
        decoded = model.decompress(data, stage)
        np.testing.assert_array_equal(decoded, decode_all(model, symbols[:, : model.stage_width(stage)], stage))
        own = squares(images, numpy(model(images, stage=stage)))
        assert (squares(images, decoded) <= own * (1 + 1e-5)).all()


def test_a_search_betters_most_images(plain):
    images = pictures(plain, 30, seed=2)
    own, sweeps, gradient = (
        squares(images, decode_all(plain, encoder(plain, images)))
        for encoder in (rc.NetworkEncoder(), rc.SearchEncoder(gradient_steps=0), rc.SearchEncoder(sweeps=0))
    )
    assert np.mean(sweeps < own) > 0.5 and np.mean(gradient < own) > 0.3


def test_a_search_ends_where_no_neighbouring_code_is_nearer(plain):
    images = pictures(plain, 6, seed=2)
    symbols = rc.SearchEncoder(sweeps=50, gradient_steps=0)(plain, images)
    reached = squares(images, decode_all(plain, symbols))
    for latent in range(plain.latent_dim):
        for move in (-1, 1):
            tried = symbols.copy()
            tried[:, latent] = np.clip(tried[:, latent] + move, 0, plain.levels - 1)
            assert (squares(images, decode_all(plain, tried)) >= reached * (1 - 1e-5)).all()


@pytest.mark.parametrize("budget", [1, 2, 5, 17, 40])
def test_budgets_are_kept(plain, budget):
    images, decoded = pictures(plain, 8), 0
    for encoder in (
        rc.SearchEncoder(budget=budget),
        rc.BestOf([rc.TransformedEncoder(), rc.SearchEncoder(gradient_steps=0)], budget=budget),
        rc.BestOf([rc.TransformedEncoder(budget=budget)]),
    ):
        search = encoder.search(plain, images, 1)
        assert (search.used <= budget).all() and search.used.max() > 0
        decoded = max(decoded, search.used.max())
    assert decoded == budget


def test_what_a_search_counts_is_what_it_decodes(plain):
    counted = np.zeros(5, int)

    def decode(model, symbols, stage):
        counted[: len(symbols)] += 1  # the rows that are left move up; their number is what counts
        return decode_all(model, symbols, stage)

    images = pictures(plain, 5)
    search = base.CodeSearch(plain, images, encode_all(plain, images), 1, decode=decode)
    rc.SearchEncoder(gradient_steps=0).improve(search)
    assert counted.sum() - 5 == search.used.sum()


# Lists.


def test_the_nearest_of_a_list_is_the_nearest_of_all(plain):
    images, encoder = pictures(plain, 12, seed=8), listed(plain)
    decoded = decode_all(plain, encoder.codes)
    distances = np.array([squares(np.broadcast_to(x, decoded.shape), decoded) for x in images])
    found, reached = encoder.nearest(plain, images, count=3)
    np.testing.assert_allclose(reached, np.sort(distances, axis=1)[:, :3], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(distances, found, axis=1), reached, rtol=1e-5)
    coded = squares(images, decode_all(plain, encoder(plain, images)))
    assert (coded <= distances.min(axis=1) * (1 + 1e-5)).all()


@pytest.mark.parametrize("budget", [1, None])
def test_every_list_is_scanned_whatever_the_budget(plain, budget):
    encoder = rc.BestOf([rc.SearchEncoder(gradient_steps=0), listed(plain)], budget=budget)
    images = np.random.default_rng(0).random((20, *plain.image_shape), dtype="float32")
    least = encoder.lists[0].nearest(plain, images)[1][:, 0]
    assert (squares(images, decode_all(plain, encoder(plain, images))) <= least * (1 + 1e-5)).all()


def test_a_list_is_a_file_of_its_own(plain, tmp_path):
    encoder = listed(plain)
    encoder.save(tmp_path / "codes.npz")
    loaded = rc.ListEncoder.load(tmp_path / "codes.npz")
    np.testing.assert_array_equal(loaded.codes, encoder.codes)
    assert loaded.model_fingerprint == encoder.model_fingerprint and repr(loaded) == repr(encoder)
    images = pictures(plain, 5)
    np.testing.assert_array_equal(loaded(plain, images), encoder(plain, images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: rc.ListEncoder(np.zeros((0, 4), int)), "at least one code"),
        (lambda m: rc.ListEncoder(np.zeros(4, int)), "shape"),
        (lambda m: rc.ListEncoder(np.zeros((3, 4))), "integers"),
        (lambda m: rc.ListEncoder(np.zeros((3, 5), int)), "codes of 5 symbols, the model's have 4"),
        (lambda m: rc.ListEncoder(np.full((3, 4), 5)), "symbols from 5 to 5"),
        (lambda m: rc.ListEncoder(np.zeros((3, 4), int), b"0" * 16), "of another model"),
        (lambda m: rc.SearchEncoder(budget=0), "budget must be an integer >= 1"),
        (lambda m: rc.SearchEncoder(sweeps=-1), "sweeps must be"),
        (lambda m: rc.SearchEncoder(starts="list"), "starts must be a ListEncoder"),
        (lambda m: rc.BestOf([]), "one or more encoders"),
        (lambda m: rc.BestOf([listed(m)], budget=0), "budget must be"),
    ],
)
def test_bad_encoders_are_refused(plain, make, message):
    with pytest.raises(rc.InvalidArgument, match=message):
        make(plain)(plain, pictures(plain, 2))


def test_files_that_are_no_lists_are_named(tmp_path):
    path = tmp_path / "codes.npz"
    with pytest.raises(rc.DataError, match="no such file"):
        rc.ListEncoder.load(path)
    path.write_bytes(b"PK\3\4 junk")
    with pytest.raises(rc.DataError, match="codes.npz: is no list"):
        rc.ListEncoder.load(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(rc.DataError, match="codes.npz: is no list"):
        rc.ListEncoder.load(path)


def test_a_promise_is_kept_by_any_encoder_with_fewer_bits(plain):
    images = pictures(plain, 40, seed=2)
    bound = float(np.median(squares(images, numpy(plain(images)))))
    sizes = []
    for encoder in (rc.NetworkEncoder(), None, rc.BestOf([listed(plain), rc.SearchEncoder()])):
        data, cost = bitstream.compress(plain, images, max_distortion=bound, encoder=encoder)
        assert squares(images, plain.decompress(data)).max() <= bound
        sizes.append(cost.stored)
    assert sizes[0] >= sizes[1] >= sizes[2]


def test_shapes_are_those_of_the_model(plain):
    with pytest.raises(rc.InvalidArgument, match="must have shape"):
        rc.SearchEncoder()(plain, np.zeros((2, 8, 8, 1)))
    assert SHAPE["image_shape"] == plain.image_shape

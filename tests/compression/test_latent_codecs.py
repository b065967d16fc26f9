"""Codecs for photographs: any size, many rates, the same symbols on every machine."""

import os
import struct
import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tests.sampling import sampled
from tf_robustcomp.coding import container
from tf_robustcomp.compression import photograph_stream, tiles

SMALL = {"latents": 12, "widths": (4, 6, 8), "blocks": (1, 1, 1)}
MAKERS = {
    "factorized": lambda **kwargs: rc.FactorizedPrior(**SMALL, **kwargs),
    "hyperprior": lambda **kwargs: rc.MeanScaleHyperprior(
        **SMALL, hyper_widths=(8, 8, 4), parameters_width=8, **kwargs
    ),
}
numpy = keras.ops.convert_to_numpy


def codec(name, **kwargs):
    """An untrained model whose symbols are not all 0, with tables."""
    model = MAKERS[name](**kwargs)
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        if "linear" in variable.path:
            variable.assign(rng.normal(size=variable.shape) * 0.05)
    return model.fit_entropy_model()


@pytest.fixture(params=MAKERS)
def model(request):
    return codec(request.param)


def photographs(*shape, seed=0):
    """Smooth colours and some noise, 8 bits."""
    rng = np.random.default_rng(seed)
    n, h, w, c = shape
    waves = (
        np.sin(np.linspace(0, 9, h))[:, None, None] * np.cos(np.linspace(0, 7, w))[:, None] * rng.random((n, 1, 1, c))
    )
    return (np.round(255 * np.clip(0.5 + 0.4 * waves + 0.1 * rng.normal(size=shape), 0, 1)) / 255).astype("float32")


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (17, 65), (64, 64), (130, 70)])
def test_images_of_any_size_come_back_as_the_model_makes_them(model, size):
    images = photographs(2, *size, 3)
    data = model.compress(images, quality=0.3)
    decoded = model.decompress(data)
    assert decoded.shape == images.shape and decoded.dtype == np.float32
    # Last bits differ with the batch, and may round a latent to the other side.
    assert np.mean(np.abs(decoded - numpy(model(images, quality=0.3))) < 1e-4) > 0.9
    assert np.array_equal(decoded, model.decode(model.encode(images, 0.3)))


def test_a_higher_quality_takes_more_bytes(model):
    sizes = [len(model.compress(photographs(1, 64, 128, 3), quality=quality)) for quality in (0, 0.5, 1)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]


def test_the_ideal_rate_is_the_size_of_the_stream(model):
    images = photographs(3, 128, 192, 3)
    code = model.encode(images, 0.8)
    bits = photograph_stream.estimated_bits(model, code)
    size = 8 * len(model.compress(images, quality=0.8))
    assert 0 < size - bits < 8 * 64 + 0.002 * bits


def test_each_image_may_have_its_own_quality(model):
    images = photographs(2, 64, 64, 3)
    code = model.encode(images, [0.1, 0.9])
    for number, quality in enumerate((0.1, 0.9)):
        alone = model.encode(images[number : number + 1], quality)
        for part, own in zip(code.symbols, alone.symbols, strict=True):
            assert np.array_equal(part[number], own[0])


def test_a_target_rate_is_met_from_below(model):
    images = photographs(1, 192, 192, 3)
    highest, lowest = (8 * len(model.compress(images, quality=q)) / 192**2 for q in (1, 0))
    target = 0.5 * (lowest + highest)
    rate = 8 * len(model.compress(images, target_bpp=target)) / 192**2
    assert 0.98 * target <= rate <= target
    with pytest.raises(rc.InvalidArgument, match="cannot be met: quality 0 takes"):
        model.compress(images, target_bpp=0.5 * lowest)
    assert model.compress(images, target_bpp=2 * highest)  # the highest quality is below


def test_a_promised_distortion_is_kept_if_need_be_losslessly(model):
    images = photographs(2, 64, 64, 3)
    found = [((numpy(model(images, quality=q)) - images) ** 2).sum(axis=(1, 2, 3)).max() for q in (0.0, 1.0)]
    for bound in (1.01 * max(found), 1e-6):
        data = model.compress(images, max_distortion=bound)
        decoded = np.round(model.decompress(data) * 255) / 255
        assert ((decoded - images) ** 2).sum(axis=(1, 2, 3)).max() <= bound
    assert np.array_equal(model.decompress(data), images)


def test_grey_images_need_no_grey_model(model):
    grey = photographs(2, 40, 64, 1)
    decoded = model.decompress(model.compress(grey))
    coloured = model.decode(model.encode(np.repeat(grey, 3, axis=3)))
    assert decoded.shape == grey.shape
    assert np.abs(decoded - coloured.mean(axis=3, keepdims=True)).max() < 1e-6


def test_a_model_comes_back_from_its_file_with_the_same_streams(model, tmp_path):
    images = photographs(1, 70, 70, 3)
    model.save(tmp_path / "model.keras")
    loaded = rc.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    data = model.compress(images)
    assert loaded.compress(images) == data
    assert np.array_equal(loaded.decompress(data), model.decompress(data))


def test_tiles_leave_no_seams(model, monkeypatch):
    images = photographs(1, 200, 460, 3)
    whole, decoded = model.encode(images), model.decode(model.encode(images))
    y = [tiles.analysed(model, images, rate_features(0.5)) for _ in range(1)]
    monkeypatch.setattr(tiles, "TILE", 64)
    y.append(tiles.analysed(model, images, rate_features(0.5)))
    assert np.abs(y[0] - y[1]).max() < 1e-4
    assert np.abs(model.decode(whole) - decoded).max() < 1e-5


def rate_features(quality):
    from tf_robustcomp.compression.transforms import quality_features

    return quality_features(np.array([quality], "float32"))


def test_what_is_out_of_reach_changes_nothing(model):
    """The reach that tiles overlap by is that of the convolutions: pixels further away have no gradient."""
    reach = tiles._reach(model.blocks)
    images = photographs(1, 64, 64 * (2 + 2 * reach // 64), 3)
    changed = images.copy()
    changed[:, :, :64] = 1 - changed[:, :, :64]
    features = rate_features(0.5)
    first, second = (numpy(model.analysis(x, features)) for x in (images, changed))
    beyond = (64 + reach) // 16
    assert np.abs(first - second)[:, :, :4].max() > 0 and np.abs(first - second)[:, :, beyond:].max() < 1e-5
    y = np.repeat(first, 1, axis=0)
    other = y.copy()
    other[:, :, :4] += 1
    first, second = (numpy(model.synthesis(x, features)) for x in (y, other))
    assert np.abs(first - second)[:, :, 64 + reach :].max() < 1e-5


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


@pytest.mark.parametrize("channels", sampled([1, 3], 1))
@pytest.mark.slow
def test_a_promise_holds_for_every_tile(model, channels):
    """Whatever its size: each tile is measured here, alone."""
    images = photographs(2, 70, 130, channels)
    images[0, :40, :40] = np.random.default_rng(1).integers(0, 256, (40, 40, channels)) / 255  # hard to code
    model.start_from(photographs(60, 64, 128, 3, seed=2)).fit_entropy_model()
    stream = model.compress(images, max_distortion=40.0, tile=32)
    decoded = np.round(model.decompress(stream) * 255) / 255
    errors = [
        np.sum((one[row : row + 32, column : column + 32] - other[row : row + 32, column : column + 32]) ** 2)
        for one, other in zip(images.astype(float), decoded, strict=True)
        for row in range(0, 70, 32)
        for column in range(0, 130, 32)
    ]
    assert max(errors) <= 40.0
    assert container.read_header(stream).entry(container.PATCHES)
    whole = model.compress(images, max_distortion=40.0)  # holds for the sum over all tiles, so it is longer
    assert len(stream) < len(whole)
    with pytest.raises(rc.InvalidArgument, match="tile must be 16 or more, with max_distortion"):
        model.compress(images, tile=32)


@pytest.mark.slow
def test_tiles_that_no_code_brings_near_are_stored(model):
    images = photographs(1, 40, 40, 3)
    assert np.array_equal(model.decompress(model.compress(images, max_distortion=1e-6, tile=16)), images)


@pytest.mark.slow
def test_damaged_patches_are_refused(model):
    images = photographs(1, 64, 96, 3)
    images[0, :16, :16] = np.random.default_rng(1).integers(0, 256, (16, 16, 3)) / 255
    data = bytes(model.compress(images, max_distortion=30.0, tile=16))
    entry = container.read_header(data).entry(container.PATCHES)
    inner = data[entry.start : entry.start + entry.size]
    size = container.read_header(inner).end
    nested = container.write(model_of(data), (64, 96, 3), 1, [container.Part(container.PATCHES, 1, data, 0)])
    for content in (inner[:-1], inner + b"\0", inner[:size] + bytes(len(inner) - size), nested + inner[size:], b""):
        with pytest.raises(rc.BitstreamError):
            model.decompress(with_part(data, entry, content))


def model_of(data):
    return container.read_header(data).fingerprint


def with_part(data, entry, content):
    """The stream with another content of its last part, all checksums right."""
    header = container.read_header(data)
    assert header.entries[-1] == entry
    kept = [
        container.Part(one.kind, one.coding, data[one.start : one.start + one.size], one.content_crc)
        for one in header.entries[:-1]
    ]
    bits = content[container.read_header(content).end :] if content else b""
    part = container.Part(entry.kind, entry.coding, content, zlib.crc32(bits))
    return container.write(header.fingerprint, header.image_shape, header.count, [*kept, part])


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": 1.1}, "quality must lie in"),
        ({"quality": float("nan")}, "quality must lie in"),
        ({"target_bpp": 0}, "target_bpp must be > 0"),
        ({"quality": 0.5, "target_bpp": 1}, "give one of quality"),
    ],
)
def test_wrong_arguments_get_one_line(arguments, message):
    with pytest.raises(rc.InvalidArgument, match=message):
        codec("factorized").compress(photographs(1, 16, 16, 3), **arguments)


def test_without_tables_nothing_is_coded():
    with pytest.raises(rc.InvalidArgument, match="fit_entropy_model"):
        MAKERS["hyperprior"]().compress(photographs(1, 16, 16, 3))


def forged(data, shape=None, count=None):
    """The stream with another size in its header, all checksums right."""
    header = container.read_header(data)
    start = list(container.START.unpack_from(data))
    start[3:6] = shape or start[3:6]
    start[6] = start[6] if count is None else count
    head = container.START.pack(*start) + data[container.START.size : header.size - 4]
    return head + struct.pack("<I", zlib.crc32(head)) + data[header.size :]


@pytest.mark.parametrize(
    "shape", [(63, 64, 3), (0, 64, 3), (64, 0, 3), (64, 64, 0), (65535, 65535, 3), (4096, 4096, 3), (64, 64, 2)]
)
def test_hostile_sizes_take_no_memory(model, shape):
    data = forged(model.compress(photographs(1, 64, 64, 3)), shape)
    with pytest.raises(rc.BitstreamError):
        model.decompress(data)
    size = container.read_header(data).entries[0].size  # of the codes: 2 bytes an image, then the stack
    for count in (0, 2, size // 2 + 1, 2**32 - 1):
        with pytest.raises(rc.BitstreamError):
            model.decompress(forged(data, (64, 64, 3), count))


@pytest.mark.slow
def test_mutated_streams_are_refused_or_the_same(model):
    images = photographs(1, 24, 40, 3)
    data = bytes(model.compress(images, quality=1.0))
    rng = np.random.default_rng(0)
    for _ in range(20_000 // 40 if os.environ.get("FAULTS") != "full" else 20_000):
        mutated = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            mutated[rng.integers(len(data))] = rng.integers(256)
        if rng.random() < 0.3:
            mutated = mutated[: rng.integers(len(data))]
        if rng.random() < 0.5 and len(mutated) > 60:  # past the checksums
            mutated = bytearray(with_checksums(bytes(mutated)))
        if bytes(mutated) != data:
            with pytest.raises(rc.BitstreamError):
                model.decompress(bytes(mutated))


def with_checksums(data):
    """Set the checksums of header and first part right, as far as there are any."""
    start = container.START.size
    if data[:4] != container.MAGIC or len(data) < start + container.ENTRY.size + 4:
        return data
    kind, coding, size, _, content = container.ENTRY.unpack_from(data, start)
    body = start + container.ENTRY.size + 4
    entry = container.ENTRY.pack(kind, coding, size, zlib.crc32(data[body : body + size]), content)
    head = data[:start] + entry
    return head + struct.pack("<I", zlib.crc32(head)) + data[body:]


PROGRAM = """
import sys, zlib
import keras
import numpy as np
keras.config.set_dtype_policy(sys.argv[2])
import tf_robustcomp as rc
if keras.backend.backend() == "torch":
    import torch
    torch.set_num_threads(int(sys.argv[3]))
model = rc.load_model(sys.argv[1] + "/model.keras")
if sys.argv[2] != "float32":
    config = {**model.get_config(), "dtype": sys.argv[2]}
    other = type(model).from_config(config)
    other.set_weights(model.get_weights())
    model = other
for name in ("one", "two"):
    data = open(f"{sys.argv[1]}/{name}.rcbs", "rb").read()
    images = model.decompress(data)  # its CRC is of the symbols
    print(name, images.shape, float(np.abs(images - np.load(f"{sys.argv[1]}/{name}.npy")).max()))
"""


@pytest.mark.tensorflow_only
@pytest.mark.parametrize(
    ("backend", "policy", "threads"),
    [
        pytest.param("tensorflow", "mixed_bfloat16", 2, marks=pytest.mark.slow),
        pytest.param("jax", "float32", 1, marks=pytest.mark.slow),
        pytest.param("torch", "float32", 1, marks=pytest.mark.slow),
        ("torch", "mixed_bfloat16", 2),
    ],
)
def test_a_stream_decodes_on_every_machine(backend, policy, threads, tmp_path):
    """Written under TensorFlow; read under each backend, by one or two threads, in float32 and in mixed precision."""
    pytest.importorskip(backend)
    model = codec("hyperprior")
    model.save(tmp_path / "model.keras")
    for name, images in (("one", photographs(1, 130, 190, 3)), ("two", photographs(2, 33, 64, 3, seed=4))):
        (tmp_path / f"{name}.rcbs").write_bytes(model.compress(images, quality=0.9))
        np.save(tmp_path / f"{name}.npy", model.decompress(model.compress(images, quality=0.9)))
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), policy, str(threads)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    limit = 1e-4 if policy == "float32" else 0.1
    errors = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith(("one", "two"))]
    assert len(errors) == 2 and max(errors) < limit


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


@pytest.mark.parametrize("attacked", ["rate", pytest.param("both", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_training_takes_the_rate_for_its_adversary(attacked):
    model = codec("factorized")
    model.compile("adam", adversary=rc.LinfBall(epsilon=0.02, steps=2), attacked=attacked)
    assert model.get_compile_config()["attacked"] == attacked
    model.fit(photographs(4, 64, 64, 3), batch_size=4, verbose=0)
    with pytest.raises(rc.InvalidArgument, match="attacked must be"):
        model.compile("adam", attacked="size")

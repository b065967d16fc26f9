"""Streams of codecs for photographs: any size, many rates, the same symbols on every machine."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

import tf_robustcomp as rc
from tests.compression.latents import MAKERS, codec, numpy, photographs, rate_features
from tf_robustcomp.coding import container
from tf_robustcomp.compression import photograph_stream, tiles


@pytest.fixture(params=MAKERS)
def model(request):
    return codec(request.param)


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

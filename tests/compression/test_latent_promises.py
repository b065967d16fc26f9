"""Codecs for photographs keep a promised distortion, for each image and each tile."""

import zlib

import numpy as np
import pytest

import tf_robustcomp as rc
from tests.compression.latents import MAKERS, codec, numpy, photographs
from tests.sampling import sampled
from tf_robustcomp.coding import container


@pytest.fixture(params=MAKERS)
def model(request):
    return codec(request.param)


def test_a_promised_distortion_is_kept_if_need_be_losslessly(model):
    images = photographs(2, 64, 64, 3)
    found = [((numpy(model(images, quality=q)) - images) ** 2).sum(axis=(1, 2, 3)).max() for q in (0.0, 1.0)]
    for bound in (1.01 * max(found), 1e-6):
        data = model.compress(images, max_distortion=bound)
        decoded = np.round(model.decompress(data) * 255) / 255
        assert ((decoded - images) ** 2).sum(axis=(1, 2, 3)).max() <= bound
    assert np.array_equal(model.decompress(data), images)


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

"""compress and decompress, over every compressor of the package."""

import math
import struct
import time
import zlib

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tf_robustcomp.coding import container, lossless
from tf_robustcomp.coding.container import ENTRY, START
from tf_robustcomp.compression import bitstream, symbols

SHAPE = {"levels": 5, "width": 2, "image_shape": (16, 16, 1)}
MAKERS = {
    "standard": lambda: rc.Compressor(4, **SHAPE),
    "colour": lambda: rc.Compressor(4, levels=2, width=2, image_shape=(16, 32, 3)),
    "refinement": lambda: rc.SuccessiveRefinement((2, 3), **SHAPE),
    "residual": lambda: rc.ResidualCompressor((2, 3), **SHAPE),
    "aligned": lambda: rc.RotationAligned(5, **SHAPE),
}


numpy = keras.ops.convert_to_numpy


def pictures(model, count, seed=0):
    """Blocks of random grey, of random contrast."""
    rng = np.random.default_rng(seed)
    height, width, channels = model.image_shape
    blocks = rng.random((count, height // 8, width // 8, channels)) * rng.random((count, 1, 1, 1))
    return blocks.repeat(8, axis=1).repeat(8, axis=2).astype("float32")


def spread(model):
    """Centre and widen the codes, so that those of an untrained model use all symbols."""
    encoders = [
        getattr(part, "encoder", None) for part in (model, *(getattr(model, n, None) for n in ("first", "upright")))
    ]
    for encoder in filter(None, encoders):
        dense = next(layer for layer in reversed(encoder.layers) if isinstance(layer, keras.layers.Dense))
        logits = keras.Model(encoder.inputs, dense.output).predict(pictures(model, 50, seed=9), verbose=0)
        scale = 1 / (logits.std(axis=0) + 1e-6)
        dense.kernel.assign(numpy(dense.kernel.value) * scale)
        dense.bias.assign((numpy(dense.bias.value) - logits.mean(axis=0)) * scale)
    return model


@pytest.fixture(scope="module", params=MAKERS)
def model(request):
    keras.utils.set_random_seed(4)
    model = spread(MAKERS[request.param]())
    return model.fit_entropy_model(pictures(model, 60, seed=1))


@pytest.fixture(scope="module")
def staged():
    keras.utils.set_random_seed(4)
    model = spread(MAKERS["refinement"]())
    return model.fit_entropy_model(pictures(model, 60, seed=1))


@pytest.mark.parametrize("mode", ["entropy", "fixed"])
@pytest.mark.parametrize("count", [1, 7])
def test_decompressing_gives_what_the_model_gives(model, mode, count):
    images = pictures(model, count)
    data = model.compress(images, mode=mode)
    expected = numpy(model(images))
    np.testing.assert_array_equal(model.decompress(data), expected)
    for stage in range(1, model.stages + 1):
        expected = numpy(model(images, stage=stage))
        np.testing.assert_array_equal(model.decompress(data, stage=stage), expected)


def test_many_images_go_in_batches(staged, monkeypatch):
    images = pictures(staged, 11)
    whole = staged.compress(images)
    monkeypatch.setattr(symbols, "BATCH", 4)
    assert staged.compress(images) == whole
    np.testing.assert_allclose(staged.decompress(whole), numpy(staged(images)), atol=1e-6)


def test_fixed_mode_takes_the_bits_of_the_formula(model):
    images = pictures(model, 33)
    data, cost = bitstream.compress(model, images, "fixed")
    formula = 33 * model.latent_dim * math.log2(model.levels)
    assert cost.ideal_bits == pytest.approx(formula)
    assert formula <= cost.payload_bits <= 1.001 * formula + 40 * model.stages  # a word and a byte for each part
    assert cost.file_bits == 8 * len(data) == cost.payload_bits + 8 * (START.size + 4 + ENTRY.size * model.stages)
    assert cost.per_image()["ideal_bits"] == pytest.approx(model.rate)


def test_entropy_mode_is_never_longer_than_fixed_mode(model):
    for count in (1, 2, 5, 40):
        for images in (pictures(model, count, seed=count), np.zeros((count, *model.image_shape), "float32")):
            assert len(model.compress(images)) <= len(model.compress(images, mode="fixed"))


def test_ideal_and_payload_agree_for_a_thousand_images(staged):
    _, cost = bitstream.compress(staged, pictures(staged, 1000))
    assert cost.payload_bits == pytest.approx(cost.ideal_bits, rel=0.01)
    assert cost.file_bits - cost.payload_bits < 8 * 80
    assert (cost.images, cost.stored, cost.stages) == (1000, 0, (1000, 1000))


def test_a_file_cut_after_stage_one_decodes_at_stage_one(staged):
    images = pictures(staged, 9)
    data = staged.compress(images)
    first = container.read_header(data).entry(1)
    cut = data[: first.start + first.size]
    np.testing.assert_array_equal(staged.decompress(cut, stage=1), numpy(staged(images, stage=1)))
    with pytest.raises(rc.BitstreamError, match="truncated.*stage=1 can be decoded"):
        staged.decompress(cut)
    with pytest.raises(rc.BitstreamError, match="truncated: stage 2"):
        staged.decompress(cut, stage=2)
    with pytest.raises(rc.InvalidArgument, match="stage must be at most 2"):
        staged.decompress(data, stage=3)


def test_a_loaded_model_reads_the_streams_of_the_saved_one(model, tmp_path):
    images = pictures(model, 5)
    data = model.compress(images)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.compress(images) == data
    np.testing.assert_array_equal(loaded.decompress(data), model.decompress(data))


def test_fingerprints_tell_weights_settings_and_tables_apart_but_not_names():
    keras.utils.set_random_seed(1)
    one = rc.Compressor(3, **SHAPE)
    keras.utils.set_random_seed(1)
    two = rc.Compressor(3, **SHAPE, name="other")
    assert bitstream.fingerprint(one) == bitstream.fingerprint(two)
    two.compile("adam", adversary=rc.WassersteinBall(rho=1.0))
    assert bitstream.fingerprint(one) == bitstream.fingerprint(two)
    two.decoder.weights[-1].assign(numpy(two.decoder.weights[-1].value) + 1e-3)
    three = rc.Compressor(3, **{**SHAPE, "levels": 6})
    three.set_weights(one.get_weights())
    four = rc.Compressor(3, **SHAPE)
    four.set_weights(one.get_weights())
    four.fit_entropy_model(pictures(four, 20))
    prints = [bitstream.fingerprint(model) for model in (one, two, three, four)]
    assert len(set(prints)) == 4


def test_every_part_that_is_wrong_is_named(staged):
    images = pictures(staged, 6)
    data = staged.compress(images)
    other = rc.SuccessiveRefinement((2, 3), **SHAPE)
    header = container.read_header(data)

    def flipped(position):
        return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]

    for wrong, message in (
        (b"", "not a stream"),
        (b"PNG" + data, "not a stream"),
        (data[:20], "truncated: 20 bytes are less than a header"),
        (data[: START.size + 3], "truncated: its header has"),
        (flipped(4), "version 0; this package reads version 1"),
        (flipped(10), "the checksum of its header"),
        (flipped(header.entry(1).start), "the checksum of stage 1"),
        (flipped(header.entry(2).start), "the checksum of stage 2"),
        (data[:-1], "truncated"),
        (data + b"\0", "trailing bytes"),
    ):
        with pytest.raises(rc.BitstreamError, match=message):
            staged.decompress(wrong)
    with pytest.raises(rc.BitstreamError, match="trailing bytes"):
        staged.decompress(data + b"junk", stage=1)
    with pytest.raises(rc.BitstreamError, match="made by another model"):
        other.decompress(data)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.compress(pictures(m, 2), mode="zip"), "mode must be"),
        (lambda m: m.compress(pictures(m, 2)[:, :8]), "must have shape"),
        (lambda m: m.compress(pictures(m, 2) + 1), "must lie in"),
        (lambda m: m.compress(pictures(m, 2), max_distortion=0), "max_distortion must be > 0"),
        (lambda m: m.compress(pictures(m, 2), max_distortion="5x"), "max_distortion must be > 0"),
        (lambda m: m.decompress("text"), "data must be bytes"),
        (lambda m: rc.Compressor(3, **SHAPE).compress(pictures(m, 2)), "needs model.fit_entropy_model"),
    ],
)
def test_bad_arguments_are_refused(staged, call, message):
    with pytest.raises(rc.InvalidArgument, match=message):
        call(staged)


# The promise of a greatest distortion.


@pytest.mark.parametrize("eight_bits", [True, False])
def test_no_image_is_further_away_than_promised(model, eight_bits):
    images = pictures(model, 24)
    if eight_bits:
        images = (np.round(images * 255) / 255).astype("float32")
    clean = np.sum((images - numpy(model(images))) ** 2, axis=(1, 2, 3))
    bound = float(np.median(clean))
    data, cost = bitstream.compress(model, images, max_distortion=bound)
    decoded = model.decompress(data)
    reached = np.sum((images.astype("float64") - decoded) ** 2, axis=(1, 2, 3))
    assert reached.max() <= bound
    stored = reached == 0
    assert cost.stored == stored.sum()
    assert cost.stages[0] > 0 and (cost.stored == 0 or np.array_equal(decoded[stored], images[stored]))
    everything, cost = bitstream.compress(model, images, max_distortion=1e-9)
    assert cost.stored == len(images) and cost.stages == (0,) * model.stages
    np.testing.assert_array_equal(model.decompress(everything), images)


def test_images_that_need_it_take_the_next_stage(staged):
    images = pictures(staged, 30)
    by_stage = [np.sum((images - numpy(staged(images, stage=s))) ** 2, axis=(1, 2, 3)) for s in (1, 2)]
    bound = float(np.quantile(np.minimum(*by_stage), 0.5))
    data, cost = bitstream.compress(staged, images, max_distortion=bound)
    assert cost.stages[0] > cost.stages[1] or cost.stored
    reached = np.sum((images.astype("float64") - staged.decompress(data)) ** 2, axis=(1, 2, 3))
    assert reached.max() <= bound
    # Stage 1 of such a stream decodes alone, too.
    assert staged.decompress(data, stage=1).shape == images.shape


# Mutations.


def with_checksums(data):
    """Make every checksum of a stream right again, as a forger would; None where there is no header to repair."""
    try:
        number = START.unpack_from(data)[-1]
        size = START.size + number * ENTRY.size
        header = bytearray(data[:size])
        start = size + 4
        for index in range(number):
            kind, coding, length, _, meaning = ENTRY.unpack_from(header, START.size + index * ENTRY.size)
            part = data[start : start + length]
            ENTRY.pack_into(header, START.size + index * ENTRY.size, kind, coding, length, zlib.crc32(part), meaning)
            start += length
        return bytes(header) + struct.pack("<I", zlib.crc32(header)) + data[size + 4 :]
    except struct.error:
        return None


def mutated(rng, streams):
    """A stream with a few random changes: flipped bits, cuts, insertions, swapped pieces, extreme fields, noise."""
    data = bytearray(streams[rng.integers(len(streams))])
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(7)
        at = int(rng.integers(len(data) + 1)) if rng.random() < 0.5 else int(rng.integers(min(len(data), 80) + 1))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.integers(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = rng.bytes(rng.integers(1, 9))
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 4:
            data[at : at + 4] = [b"\xff" * 4, b"\0" * 4, b"\1\0\0\0"][rng.integers(3)]
        elif kind == 5:
            other = streams[rng.integers(len(streams))]
            data[at:] = other[at:]
        else:
            data = bytearray(b"RCBS\1" + rng.bytes(rng.integers(0, 200)))
        if not data:
            break
    return bytes(data)


@pytest.mark.slow
def test_twenty_thousand_damaged_streams_are_refused_or_exact(staged, monkeypatch):
    rng = np.random.default_rng(11)
    images = [(np.round(pictures(staged, n, seed=n) * 255) / 255).astype("float32") for n in (1, 3, 8)]
    streams = [staged.compress(part, mode=mode) for part in images for mode in ("entropy", "fixed")]
    streams += [staged.compress(part, max_distortion=bound) for part in images for bound in (40.0, 1e-9)]
    known = {data: staged.decompress(data) for data in streams}
    own = bitstream.fingerprint(staged)
    monkeypatch.setattr(bitstream, "fingerprint", lambda model: own)
    decoded = 0
    deadline = time.monotonic() + 300
    for number in range(20_000):
        data = mutated(rng, streams)
        if number % 2:
            data = with_checksums(data) or data
        try:
            images = staged.decompress(data)
        except rc.BitstreamError as error:
            assert "\n" not in str(error)
            continue
        decoded += 1
        # Repaired checksums may lead to the same images by other bytes (a PNG has unused ones), never to others.
        assert any(np.array_equal(images, value) for value in known.values()), "an image that nobody encoded"
        assert number % 2 or data in known
        assert time.monotonic() < deadline
    assert decoded < 2000


def test_a_forged_header_takes_no_memory(staged):
    import tracemalloc

    data = staged.compress(pictures(staged, 3))
    fields = list(START.unpack_from(data))
    for count in (10**6, 2**32 - 1):
        fields[6] = count
        forged = with_checksums(START.pack(*fields) + data[START.size :])
        tracemalloc.start()
        with pytest.raises(rc.BitstreamError):
            staged.decompress(forged)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30e6


def test_many_stored_images_are_several_pictures(staged, monkeypatch):
    monkeypatch.setattr(lossless, "PIECE_PIXELS", 16 * 16 * 3)
    images = (np.round(pictures(staged, 8) * 255) / 255).astype("float32")
    data = staged.compress(images, max_distortion=1e-9)
    np.testing.assert_array_equal(staged.decompress(data), images)

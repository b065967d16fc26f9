"""The codec through its real entry point, with a small model trained on the embedded digits."""

import csv
import re
import zlib

import numpy as np
import pytest
from PIL import Image

import tf_robustcomp as rc
from tests.commands.test_train_compressor import SMALL
from tf_robustcomp import codec, compare_codecs, train_compressor
from tf_robustcomp.coding import container
from tf_robustcomp.data import pictures
from tf_robustcomp.data.images import load_images, resized
from tf_robustcomp.evaluation import formats, quality
from tf_robustcomp.runs import directory as runs

pytestmark = pytest.mark.tensorflow_only


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    staged = ["--model=successive_refinement", "--stage-dims=2,3", "--warmup-epochs=1"]
    for name, words in {"plain": ["--latent-dim=4"], "staged": staged}.items():
        assert train_compressor.main(["train", *SMALL, "--epochs=2", f"--train-dir={folder / name}", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (40, 23), np.uint8)).save(folder / "grey.png")
    Image.fromarray(rng.integers(0, 256, (17, 33, 3), np.uint8)).save(folder / "colour.png")
    np.save(folder / "stack.npy", rng.integers(0, 256, (3, 16, 16), np.uint8))
    np.savez(folder / "floats.npz", images=rng.random((2, 20, 20, 3)).astype("float32"), other=np.zeros(3))
    return folder


def run(*words):
    return codec.main([str(word) for word in words])


@pytest.mark.slow
def test_a_training_ends_with_the_probabilities_of_its_symbols(trained):
    model = runs.Run(trained / "plain").load_model()
    assert model.entropy_model is not None
    assert len(model.compress(resized(load_images("digits").x_test[:50], 16))) > 20


def test_every_kind_of_input_comes_back_in_its_own_form(trained, inputs, tmp_path, capsys):
    names = ["grey.png", "colour.png", "stack.npy", "floats.npz"]
    model = f"--model={trained / 'plain'}"
    assert run("encode", model, f"--out={tmp_path / 'all.rcbs'}", *(inputs / name for name in names)) == 0
    out = capsys.readouterr().out
    assert "bits per pixel" in out and "MS-SSIM" in out and "PSNR" in out
    size = (tmp_path / "all.rcbs").stat().st_size
    pixels = 40 * 23 + 17 * 33 + 3 * 256 + 2 * 400
    assert f"{size} bytes" in out and f"{8 * size / pixels:.4f} bits per pixel" in out
    assert run("decode", model, f"--out={tmp_path / 'back'}", tmp_path / "all.rcbs") == 0
    assert {path.name for path in (tmp_path / "back").iterdir()} == {
        "grey.png",
        "colour.png",
        "stack.npy",
        "floats.npy",
    }
    for name, shape in (("grey.png", (40, 23)), ("colour.png", (17, 33, 3))):
        assert np.asarray(Image.open(tmp_path / "back" / name)).shape == shape
    assert np.load(tmp_path / "back" / "stack.npy").shape == (3, 16, 16, 1)
    assert np.load(tmp_path / "back" / "floats.npy").shape == (2, 20, 20, 3)
    # A tile by hand: the second channel of the coloured picture, lower right corner, reflected at the edges.
    colour = np.asarray(Image.open(inputs / "colour.png"))[:, :, 1]
    padded = np.pad(colour, ((0, 15), (0, 15)), mode="reflect")[16:32, 32:48]
    network = runs.Run(trained / "plain").load_model()
    expected = np.round(network(padded[None, ..., None] / np.float32(255)).numpy()[0, ..., 0] * 255)
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "back" / "colour.png"))[16:, 32:, 1], expected[:1, :1]
    )


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 16, 16, 1), (3, 33, 16, 2)])
@pytest.mark.parametrize("model_channels", [1, None])
def test_tiles_are_put_together_as_they_were_cut(shape, model_channels, rng):
    pixels = rng.integers(0, 256, shape, np.uint8)
    image_shape = (16, 16, model_channels or shape[3])
    tiles = pictures.to_tiles(pixels, image_shape)
    assert len(tiles) == pictures.number_of_tiles(shape, image_shape) and tiles.shape[1:] == image_shape
    np.testing.assert_array_equal(pictures.from_tiles(tiles, shape), pixels)


def test_a_bound_is_kept_in_the_files_that_are_written(trained, inputs, tmp_path, capsys):
    model, bound = f"--model={trained / 'staged'}", 25.0
    digits = (resized(load_images("digits").x_test[:20], 16) * 255).round().astype(np.uint8)
    np.save(tmp_path / "digits.npy", digits)
    sources = [tmp_path / "digits.npy", inputs / "grey.png"]
    out = tmp_path / "b.rcbs"
    assert run("encode", model, f"--out={out}", f"--max-distortion={bound}", *sources) == 0
    said = capsys.readouterr().out
    stored = int(re.search(r"stored losslessly: (\d+)", said)[1])
    assert run("decode", model, f"--out={tmp_path / 'back'}", out) == 0
    for source in sources:
        original, decoded = pictures.read(source).pixels, pictures.read(tmp_path / "back" / source.name).pixels
        squares = (original / 255 - decoded / 255)[..., 0] ** 2
        height, width = squares.shape[1:]
        whole = np.pad(squares, ((0, 0), (0, -height % 16), (0, -width % 16)))  # nothing outside the picture counts
        tiles = whole.reshape(len(whole), whole.shape[1] // 16, 16, whole.shape[2] // 16, 16).sum(axis=(2, 4))
        assert tiles.max() <= bound
    assert 0 < stored < 26  # the noise of grey.png fits no code, some digits do
    # A code of stage 1 where that is enough.
    assert run("decode", model, "--stage=1", f"--out={tmp_path / 'one'}", out) == 0


def test_the_report_has_a_row_for_every_picture(trained, inputs, tmp_path):
    words = [f"--model={trained / 'plain'}", f"--out={tmp_path / 'r.rcbs'}", f"--quality-report={tmp_path / 'q.csv'}"]
    assert run("encode", *words, inputs / "stack.npy", inputs / "grey.png") == 0
    rows = list(csv.DictReader((tmp_path / "q.csv").open()))
    assert [(row["name"], row["picture"]) for row in rows] == [
        *(("stack.npy", str(i)) for i in range(3)),
        ("grey.png", "0"),
    ]
    assert run("decode", words[0], f"--out={tmp_path}", tmp_path / "r.rcbs") == 0
    one, other = (np.asarray(Image.open(folder / "grey.png")) / 255 for folder in (inputs, tmp_path))
    assert float(rows[3]["distortion"]) == pytest.approx(np.sum((one - other) ** 2), rel=1e-4)
    assert float(rows[3]["psnr_db"]) == pytest.approx(-10 * np.log10(np.mean((one - other) ** 2)), rel=1e-4)
    assert (tmp_path / "q.png").stat().st_size > 3000


def test_similarity_of_equal_pictures_is_one_and_falls_with_noise(rng):
    base = rng.integers(0, 256, (2, 48, 48, 1), np.uint8)
    np.testing.assert_allclose(quality.ms_ssim(base, base), 1, atol=1e-5)
    noisy = [np.clip(base + rng.normal(0, s, base.shape), 0, 255).astype(np.uint8) for s in (10, 60)]
    values = [quality.ms_ssim(base, other).mean() for other in noisy]
    assert 1 > values[0] > values[1] > 0
    assert np.isnan(quality.ms_ssim(base[:, :8, :8], base[:, :8, :8])).all()


def test_info_needs_no_model(trained, inputs, tmp_path, capsys):
    assert run("encode", f"--model={trained / 'staged'}", f"--out={tmp_path / 'i.rcbs'}", inputs / "colour.png") == 0
    capsys.readouterr()
    assert run("info", tmp_path / "i.rcbs") == 0
    out = capsys.readouterr().out
    assert "stage 1:" in out and "stage 2:" in out and "colour.png: 1 of 17 x 33, 3 channels" in out


def test_pictures_are_brought_to_the_model_s_size_if_asked(trained, tmp_path, capsys):
    model = f"--model={trained / 'plain'}"
    assert run("encode", model, f"--out={tmp_path / 'small.rcbs'}", "digits") == 0
    assert "8 x 8 is smaller than the model's 16 x 16" in capsys.readouterr().err
    assert run("encode", model, "--resize", f"--out={tmp_path / 'd.rcbs'}", "digits") == 0
    out, err = capsys.readouterr()
    assert "300 pictures" in out and not err
    assert run("decode", model, f"--out={tmp_path}", tmp_path / "d.rcbs") == 0
    images = resized(load_images("digits").x_test, 16)
    network = runs.Run(trained / "plain").load_model()
    decoded = np.load(tmp_path / "digits.npy") / 255
    expected = network.predict(np.round(images * 255).astype("float32") / 255, verbose=0)
    assert np.abs(decoded - expected).max() <= 0.5 / 255 + 1e-6


def test_probabilities_can_be_fitted_to_an_older_run(trained, tmp_path):
    model = runs.Run(trained / "plain").load_model()
    model.entropy_model = None
    (tmp_path / "config.json").write_bytes((trained / "plain" / "config.json").read_bytes())
    model.save(tmp_path / "model.keras")
    encode = ("encode", f"--model={tmp_path}", f"--out={tmp_path / 'o'}", "digits")
    assert run(*encode) == 2
    assert run("fit", f"--model={tmp_path}", "--data=digits") == 0
    assert run(*encode) == 0


def forged(data, layout):
    """The stream with another layout, every checksum right."""
    header = container.read_header(data)
    parts = [
        container.Part(entry.kind, entry.coding, container.read_part(data, entry), entry.content_crc)
        for entry in header.entries
        if entry.kind != container.LAYOUT
    ]
    parts.insert(0, container.Part(container.LAYOUT, container.DEFLATE, zlib.compress(layout), zlib.crc32(layout)))
    return container.write(header.fingerprint, header.image_shape, header.count, parts)


def test_a_hostile_layout_writes_nothing(trained, inputs, tmp_path, capsys):
    model = f"--model={trained / 'plain'}"
    path = tmp_path / "f.rcbs"
    assert run("encode", model, f"--out={path}", inputs / "stack.npy") == 0
    data = path.read_bytes()
    good = b'[{"name": "stack.npy", "shape": [3, 16, 16, 1]}]'
    path.write_bytes(forged(data, good))
    assert run("decode", model, f"--out={tmp_path / 'good'}", path) == 0
    for layout in (
        good.replace(b"stack", b"../../stack"),
        good.replace(b"stack", b"/etc/stack"),
        good.replace(b"stack.npy", b".bashrc"),
        good.replace(b"stack.npy", b"stack.sh"),
        good.replace(b"3, 16", b"4, 16"),
        good.replace(b"3, 16", b"-3, 16"),
        good.replace(b"[3, 16, 16, 1]", b"[1, 1, 1, 2]"),
        good.replace(b"[3, 16, 16, 1]", b'"abc"'),
        good[:-1],
        b"[" + good[1:-1] + b"," + good[1:],
        good.replace(b"3, 16", b"Infinity, 16"),
        good.replace(b"3, 16", b"3.0, 16"),
        good.replace(b"stack", b"st\\u0000ack"),
        good.replace(b"stack", b"\\ud800"),
        good.replace(b"stack", b"s" * 300),
        b"[" * 100_000,
    ):
        path.write_bytes(forged(data, layout))
        capsys.readouterr()
        assert run("decode", model, f"--out={tmp_path / 'bad'}", path) == 2, layout
        error = capsys.readouterr().err.strip()
        assert "layout" in error and "\n" not in error
        assert not (tmp_path / "bad").exists()


@pytest.mark.slow
def test_bad_input_is_one_line(trained, inputs, tmp_path, capsys):
    model, out = f"--model={trained / 'plain'}", f"--out={tmp_path / 'o'}"
    other = f"--model={trained / 'staged'}"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY no array")
    np.save(tmp_path / "flat.npy", np.zeros(5))
    np.save(tmp_path / "high.npy", np.full((1, 4, 4), 7.0))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "many.npz", a=np.zeros(2), b=np.zeros(2))
    good = tmp_path / "good.rcbs"
    assert run("encode", model, f"--out={good}", inputs / "stack.npy") == 0
    cut, plain = tmp_path / "cut.rcbs", tmp_path / "plain.rcbs"
    cut.write_bytes(good.read_bytes()[:-3])
    network = runs.Run(trained / "plain").load_model()
    plain.write_bytes(network.compress(np.zeros((1, 16, 16, 1), "float32")))
    capsys.readouterr()
    for words, named in (
        ([], "the first word must be one of"),
        (["zip"], "the first word must be one of"),
        (["encode", model, out], "encode takes at least one INPUT"),
        (["encode", model, inputs / "grey.png"], "--out must be given"),
        (["encode", f"--model={tmp_path}", out, inputs / "grey.png"], "not a run directory"),
        (["encode", model, out, "none.png"], "none.png: no such file"),
        (["encode", model, out, "cats"], "cats: not a folder, mnist, digits, or one of"),
        (["encode", model, "--out=.", inputs / "grey.png"], "must be names of files"),
        (["encode", model, out, tmp_path / "bad.png"], "bad.png: not a picture (png)"),
        (["encode", model, out, tmp_path / "bad.npy"], "bad.npy: not a .npy"),
        (["encode", model, out, tmp_path / "objects.npy"], "objects.npy: not a .npy"),
        (["encode", model, out, tmp_path / "flat.npy"], "must hold images"),
        (["encode", model, out, tmp_path / "high.npy"], "must hold integers 0 to 255, or floats in [0, 1]"),
        (["encode", model, out, tmp_path / "many.npz"], "name one of them images"),
        (["encode", model, out, inputs / "grey.png", inputs / "grey.png"], "different files"),
        (["encode", model, out, "--max-distortion=-1", inputs / "grey.png"], "--max-distortion must be > 0"),
        (["decode", model, out], "decode takes one FILE"),
        (["decode", model, out, tmp_path / "none"], "none: no such file"),
        (["decode", model, out, inputs / "grey.png"], "grey.png: not a stream"),
        (["decode", model, out, cut], "cut.rcbs: truncated"),
        (["decode", model, out, plain], "plain.rcbs: made by compress()"),
        (["decode", other, out, good], "good.rcbs: made by another model"),
        (["decode", model, out, "--stage=2", good], "stage must be at most 1"),
        (["info", cut, cut], "info takes one FILE"),
        (["info", inputs / "grey.png"], "grey.png: not a stream"),
        (["fit", model, "x"], "fit takes no further words"),
    ):
        assert run(*words) == 2, words
        error = capsys.readouterr().err.strip()
        assert named in error and "\n" not in error, error


def test_pictures_of_other_modes_keep_their_grey_and_their_transparency(tmp_path):
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "A.PNG")
    read = pictures.read(tmp_path / "A.PNG")
    assert read.name == "A.png"
    np.testing.assert_array_equal(read.pixels[0, ..., 0], ramp >> 8)
    Image.new("LA", (4, 4), (100, 50)).save(tmp_path / "la.png")
    np.testing.assert_array_equal(pictures.read(tmp_path / "la.png").pixels[0, 0, 0], [100, 100, 100, 50])


def test_names_are_exported():
    assert issubclass(rc.BitstreamError, rc.Error)


@pytest.mark.slow
def test_formats_are_compared_on_the_same_images(trained, tmp_path, capsys):
    words = [f"--models={trained / 'plain'},{trained / 'staged'}", "--data=digits", "--images=30"]
    words += ["--max-distortion=25", "--promise-images=12", f"--output={tmp_path / 'c'}"]
    assert compare_codecs.main(words) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"c.csv", "c.png", "c.pdf", "c-promise.csv"}
    rates = formats.Rates.from_csv(tmp_path / "c.csv")
    assert {"PNG", "JPEG", "plain", "staged, stage 1", "staged, stage 2"} <= set(rates.lines())
    for row in rates.rows:
        assert row.images == 30 and row.bits_per_image == pytest.approx(8 * row.bytes / 30)
        assert (row.distortion == 0) == (row.variant == "lossless")
    images = (np.round(resized(load_images("digits").x_test[:30], 16) * 255) / 255).astype("float32")
    model = runs.Run(trained / "staged").load_model()
    data = model.compress(images, mode="fixed")
    fixed = next(row for row in rates.line("staged, stage 2") if row.variant == "fixed")
    assert fixed.bytes == len(data)
    squares = np.sum((model.decompress(data) - images) ** 2, axis=(1, 2, 3))
    assert fixed.distortion == pytest.approx(squares.mean(), rel=1e-4)
    promise = formats.Promise.from_csv(tmp_path / "c-promise.csv")
    assert len(promise) == 8 and all(row.worst <= 25 for row in promise.rows)
    assert all(row.stored <= row.without for row in promise.rows)
    assert compare_codecs.main([*words, "--max-distortion=nan"]) == 2
    assert "--max-distortion must be > 0" in capsys.readouterr().err


# Encoders.


@pytest.mark.slow
def test_a_search_and_a_list_write_nearer_codes_into_the_same_kind_of_file(trained, inputs, tmp_path, capsys):
    model = f"--model={trained / 'plain'}"
    listed = trained / "plain" / "model.codes.npz"
    assert run("encode", model, "--encoder=list", f"--out={tmp_path / 'a'}", inputs / "grey.png") == 2
    assert "no such file; make a list with `codec fit-list`" in capsys.readouterr().err
    assert run("fit-list", model, "--data=digits") == 0
    assert listed.is_file() and f"{listed}: " in capsys.readouterr().out
    squares = {}
    for name, encoder in {"network": (), "search": ("--encoder=search",), "both": ("--encoder=list,search",)}.items():
        assert run("encode", model, *encoder, f"--out={tmp_path / name}", inputs / "grey.png") == 0
        assert run("decode", model, f"--out={tmp_path / 'out' / name}", tmp_path / name) == 0
        paths = (inputs / "grey.png", tmp_path / "out" / name / "grey.png")
        original, decoded = (np.asarray(Image.open(path), float) for path in paths)
        squares[name] = np.sum((original - decoded) ** 2)
    assert max(squares["both"], squares["search"]) < squares["network"]
    capsys.readouterr()
    assert run("encode", f"--model={trained / 'staged'}", "--encoder=guess", f"--out={tmp_path / 'b'}", "x.png") == 2
    assert "--encoder must be 'list' or 'network' or 'search' or 'transformed'" in capsys.readouterr().err


def test_the_list_of_another_model_is_refused(trained, inputs, tmp_path, capsys):
    other = tmp_path / "other.keras"
    other.write_bytes((trained / "staged" / "model.keras").read_bytes())
    (tmp_path / "other.codes.npz").write_bytes(b"PK junk")
    words = ("encode", f"--model={other}", "--encoder=list", f"--out={tmp_path / 'c'}", inputs / "grey.png")
    assert run(*words) == 2
    assert "other.codes.npz: is no list of codes" in capsys.readouterr().err
    rc.ListEncoder(np.zeros((3, 5), int), b"2" * 16).save(tmp_path / "other.codes.npz")
    assert run(*words) == 2
    assert "the list is of another model" in capsys.readouterr().err


def test_evaluations_take_an_encoder(trained, tmp_path):
    output = tmp_path / "compared"
    words = [f"--models={trained / 'plain'}", "--data=digits", "--images=30", "--encoder=search", "--encoder-budget=20"]
    assert compare_codecs.main([*words, f"--output={output}"]) == 0
    assert compare_codecs.main([*words[:-2], f"--output={tmp_path / 'network'}"]) == 0
    tables = (formats.Rates.from_csv(f"{path}.csv") for path in (output, tmp_path / "network"))
    found, network = (next(row for row in table.line("plain") if row.variant == "fixed") for table in tables)
    assert found.distortion < network.distortion and found.bytes == network.bytes

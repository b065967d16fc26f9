"""Kinds B and C: pictures of every kind through the codec, and models that were made in Python."""

import shutil

import keras
import numpy as np
import pytest
from PIL import Image, ImageCms

import tf_robustcomp as rc
from tf_robustcomp import codec, compare_codecs
from tf_robustcomp.compression import archive
from tf_robustcomp.data import pictures
from tf_robustcomp.data.images import load_images, resized
from tf_robustcomp.evaluation import quality, reconstructions
from tf_robustcomp.runs.directory import Run

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """A grey model, and one for colours, as .keras files."""
    folder = tmp_path_factory.mktemp("models")
    grey = Run(trained).load_model()
    grey.save(folder / "grey.keras")
    keras.utils.set_random_seed(0)
    colour = rc.Compressor(4, levels=5, width=2, image_shape=(16, 16, 3))
    colour.fit_entropy_model(np.random.default_rng(0).random((50, 16, 16, 3), "float32"))
    colour.save(folder / "colour.keras")
    return folder


@pytest.fixture
def picture(tmp_path):
    """Write an array as a picture; give its path."""

    def write(name, array, mode=None, **options):
        image = Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def noise(*shape):
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


# B10 (libjxl/libjxl 1667): what a picture is, is kept or said.


def test_b10_an_array_of_one_colour_picture_is_one_picture(tmp_path):
    for channels in (3, 4):
        np.save(tmp_path / "one.npy", noise(20, 30, channels))
        assert pictures.read(tmp_path / "one.npy").pixels.shape == (1, 20, 30, channels)
    np.save(tmp_path / "grey.npy", noise(5, 20, 30))
    assert pictures.read(tmp_path / "grey.npy").pixels.shape == (5, 20, 30, 1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_b10_orientation_is_applied(suffix, orientation, tmp_path):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255  # a white corner, upper left
    transposed = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverses of what EXIF asks for
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(transposed[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"p.{suffix}", exif=exif, **({"quality": 100} if suffix in ("jpg", "webp") else {}))
    found = pictures.read(tmp_path / f"p.{suffix}").pixels[0]
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 3


def test_b10_colours_of_another_profile_become_srgb_and_depth_is_said(picture, models, tmp_path, capsys):
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = noise(16, 16, 3)
    same = pictures.read(picture("s.png", pixels, icc_profile=srgb))
    np.testing.assert_array_equal(same.pixels[0], pixels)
    assert not same.lost
    other = pictures.read(picture("x.png", pixels, icc_profile=xyz))
    assert other.lost == ("its colour profile",) or not np.array_equal(other.pixels[0], pixels)
    path = picture("deep.png", noise(16, 16).astype(np.uint16) * 257)
    assert codec.main(["encode", f"--model={models}/grey.keras", f"--out={tmp_path}/o.rcbs", str(path)]) == 0
    assert "deep.png: does not keep more than 8 bits a channel" in capsys.readouterr().err


def test_b10_frames_after_the_first_are_said(tmp_path):
    frames = [Image.fromarray(noise(16, 16, 3)), Image.fromarray(255 - noise(16, 16, 3))]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    assert pictures.read(tmp_path / "a.tif").lost == ("all but the first picture",)


def test_b10_models_of_colours_are_drawn_in_colour(models, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axis, image, **given: drawn.append(np.shape(image)))
    model = rc.load_model(models / "colour.keras")
    reconstructions.draw(tmp_path / "r.png", {"m": model}, np.random.default_rng(0).random((2, 16, 16, 3), "float32"))
    assert set(drawn) == {(16, 16, 3)}


# C4: a model that Python made.


def test_c4_a_model_of_the_python_api_is_all_that_a_receiver_needs(models, picture, tmp_path, refused):
    path, file = picture("p.png", noise(20, 20)), models / "grey.keras"
    assert codec.main(["encode", f"--model={file}", f"--out={tmp_path}/a.rcbs", str(path)]) == 0
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(file, alone / "model.keras")
    assert codec.main(["decode", f"--model={alone}", f"--out={tmp_path}/back", f"{tmp_path}/a.rcbs"]) == 0
    decoded = np.asarray(Image.open(tmp_path / "back/p.png"))
    assert decoded.shape == (20, 20)
    model = rc.load_model(file)
    tiles = pictures.to_tiles(noise(20, 20)[None, ..., None], (16, 16, 1)) / np.float32(255)
    expected = pictures.from_tiles(np.round(model.predict(tiles, verbose=0) * 255).astype(np.uint8), (1, 20, 20, 1))
    np.testing.assert_array_equal(decoded, expected[0, ..., 0])
    fresh = rc.Compressor(3, levels=5, width=2, image_shape=(16, 16, 1))
    fresh.save(tmp_path / "fresh.keras")
    encode = ["encode", f"--model={tmp_path}/fresh.keras", f"--out={tmp_path}/f.rcbs", str(path)]
    refused(codec.main(encode), "has no probabilities yet", "codec fit")
    assert codec.main(["fit", f"--model={tmp_path}/fresh.keras", "--data=digits"]) == 0
    assert codec.main(encode) == 0
    words = [f"--models={file}", "--data=digits", "--images=5", f"--output={tmp_path}/c"]
    assert compare_codecs.main(words) == 0
    (tmp_path / "text.keras").write_text("no model")
    refused(codec.main(["fit", f"--model={tmp_path}/text.keras"]), "text.keras: cannot be read")
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    plain.save(tmp_path / "plain.keras")
    refused(codec.main(["fit", f"--model={tmp_path}/plain.keras"]), "its model is not a compressor")


# C6: every picture through every model.

PIXELS = {
    "grey.png": (noise(20, 33), None),
    "alpha.png": (noise(20, 33, 4)[..., :2], "LA"),
    "rgb.png": (noise(20, 33, 3), None),
    "rgba.png": (noise(20, 33, 4), None),
    "deep.png": (noise(20, 33).astype(np.uint16) * 257, None),
    "bits.png": (noise(20, 33), "1"),
    "palette.png": (noise(20, 33, 3), "P"),
    "photo.jpg": (noise(20, 33, 3), None),
    "photo.webp": (noise(20, 33, 3), None),
    "photo.tiff": (noise(20, 33, 3), None),
    "cmyk.jpeg": (noise(20, 33, 3), "CMYK"),
    "photo.bmp": (noise(20, 33, 3), None),
}


def _write_all(folder):
    for name, (pixels, mode) in PIXELS.items():
        image = Image.fromarray(noise(20, 33)) if mode == "LA" else Image.fromarray(pixels)
        (image.convert(mode) if mode else image).save(folder / name)


@pytest.mark.parametrize("model", ["grey", "colour"])
def test_c6_every_picture_goes_through_every_model_and_a_bound_is_kept(model, models, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    _write_all(source)
    network, out = rc.load_model(models / f"{model}.keras"), tmp_path / "o.rcbs"
    items, _, cost = archive.encode_files(network, [source], out, max_distortion=20.0)
    assert len(items) == len(PIXELS) and cost.images > len(PIXELS)
    for item, other in zip(items, archive.decode_file(network, out), strict=True):
        assert other.name == item.name and other.pixels.shape == item.pixels.shape
        _, height, width, channels = item.pixels.shape
        squares = ((item.pixels / 255 - other.pixels / 255) ** 2).reshape(height, width, channels)
        padded = np.pad(squares, ((0, -height % 16), (0, -width % 16), (0, 0)))
        tiles = padded.reshape(-1, 16, padded.shape[1] // 16, 16, channels).sum(axis=(1, 3))
        assert tiles.max() <= 20.0 + 1e-9, item.name


@pytest.mark.parametrize("channels", range(1, 8))
@pytest.mark.parametrize("c", [1, 2, 3])
def test_c6_tiles_of_any_number_of_channels_come_back(channels, c):
    pixels = noise(2, 21, 17, channels)
    tiles = pictures.to_tiles(pixels, (16, 16, c))
    assert len(tiles) == pictures.number_of_tiles(pixels.shape, (16, 16, c))
    np.testing.assert_array_equal(pictures.from_tiles(tiles, pixels.shape), pixels)


def test_c6_a_folder_is_searched_and_hidden_files_are_passed_over(tmp_path):
    (tmp_path / "a/.hidden").mkdir(parents=True)
    for name in ("a/1.png", "a/.hidden/2.png", "3.jpg", ".4.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert set(pictures.find([tmp_path])) == {"a/1.png", "3.png"}
    with pytest.raises(rc.DataError, match="a folder without pictures"):
        pictures.find([_empty(tmp_path)])


def _empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


def test_c6_training_images_of_digits_are_unchanged():
    images = resized(load_images("digits").x_test, 16)
    assert images.shape == (300, 16, 16, 1) and images.dtype == np.float32


# C7: many small files.


def test_c7_quality_is_measured_once_for_each_shape(monkeypatch):
    calls = []
    true = quality.ms_ssim
    monkeypatch.setattr(quality, "ms_ssim", lambda one, other: (calls.append(one.shape), true(one, other))[1])
    shapes = [(1, 24, 30, 1), (1, 24, 30, 1), (2, 16, 16, 3), (3, 24, 30, 1)]
    originals = [pictures.Pictures(f"{n}", noise(*shape)) for n, shape in enumerate(shapes)]
    decoded = [pictures.Pictures(item.name, np.roll(item.pixels, n, axis=1)) for n, item in enumerate(originals)]
    found = quality.measure(originals, decoded)
    assert calls == [(5, 24, 30, 1), (2, 16, 16, 3)]
    for one, other, item in zip(originals, decoded, found, strict=True):
        squares = ((one.pixels / 255 - other.pixels / 255) ** 2).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(item.distortion, squares)
        np.testing.assert_allclose(item.ms_ssim, true(one.pixels, other.pixels), rtol=1e-5)
    calls.clear()
    assert np.isnan(quality.measure(originals, decoded, similarity=False)[0].ms_ssim).all() and not calls

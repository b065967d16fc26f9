"""Photographs through the codec's entry point and the model that comes with the package."""

import numpy as np
import pytest
from PIL import Image, ImageCms

import tf_robustcomp as rc
from tf_robustcomp import codec
from tf_robustcomp.coding import container
from tf_robustcomp.compression import pretrained

pytestmark = pytest.mark.tensorflow_only


def colours(height=70, width=100):
    rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    waves = 0.5 + 0.3 * np.sin(6 * rows + np.array([0, 1, 2])) * np.cos(5 * columns)
    return np.round(255 * waves).astype(np.uint8)


def there_and_back(folder, source, *words):
    """Encode and decode; return the picture, and what was printed on the way is the caller's."""
    assert codec.main(["encode", str(source), f"--out={folder / 'x.rcbs'}", "--nosimilarity", *words]) == 0
    assert codec.main(["decode", str(folder / "x.rcbs"), f"--out={folder / 'back'}", "--force"]) == 0
    (path,) = (folder / "back").iterdir()
    with Image.open(path) as picture:
        return picture.copy()


def psnr(one, other):
    return -10 * np.log10(np.mean((np.asarray(one) / 255 - np.asarray(other) / 255) ** 2))


def test_a_photograph_goes_into_a_small_file_and_comes_back(tmp_path, capsys):
    pixels = colours(200, 333)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=95)
    found = there_and_back(tmp_path, tmp_path / "photo.jpg", "--quality=0.5")
    assert found.size == (333, 200) and found.mode == "RGB"
    assert psnr(found, pixels) > 25 and (tmp_path / "x.rcbs").stat().st_size < 200 * 333 * 3 / 8
    assert "bits per pixel" in capsys.readouterr().out


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be rotated
    Image.fromarray(colours()).save(tmp_path / "p.jpg", exif=exif, quality=95)
    found = there_and_back(tmp_path, tmp_path / "p.jpg")
    assert found.size == (70, 100)
    assert psnr(found, np.rot90(colours(), -1)) > 25


def test_another_colour_profile_is_brought_to_srgb(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(colours()).save(tmp_path / "p.png", icc_profile=profile)
    found = there_and_back(tmp_path, tmp_path / "p.png")
    assert "icc_profile" not in found.info and psnr(found, colours()) > 25


def test_transparency_is_kept_without_loss(tmp_path):
    alpha = np.random.default_rng(0).integers(0, 256, (70, 100, 1), np.uint8)
    Image.fromarray(np.concatenate([colours(), alpha], axis=2)).save(tmp_path / "p.png")
    found = there_and_back(tmp_path, tmp_path / "p.png")
    assert found.mode == "RGBA" and np.array_equal(np.asarray(found)[..., 3:], alpha)
    assert psnr(np.asarray(found)[..., :3], colours()) > 25


def test_sixteen_bits_become_eight_and_that_is_said(tmp_path, capsys):
    Image.fromarray(colours()[..., 0].astype(np.uint16) * 257).save(tmp_path / "p.png")
    found = there_and_back(tmp_path, tmp_path / "p.png")
    assert found.mode == "L" and psnr(found, colours()[..., 0]) > 25
    assert "does not keep more than 8 bits a channel" in capsys.readouterr().err


def test_cmyk_becomes_rgb(tmp_path):
    Image.fromarray(colours()).convert("CMYK").save(tmp_path / "p.jpg", quality=95)
    found = there_and_back(tmp_path, tmp_path / "p.jpg")
    assert found.mode == "RGB" and psnr(found, colours()) > 20


@pytest.mark.slow
def test_a_target_rate_holds_for_the_whole_file(tmp_path):
    Image.fromarray(colours(256, 384)).save(tmp_path / "p.png")
    there_and_back(tmp_path, tmp_path / "p.png", "--target-bpp=0.5")
    assert 8 * (tmp_path / "x.rcbs").stat().st_size <= 0.5 * 256 * 384


@pytest.mark.slow
def test_a_promise_is_kept_by_the_picture_that_is_written(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "p.png")
    found = np.asarray(there_and_back(tmp_path, tmp_path / "p.png", "--max-distortion=5")) / 255
    assert np.sum((found - colours() / 255) ** 2) <= 5


@pytest.mark.slow
def test_a_promise_for_tiles_is_kept_by_the_picture_that_is_written(tmp_path, capsys):
    pixels = colours(100, 150)
    pixels[:30, :30] = np.random.default_rng(0).integers(0, 256, (30, 30, 3))
    Image.fromarray(pixels).save(tmp_path / "p.png")
    found = np.asarray(there_and_back(tmp_path, tmp_path / "p.png", "--max-distortion=3", "--tile=32")) / 255
    squares = np.sum((found - pixels / 255) ** 2, axis=2)
    assert max(squares[r : r + 32, c : c + 32].sum() for r in range(0, 100, 32) for c in range(0, 150, 32)) <= 3
    assert codec.main(["info", str(tmp_path / "x.rcbs")]) == 0
    assert "the tiles with codes of their own" in capsys.readouterr().out


@pytest.mark.slow
def test_the_search_makes_a_smaller_cost_at_the_command_line(tmp_path):
    pixels = colours(64, 64)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    costs = []
    for words in ([], ["--encoder=search", "--encoder-budget=30"]):
        found = there_and_back(tmp_path, tmp_path / "p.png", "--quality=0.8", *words)
        squares = np.sum((np.asarray(found) / 255 - pixels / 255) ** 2)
        size = 8 * (tmp_path / "x.rcbs").stat().st_size
        costs.append(size + rc.load_pretrained("photo").price_per_pixel(0.8) * squares)
        (tmp_path / "x.rcbs").unlink()
    assert costs[1] <= costs[0] + 64  # whole words, and pixels of 8 bits


def test_what_needs_images_of_one_size_gets_one_line(tmp_path, capsys):
    for action in ("fit", "fit-list"):
        assert codec.main([action, "--model=photo", "--data=digits"]) == 2
        assert "are for images of one size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quality=2"], "--quality must be"),
        (["--quality=0.5", "--target-bpp=1"], "give one of quality, target_bpp and max_distortion"),
        (["--mode=fixed"], "codes one source into a file"),
        (["--resize"], "codes one source into a file"),
        (["--encoder=list"], "photographs take search"),
        (["--encoder=transformed"], "encoder must be a NetworkEncoder or a SearchEncoder"),
        (["--tile=64"], "tile must be 16 or more, with max_distortion"),
        (["--tile=8", "--max-distortion=5"], "tile must be 16 or more, with max_distortion"),
        (["second.png"], "codes one source into a file"),
        (["--target-bpp=0.0001"], "cannot be met"),
    ],
)
def test_what_photographs_do_not_take_gets_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    for name in ("first.png", "second.png"):
        Image.fromarray(colours()).save(name)
    assert codec.main(["encode", "first.png", "--out=x.rcbs", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_quality_is_refused_by_models_of_one_rate():
    model = rc.Compressor(4, width=2, levels=3, image_shape=(16, 16, 1))
    model.fit_entropy_model(np.zeros((4, 16, 16, 1), "float32"))
    with pytest.raises(rc.InvalidArgument, match="this one has one rate"):
        rc.encode_files(model, ["digits"], "x.rcbs", quality=0.5)


def test_the_model_in_the_package_is_small_and_has_its_tables():
    assert "photo" in pretrained.pretrained_names()
    assert (pretrained.FOLDER / "photo.npz").stat().st_size <= 8e6
    data = rc.load_pretrained("photo").compress((colours() / 255).astype("float32")[None])
    assert data.startswith(container.MAGIC)
    with pytest.raises(rc.InvalidArgument, match="name must be .*'photo'"):
        rc.load_pretrained("phot")


def test_a_model_written_small_codes_as_before(tmp_path):
    model = rc.load_pretrained("photo")
    pretrained.write(model, tmp_path / "again.npz")
    images = (colours() / 255).astype("float32")[None]
    data = model.compress(images)
    assert pretrained.read(tmp_path / "again.npz").compress(images) == data
    (tmp_path / "again.npz").write_bytes((tmp_path / "again.npz").read_bytes()[:-1000])
    with pytest.raises(rc.DataError, match="not a trained model"):
        pretrained.read(tmp_path / "again.npz")

"""Faults in reading users' own training data; names begin with the report's number."""

import numpy as np
import pytest
from PIL import Image

from tests.reports.conftest import SMALL
from tf_robustcomp import codec, train_compressor
from tf_robustcomp.data.images import load_images
from tf_robustcomp.data.unlabelled import images_of
from tf_robustcomp.utils.errors import DataError

pytestmark = [pytest.mark.tensorflow_only, pytest.mark.slow]
rng = np.random.default_rng(5)
DIGITS = load_images("digits")
TRAINING = ["train", *(word for word in SMALL if not word.startswith("--data"))]


def pictures_in(folder, count, shape, kind="png"):
    folder.mkdir(parents=True)
    made = [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(count)]
    for number, pixels in enumerate(made):
        Image.fromarray(pixels).save(folder / f"{number:02d}.{kind}")
    return made


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_c5_images_without_labels_of_any_type(dtype, suffix, tmp_path):
    path = str(tmp_path / f"images.{suffix}")
    images = DIGITS.x_train[:50].astype(dtype) / (255 if dtype.startswith("float") else 1)
    images = images.astype(dtype)
    if suffix == "npz":
        np.savez(path, x_train=images[:45], x_test=images[45:])
    else:
        np.save(path, images[..., 0])
    expected = DIGITS.x_train[:50] / 255
    np.testing.assert_allclose(images_of(path, "train", (8, 8)), expected[:45], atol=1e-6)
    np.testing.assert_allclose(images_of(path, "test", (8, 8)), expected[45:], atol=1e-6)
    np.testing.assert_allclose(images_of(path, "train", (8, 8), 7), expected[:7], atol=1e-6)


def test_c5_a_folder_of_pictures_is_cut_into_whole_tiles(tmp_path):
    made = pictures_in(tmp_path / "photos", 20, (40, 50, 3))
    train, test = (images_of(str(tmp_path / "photos"), part, (16, 16)) for part in ("train", "test"))
    assert train.shape == (18 * 2 * 3, 16, 16, 3) and test.shape == (2 * 2 * 3, 16, 16, 3)
    np.testing.assert_allclose(train[1], made[0][:16, 16:32] / 255, atol=1e-6)
    np.testing.assert_allclose(test[-1], made[-1][16:32, 32:48] / 255, atol=1e-6)
    assert len(images_of(str(tmp_path / "photos"), "train", (16, 16), 5)) == 5


def test_c5_a_folder_with_a_test_folder_of_its_own(tmp_path):
    made = pictures_in(tmp_path / "photos" / "train", 3, (16, 16))
    pictures_in(tmp_path / "photos" / "test", 1, (20, 10, 3))  # smaller than a tile: padded
    train, test = (images_of(str(tmp_path / "photos"), part, (16, 16)) for part in ("train", "test"))
    np.testing.assert_allclose(train, np.stack(made)[..., None] / 255, atol=1e-6)
    assert test.shape == (1, 16, 16, 3)


def test_c5_grey_and_transparent_pictures_among_coloured_ones(tmp_path):
    folder = tmp_path / "photos"
    pictures_in(folder, 2, (16, 16, 3))
    grey = rng.integers(0, 256, (16, 16)).astype(np.uint8)
    Image.fromarray(grey).save(folder / "02.png")
    Image.fromarray(np.dstack([grey] * 4)).save(folder / "03.png")
    Image.fromarray(grey).save(folder / "04.bmp")
    train = images_of(str(folder), "train", (16, 16))
    assert train.shape == (4, 16, 16, 3)
    for row in (2, 3):
        np.testing.assert_allclose(train[row], np.dstack([grey] * 3) / 255, atol=1e-6)


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_c5_images_are_never_squashed(suffix, tmp_path):
    path, images = str(tmp_path / f"wide.{suffix}"), np.zeros((4, 32, 64, 1), np.uint8)
    np.savez(path, x_train=images, x_test=images) if suffix == "npz" else np.save(path, images)
    with pytest.raises(DataError, match="32 x 64 would be squashed to 16 x 16"):
        images_of(path, "train", (16, 16))
    assert images_of(path, "train", (16, 32)).shape[1:] == (16, 32, 1)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: np.save(p / "x.npy", np.zeros((1, 16, 16))), "two images at least"),
        (lambda p: np.save(p / "x.npy", np.full((4, 16, 16), 256)), "integers 0 to 255"),
        (lambda p: np.save(p / "x.npy", np.full((4, 16, 16), -1)), "integers 0 to 255"),
        (lambda p: np.save(p / "x.npy", np.zeros(9)), "must hold images"),
        (lambda p: (p / "x.npy").write_bytes(b"no array"), "not a .npy file"),
        (lambda p: (p / "x.npy").mkdir(), "without pictures"),
    ],
)
def test_c5_what_is_no_training_data_is_one_line(make, message, tmp_path, refused):
    make(tmp_path)
    code = train_compressor.main([*TRAINING, f"--data={tmp_path / 'x.npy'}", f"--train-dir={tmp_path / 'run'}"])
    refused(code, message)
    assert not (tmp_path / "run" / "model.keras").exists()


def test_c5_the_commands_take_a_folder(tmp_path, capsys):
    pictures_in(tmp_path / "photos", 20, (33, 20), "jpg")
    data, run = f"--data={tmp_path / 'photos'}", tmp_path / "run"
    assert train_compressor.main([*TRAINING, data, f"--train-dir={run}"]) == 0
    assert train_compressor.main(["eval", f"--train-dir={run}", "--eval-images=4"]) == 0
    assert codec.main(["fit", f"--model={run}", data]) == 0
    assert f"fitted to {18 * 2} images" in capsys.readouterr().out

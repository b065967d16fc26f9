"""Crops of photographs, a function of seed and step."""

import numpy as np
import pytest
from PIL import Image

import tf_robustcomp as rc
from tf_robustcomp.data.crops import crop_batches, crops, photographs


@pytest.fixture
def folder(tmp_path, rng):
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (70 + number, 90, 3), np.uint8)).save(tmp_path / f"p{number:02d}.png")
    Image.fromarray(rng.integers(0, 256, (80, 80), np.uint8)).save(tmp_path / "p30.png")
    Image.fromarray(rng.integers(0, 256, (30, 90, 3), np.uint8)).save(tmp_path / "p31.png")
    return tmp_path


def test_every_tenth_picture_is_for_test_and_small_ones_are_left_out(folder):
    train, test = (photographs(folder, part, 64) for part in ("train", "test"))
    assert len(train) == 19 and len(test) == 2
    assert {image.shape[0] for image in test} == {79, 89}
    assert np.array_equal(train[-1][..., 0], train[-1][..., 2])  # the grey one, in colour
    (folder / "train").mkdir(), (folder / "test").mkdir()
    (folder / "p00.png").rename(folder / "train" / "p00.png")
    (folder / "p01.png").rename(folder / "test" / "p01.png")
    assert [image.shape[0] for image in photographs(folder, "train")] == [70]
    assert [image.shape[0] for image in photographs(folder, "test")] == [71]


def test_no_picture_is_one_line(folder, tmp_path):
    with pytest.raises(rc.DataError, match="no picture for train has sides of 500"):
        photographs(folder, "train", 500)
    with pytest.raises(rc.DataError, match="no folder"):
        photographs(tmp_path / "none")


def test_crops_are_pieces_of_the_pictures(folder):
    images = photographs(folder, "train", 64)
    whole = np.full((64, 64, 3), 7, np.uint8)
    batch = crops([whole], 2, 64, 0, 0)
    assert batch.dtype == np.float32 and np.allclose(batch, 7 / 255)
    values = np.unique(images[0])
    assert np.isin(np.round(crops(images[:1], 4, 64, 1, 2) * 255), values).all()


def test_half_of_the_crops_are_made_smaller():
    """Stripes of two pixels stay black and white where nothing is resized."""
    stripes = np.tile(np.repeat(np.array([0, 255], np.uint8), 2)[None, :, None], (256, 64, 3))
    batch = crops([stripes], 200, 64, 0, 0, shrink=2.0)
    whole = np.mean([np.isin(crop, (0, 1)).all() for crop in batch])
    assert batch.shape == (200, 64, 64, 3) and 0.4 < whole < 0.6
    assert np.allclose(batch.mean(), 0.5, atol=0.02)


@pytest.mark.tensorflow_only
def test_batches_follow_from_seed_and_step_wherever_a_run_goes_on(folder):
    images = photographs(folder, "train", 64)
    first = [batch.numpy() for batch in crop_batches(images, 3, 64, seed=5).take(4)]
    later = [batch.numpy() for batch in crop_batches(images, 3, 64, seed=5, first_step=2).take(2)]
    assert np.array_equal(first[2:], later) and not np.array_equal(first[0], first[1])
    assert np.array_equal(first[1], crops(images, 3, 64, 5, 1))

"""Models that come with the package: what is written is read again, damage is named."""

import numpy as np
import pytest

import tf_robustcomp as rc
from tf_robustcomp.compression import pretrained
from tf_robustcomp.compression.symbols import decode_all, encode_all
from tf_robustcomp.data.unlabelled import images_of
from tf_robustcomp.runs.models import load_trained
from tf_robustcomp.utils.errors import DataError, InvalidArgument, RunError


@pytest.fixture(scope="module")
def digits():
    """Images of the size of the shipped compressor."""
    return images_of("digits", "test", (32, 32), 40)


@pytest.mark.parametrize("name", ["mnist-standard", "mnist-min-max"])
def test_the_shipped_compressors_code_digits(digits, name):
    model = rc.load_pretrained(name)
    data = model.compress(digits)
    symbols = encode_all(model, digits)
    assert model.entropy_model.ideal_bits(symbols) / len(digits) < 40
    np.testing.assert_allclose(model.decompress(data), decode_all(model, symbols), atol=1e-5)
    blank = np.zeros((1, 32, 32, 1), "float32")  # a picture that is near to those of MNIST
    assert np.sum((blank - model.decompress(model.compress(blank))) ** 2) < 30
    assert (symbols == encode_all(rc.load_pretrained(name), digits)).all()


def test_its_name_is_as_good_as_a_path_where_no_file_has_it(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_trained("mnist-standard").compress(digits) == rc.load_pretrained("mnist-standard").compress(digits)
    (tmp_path / "mnist-standard").mkdir()
    with pytest.raises(RunError, match="not a run directory"):
        load_trained("mnist-standard")


def test_a_compressor_is_read_as_it_was_written(digits, tmp_path):
    model = rc.Compressor(latent_dim=3, levels=5, width=4)
    model(digits[:1])
    pretrained.round_weights(model)
    model.fit_entropy_model(digits)
    pretrained.write(model, tmp_path / "own.npz")
    again = pretrained.read(tmp_path / "own.npz")
    assert again.compress(digits) == model.compress(digits)


def test_a_damaged_file_and_an_unknown_name_get_one_line(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(DataError, match=r"bad\.npz: not a trained model of this package"):
        pretrained.read(tmp_path / "bad.npz")
    with pytest.raises(InvalidArgument, match="mnist-standard"):
        rc.load_pretrained("mnist")

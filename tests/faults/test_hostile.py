"""Files from somebody else: nothing in them is run, nothing leaves its directory, nothing asks for memory on trust."""

import contextlib
import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest

import tf_robustcomp as rc
from tests.faults.programs import COMPRESSOR
from tf_robustcomp import train_compressor
from tf_robustcomp.data import pictures
from tf_robustcomp.data.images import load_images
from tf_robustcomp.runs import directory as runs

pytestmark = pytest.mark.tensorflow_only


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def run(tmp_path):
    assert (
        train_compressor.main(
            ["train", *COMPRESSOR, "--latent-dim=3", "--epochs=0.5", f"--train-dir={tmp_path / 'run'}"]
        )
        == 0
    )
    return runs.Run(tmp_path / "run")


def changed_config(path, change):
    """Rewrite the config.json inside a .keras file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.slow
def test_lambda_layers_are_refused(run):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)])
    model.save(run.model_path)
    with pytest.raises(rc.RunError, match="cannot be read"):
        run.load_model()


@pytest.mark.parametrize(
    ("module", "name"), [("os", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("shutil", "rmtree")]
)
def test_a_model_that_names_a_function_of_python_is_refused(run, module, name, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()

    def change(config):
        arguments = {"path": str(victim), "command": f"rm -r {victim}"}
        config.clear()
        config.update({"module": module, "class_name": name, "config": arguments, "registered_name": None})

    changed_config(run.model_path, change)
    with pytest.raises(rc.RunError, match="cannot be read"):
        run.load_model()
    assert victim.exists()


def test_an_adversary_that_is_a_function_of_python_is_refused(run, tmp_path):
    def change(config):
        config["compile_config"]["adversary"] = {
            "module": "os",
            "class_name": "getcwd",
            "config": {},
            "registered_name": None,
        }

    changed_config(run.model_path, change)
    with pytest.raises(rc.RunError, match="cannot be read"):
        run.load_model()


def test_members_of_an_archive_stay_inside(run, tmp_path):
    with zipfile.ZipFile(run.model_path, "a") as archive:
        archive.writestr("../../escaped.txt", "out")
        archive.writestr("/tmp/escaped-tf-robustcomp.txt", "out")
    with contextlib.suppress(rc.RunError):
        run.load_model()
    assert not (tmp_path.parent / "escaped.txt").exists() and not list(tmp_path.rglob("escaped*"))
    assert not Path("/tmp/escaped-tf-robustcomp.txt").exists()


def test_pickles_are_refused(tmp_path):
    marker = tmp_path / "unpickled"
    objects = np.array([Bomb(marker)], dtype=object)
    np.savez(tmp_path / "a.npz", x_train=objects, y_train=objects, x_test=objects, y_test=objects)
    np.save(tmp_path / "a.npy", objects)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb(marker)))
    for load in (
        lambda: load_images(tmp_path / "a.npz"),
        lambda: pictures.read(tmp_path / "a.npz"),
        lambda: pictures.read(tmp_path / "a.npy"),
        lambda: pictures.read(tmp_path / "b.npy"),
    ):
        with pytest.raises(rc.DataError):
            load()
    assert not marker.exists()


def header_only_npy(shape):
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", [(10**6, 10**6, 4), (2**62, 2, 2)])
def test_headers_that_promise_too_much_take_no_memory(shape, tmp_path):
    (tmp_path / "a.npy").write_bytes(header_only_npy(shape))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", header_only_npy(shape))
    chunk = struct.pack(">II", 2**30, 2**30) + b"\x08\x00\x00\x00\x00"
    ihdr = b"IHDR" + chunk
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    (tmp_path / "a.png").write_bytes(png + b"\0\0\0\0IDAT")
    tracemalloc.start()
    for name in ("a.npy", "a.png"):
        with pytest.raises(rc.DataError):
            pictures.read(tmp_path / name)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    with pytest.raises(rc.DataError):
        pictures.read(tmp_path / "a.npz")
    with pytest.raises(rc.DataError):
        load_images(tmp_path / "a.npz")


def test_a_deflated_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "a.npz"
    zeros = header_only_npy((200, 1000, 1000)) + b"\0" * 200_000_000
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", zeros if name == "x_test" else header_only_npy((1,)) + b"\0")
    del zeros
    data = bytearray(path.read_bytes())
    path.write_bytes(data)
    loaded = pictures.read(path)  # deflate's own limit is a factor of 1,032: what is true may be read
    assert loaded.pixels.shape == (200, 1000, 1000, 1)


def test_a_run_directory_names_no_code(run, tmp_path):
    config = run.config
    config["settings"]["data"] = "__import__('os').system('touch pwned')"
    run.config_path.write_text(json.dumps(config))
    assert train_compressor.main(["eval", f"--train-dir={run.path}"]) == 2
    assert not (tmp_path / "pwned").exists()

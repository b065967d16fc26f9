"""The command line: settings, spellings, flag files, errors."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

import tf_robustcomp as rc
from tf_robustcomp import flags


@dataclasses.dataclass(frozen=True)
class Settings:
    train_dir: str | None = flags.field(None, "a folder", operational=True)
    share: float = flags.field(0.3, "a share", minimum=0, maximum=1)
    rates: tuple[float, ...] = flags.field((0.1, 0.2), "some rates", minimum=0)
    strategy: str = flags.field("none", "a choice", choices=("none", "mirrored"))
    quick: bool = flags.field(False, "a switch")
    steps: int = flags.field(10, "a count", minimum=1)


def test_both_spellings_and_lists_and_switches_are_read():
    for words in (
        ["--train-dir=a", "--rates", "1,2.5", "--quick"],
        ["--train_dir", "a", "--rates=1,2.5", "--quick=true"],
    ):
        settings, given, rest = flags.parse(Settings, ["train", *words])
        assert settings == Settings(train_dir="a", rates=(1.0, 2.5), quick=True)
        assert given == {"train_dir", "rates", "quick"}
        assert rest == ["train"]


def test_a_flag_file_is_overridden_by_what_follows_it(tmp_path):
    (tmp_path / "f.cfg").write_text("# settings\n--share=0.5\n--train-dir=b\n")
    settings, given, _ = flags.parse(Settings, [f"--flagfile={tmp_path / 'f.cfg'}", "--share=0.7"])
    assert settings == Settings(share=0.7, train_dir="b")
    assert given == {"share", "train_dir"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--unknown=1"], "unknown"),
        (["--share=1.5"], "--share must be in"),
        (["--share=nan"], "--share must be in"),
        (["--share=x"], "share"),
        (["--rates=1,x"], "--rates must be numbers"),
        (["--rates=1,-1"], "--rates must be >= 0"),
        (["--strategy=two"], "strategy"),
        (["--steps=0"], "--steps must be >= 1"),
        (["--steps=1.5"], "steps"),
        (["--flagfile=none.cfg"], "error: Unable to open flagfile"),
        (["--train-dir"], "train_dir"),
        (["go"], "go"),
        (["train", "more"], "train more"),
    ],
)
def test_bad_words_are_one_line_and_exit_code_2(words, named, capsys):
    words = words if words[0] in ("go", "train") else ["train", *words]
    code = flags.run("program", "Doc.", Settings, lambda settings, action: 0, words, positional=(("train",),))
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert error.startswith("program: error: ") and named in error and "\n" not in error


def test_errors_of_the_package_and_the_system_become_one_line(capsys):
    for error, text in ((rc.DataError("a\nb"), "a b"), (FileNotFoundError(2, "No such file", "x"), "x: No such file")):

        def fail(settings, error=error):
            raise error

        assert flags.run("program", "Doc.", Settings, fail, []) == 2
        assert capsys.readouterr().err == f"program: error: {text}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_with_their_exit_code(number, capsys):
    assert flags.run("program", "Doc.", Settings, lambda settings: os.kill(os.getpid(), number), []) == 128 + number
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module",
    [
        "train_resnet_random",
        "prune_resnet_dns",
        "run",
        "plot_summary",
        "demo",
        "train_compressor",
        "plot_reconstructions",
    ],
)
def test_help_lists_every_flag_without_loading_keras(module):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['-m']\nimport tf_robustcomp\nsys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('tf_robustcomp.{module}', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'keras' not in sys.modules and 'tensorflow' not in sys.modules, 'help loads Keras'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import importlib

    for field in dataclasses.fields(importlib.import_module(f"tf_robustcomp.{module}").Settings):
        assert flags.spelled(field.name) in done.stdout
        assert field.metadata["help"][:30] in done.stdout


PROGRAM = """
import sys
from tf_robustcomp import flags
flags.import_backend_quietly()
import keras
before = "sklearn" in sys.modules
from sklearn.datasets import load_digits
assert load_digits().data.shape == (1797, 64)
from matplotlib import pyplot
print(before)
"""


@pytest.mark.tensorflow_only
@pytest.mark.parametrize("package", ["tf_robustcomp", "another"])
def test_a_command_alone_leaves_out_what_keras_imports_in_vain_and_finds_it_later(tmp_path, package):
    folder = tmp_path / package  # a module of that package, and the rest of this one
    folder.mkdir()
    (folder / "__init__.py").write_text(f"__path__ += {rc.__path__!r}" if package == "tf_robustcomp" else "")
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", f"{package}.program"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(package != "tf_robustcomp")]

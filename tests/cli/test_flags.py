"""The command line: settings, spellings, flag files, errors."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

import tf_robustcomp as rc
from tf_robustcomp.cli import flags
from tf_robustcomp.cli.commands import COMMANDS
from tf_robustcomp.utils.settings import field, spelled


@dataclasses.dataclass(frozen=True)
class Settings:
    train_dir: str | None = field(None, "a folder", operational=True)
    share: float = field(0.3, "a share", minimum=0, maximum=1)
    rates: tuple[float, ...] = field((0.1, 0.2), "some rates", minimum=0)
    strategy: str = field("none", "a choice", choices=("none", "mirrored"))
    quick: bool = field(False, "a switch")
    steps: int = field(10, "a count", minimum=1)
    price: float = field(1.0, "a price", above=0)
    kind: str = field("one", "a late choice", choices=lambda: ("one", "two"))


def test_both_spellings_and_lists_and_switches_are_read():
    for words in (
        ["--train-dir=a", "--rates", "1,2.5", "--quick"],
        ["--train_dir", "a", "--rates=1,2.5", "--quick=true"],
    ):
        parsed = flags.parse(Settings, ["train", *words])
        assert parsed.settings == Settings(train_dir="a", rates=(1.0, 2.5), quick=True)
        assert parsed.given == {"train_dir", "rates", "quick"}
        assert parsed.words == ("train",)


def test_a_flag_file_is_overridden_by_what_follows_it(tmp_path):
    (tmp_path / "f.cfg").write_text("# settings\n--share=0.5\n--train-dir=b\n")
    parsed = flags.parse(Settings, [f"--flagfile={tmp_path / 'f.cfg'}", "--share=0.7"])
    assert parsed.settings == Settings(share=0.7, train_dir="b")
    assert parsed.given == {"share", "train_dir"}


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
        (["--price=0"], "--price must be > 0. Received: 0.0"),
        (["--price=inf"], "--price must be > 0"),
        (["--price=nan"], "--price must be > 0"),
        (["--kind=three"], "kind"),
        (["--flagfile=none.cfg"], "error: Unable to open flagfile"),
        (["--train-dir"], "train_dir"),
        (["go"], "go"),
        (["train", "more"], "train more"),
    ],
)
def test_bad_words_are_one_line_and_exit_code_2(words, named, capsys):
    words = words if words[0] in ("go", "train") else ["train", *words]
    code = flags.run("program", "Doc.", Settings, lambda parsed: 0, words, positional=(("train",),))
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert error.startswith("program: error: ") and named in error and "\n" not in error


def test_errors_of_the_package_and_the_system_become_one_line(capsys):
    for error, text in ((rc.DataError("a\nb"), "a b"), (FileNotFoundError(2, "No such file", "x"), "x: No such file")):

        def fail(parsed, error=error):
            raise error

        assert flags.run("program", "Doc.", Settings, fail, []) == 2
        assert capsys.readouterr().err == f"program: error: {text}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_with_their_exit_code(number, capsys):
    assert flags.run("program", "Doc.", Settings, lambda parsed: os.kill(os.getpid(), number), []) == 128 + number
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize("module", COMMANDS)
def test_help_lists_every_flag_without_loading_keras(module):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('tf_robustcomp.{module}', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'keras' not in sys.modules and 'tensorflow' not in sys.modules, 'help loads Keras'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import importlib

    for setting in dataclasses.fields(importlib.import_module(f"tf_robustcomp.{module}").Settings):
        assert spelled(setting.name) in done.stdout
        assert setting.metadata["help"][:30] in done.stdout


def test_importing_the_package_loads_nothing_until_a_name_is_used():
    code = (
        "import sys, tf_robustcomp as rc; assert 'keras' not in sys.modules and rc.__version__;"
        "import keras; assert keras.saving.get_registered_object('tf_robustcomp>DNS') is None;"
        "assert rc.DNS is keras.saving.get_registered_object('tf_robustcomp>DNS')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_where_keras_is_there_already_the_classes_are_registered_at_once():
    code = "import keras, tf_robustcomp; assert keras.saving.get_registered_object('tf_robustcomp>Compressor')"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_everything_is_imported_where_fcntl_is_absent():
    code = (
        "import importlib, pkgutil, sys; sys.modules['fcntl'] = None; import tf_robustcomp as rc;"
        "names = [m.name for m in pkgutil.walk_packages(rc.__path__, 'tf_robustcomp.')];"
        "[importlib.import_module(name) for name in names]; assert len(names) > 100"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

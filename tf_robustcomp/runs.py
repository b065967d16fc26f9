"""A run directory: settings, checkpoints, resume, metrics, results.

::

    config.json            command, every setting, versions
    checkpoint.keras       model, optimizer, progress at the last checkpoint; checkpoint-previous.keras the one before
    metrics.csv            one row every --log-steps steps
    tensorboard/           the same rows as events
    model.keras            the trained model; its presence means that the run has finished
    eval_<split>.json      what evaluation found

A run is a function of its settings: killed at any moment and started again it ends in the same files.
"""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import os
import platform
import zipfile
from pathlib import Path

from tf_robustcomp import files
from tf_robustcomp.errors import Error, InvalidArgument, RunError
from tf_robustcomp.flags import operational_names, spelled

CHECKPOINTS = ("checkpoint.keras", "checkpoint-previous.keras")  # newest first
PROGRESS_MEMBER = "progress.json"
DISTRIBUTIONS = ("tf_robustcomp", "keras", "tensorflow", "jax", "torch", "numpy")


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a checkpoint stands: steps made, and the metric sums of the row that was under way."""

    step: int = 0
    metrics: tuple = ()


@contextlib.contextmanager
def open_run(directory, command, settings):
    """Open a run directory for training, as its only user.

    Args:
        directory: path; created when missing.
        command: name of the entry point.
        settings: dataclass made of `flags.field`s.

    Yields:
        Run

    Raises:
        InvalidArgument: it is an address.
        RunError: another process trains there, or the directory belongs to other settings (the message names them).
    """
    if "://" in str(directory):
        raise InvalidArgument(
            f"a run directory must be a path; --sweep and reproduce take addresses. Received: {directory}"
        )
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    with open(path / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{path}: another process trains in this directory; wait for it or choose another") from None
        files.remove_leftovers(path)
        run = Run(path, command, settings)
        if run.config_path.is_file():
            run.check_settings(command, settings)
        yield run


class Run:
    """Paths and contents of one run directory.

    Args:
        path: the directory.
        command, settings: entry point and its settings, for a run that is to be trained.
    """

    def __init__(self, path, command=None, settings=None):
        self.path = Path(path)
        self.command = command
        self.settings = settings
        self.config_path = self.path / "config.json"
        self.model_path = self.path / "model.keras"
        self.metrics_path = self.path / "metrics.csv"
        self.checkpoint_paths = tuple(self.path / name for name in CHECKPOINTS)

    @property
    def finished(self):
        """Whether the trained model is there."""
        return self.model_path.is_file()

    @property
    def config(self):
        """Contents of config.json.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            config = json.loads(self.config_path.read_text())
            if isinstance(config["command"], str) and isinstance(config["settings"], dict):
                return config
        except FileNotFoundError:
            raise RunError(f"{self.path}: not a run directory (no config.json); train there first") from None
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise RunError(f"{self.config_path}: cannot be read; restore it or train in another directory")

    def settings_as(self, kind):
        """Settings by name, a dict; one that is younger than the run has its default.

        Args:
            kind: dataclass of the settings, or an instance.
        """
        return _plain({f.name: f.default for f in dataclasses.fields(kind)}) | self.config["settings"]

    def begin(self):
        """Write config.json, if this is the first time; to be called once the input has been found good."""
        if not self.config_path.is_file():
            files.write_json(self.config_path, _description(self.command, self.settings))

    def check_settings(self, command, settings, only=None):
        """Refuse settings other than the run's own.

        Args:
            command: name of the entry point.
            settings: dataclass.
            only: names to compare; default all but the operational ones.

        Raises:
            RunError: names every setting that differs.
        """
        config = self.config
        if config["command"] != command:
            raise RunError(f"{self.path}: made by {config['command']}, not {command}; choose another directory")
        names = {f.name for f in dataclasses.fields(settings)} if only is None else set(only)
        mine, theirs = _plain(dataclasses.asdict(settings)), self.settings_as(settings)
        differing = [
            f"{spelled(name)} is {theirs[name]} there, {mine[name]} here"
            for name in sorted(names - operational_names(settings))
            if theirs[name] != mine[name]
        ]
        if differing:
            raise RunError(
                f"{self.path}: trained with other settings ({'; '.join(differing)}); give the same flags or choose "
                "another directory"
            )

    def save_checkpoint(self, model, progress):
        """Write the checkpoint; the one before it stays as a fallback."""
        newest, previous = self.checkpoint_paths
        with files.replacing(newest) as temporary:
            model.save(temporary)
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr(PROGRESS_MEMBER, json.dumps(dataclasses.asdict(progress)))
            if newest.is_file():
                _keep_as(newest, previous)

    def resume(self, load):
        """Newest checkpoint that can be read.

        Args:
            load: function of a path that gives the model.

        Returns:
            ``(model, Progress)``, or None where there is no checkpoint.

        Raises:
            RunError: there are checkpoints and none can be read.
        """
        present = [path for path in self.checkpoint_paths if path.is_file()]
        for path in present:
            try:
                progress = _read_progress(path)
                return load(path), progress
            except Exception as error:  # a damaged file fails in whatever layer meets it first
                print(f"{path}: cannot be read ({type(error).__name__}); trying the one before")
        if present:
            raise RunError(f"{self.path}: no checkpoint can be read; delete checkpoint*.keras to train from the start")
        return None

    def finish(self, model):
        """Write the trained model; from here on the run is finished."""
        with files.replacing(self.model_path) as temporary:
            model.save(temporary)
        for path in self.checkpoint_paths:
            path.unlink(missing_ok=True)

    def replace_model(self, model):
        """Write the trained model anew, with something added to it."""
        with files.replacing(self.model_path) as temporary:
            model.save(temporary)

    def load_model(self, load=None):
        """The trained model, or the newest checkpoint of an unfinished run (and says so).

        Raises:
            RunError: neither is there, or it is damaged.
        """
        load = load or load_model
        if not self.finished:
            try:
                resumed = self.resume(load) if self.config else None
            except RunError:
                if not self.finished:  # to finish deletes the checkpoints, whoever reads them
                    raise
                resumed = None
            if resumed:
                print(f"{self.path}: not finished; using its checkpoint of step {resumed[1].step}")
                return resumed[0]
            if not self.finished:
                raise RunError(f"{self.path}: holds no trained model; train there first")
        try:
            _check_archive(self.model_path)
            return load(self.model_path)
        except Exception as error:
            raise RunError(
                f"{self.model_path}: cannot be read ({type(error).__name__}: {str(error).splitlines()[0][:120]}); "
                "delete it and train again"
            ) from None


def load_model(path):
    """Load a ``.keras`` file with the package's own classes known and Keras' safe mode on."""
    import keras

    import tf_robustcomp

    tf_robustcomp.load_all()
    return keras.saving.load_model(path, safe_mode=True)


def find_runs(roots, command):
    """Run directories of one entry point among ``roots`` and their direct children, sorted by path."""
    found: dict = {}
    for root in map(Path, roots):
        for path in (root, *sorted(p for p in root.glob("*") if p.is_dir())):
            try:
                if Run(path).config["command"] == command:
                    found.setdefault(path.resolve(), Run(path))
            except Error:
                continue
    return sorted(found.values(), key=lambda run: str(run.path))


def _description(command, settings):
    import keras

    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "command": command,
        "settings": _plain(dataclasses.asdict(settings)),
        "versions": {**versions, "backend": keras.backend.backend()},
    }


def _plain(values):
    """Values as JSON gives them back: tuples are lists."""
    return json.loads(json.dumps(values))


def _keep_as(path, older):
    """Put ``path`` in the place of ``older`` without taking it away: an evaluation may be about to read it."""
    try:
        with files.replacing(older) as temporary:
            os.link(path, temporary)
    except OSError:  # a file system without hard links
        path.replace(older)


def _check_archive(path):
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise RunError(f"{damaged} is damaged")


def _read_progress(path):
    _check_archive(path)
    with zipfile.ZipFile(path) as archive:
        fields = json.loads(archive.read(PROGRESS_MEMBER))
    return Progress(step=int(fields["step"]), metrics=tuple(fields["metrics"]))

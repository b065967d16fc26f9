"""A run directory: settings, checkpoints, resume, metrics, results.

::

    config.json            command, every setting, versions
    checkpoint.keras       model, optimizer, progress at the last checkpoint; checkpoint-previous.keras the one before
    progress.json          steps made and to make, for who watches the run
    metrics.csv            one row every --log-steps steps
    tensorboard/           the same rows as events
    model.keras            the trained model; its presence means that the run has finished
    eval_<split>.json      what evaluation found

A run is a function of its settings: killed at any moment and started again it ends in the same files.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp import load_model
from tf_robustcomp.data.images import check_source
from tf_robustcomp.runs.checkpoints import Progress, add_progress, check_archive, keep_as, progress_of
from tf_robustcomp.utils import documents, files, registry
from tf_robustcomp.utils.errors import DataError, InvalidArgument, RunError
from tf_robustcomp.utils.progress import PROGRESS_FILE
from tf_robustcomp.utils.settings import operational_names, spelled

LOCK = ".lock"  # held by whoever writes models, checkpoints or metrics into a run directory
CHECKPOINTS = ("checkpoint.keras", "checkpoint-previous.keras")  # newest first
OWN_FILES = (*CHECKPOINTS, "model.keras", "metrics.csv", "tensorboard", "eval_train.json", "eval_test.json")
DISTRIBUTIONS = ("tf_robustcomp", "keras", "tensorflow", "jax", "torch", "numpy")


@dataclasses.dataclass(frozen=True)
class Config:
    """Contents of config.json: command, settings, versions, and digests of the data by split."""

    command: str
    settings: dict[str, Any]
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def open_run(directory: str | Path, command: str, settings: Any) -> Iterator["Run"]:
    """Open a run directory for training, as its only user.

    Args:
        directory: path; created when missing.
        command: name of the command.
        settings: dataclass made of `utils.settings.field`.

    Yields:
        Run

    Raises:
        InvalidArgument: it is no path.
        RunError: another process trains there, the directory belongs to other settings (the message names them), or to
            something else, or a symbolic link in it leads elsewhere.
    """
    path = files.folder(directory)
    busy = f"{path}: another process trains in this directory; wait for it or choose another"
    run = Run(path, command, settings)
    run.check_entries()
    with files.locked(path / LOCK, busy):
        files.remove_leftovers(path)
        run.check_own()
        yield run


def check_before(action: str, command: str, parsed: Any, source: str, remedy: str = "") -> None:
    """Check what a command will need of its run directory and its data, before anything slow.

    Args:
        action: "train" or "eval".
        command: its name.
        parsed: `cli.flags.Parsed`, its settings complete.
        source: name of the setting that names the training data.
        remedy: what to do where they are missing.

    Raises:
        RunError: the directory is none of this run.
        DataError: the data are missing.
    """
    settings = parsed.settings
    run, data = Run(settings.train_dir, command, settings), getattr(settings, source)
    if action == "eval":
        run.check_settings(command, settings, only=parsed.given - {source})
        data = data if source in parsed.given else run.settings_as(settings)[source]
    elif run.path.exists():
        run.check_entries()
        run.check_own()
        if run.finished and not run.longer(settings):
            return
    check_source(data, remedy)


class Run:
    """Paths and contents of one run directory.

    Args:
        path: the directory.
        command, settings: command and its settings, for a run that is to be trained.
    """

    def __init__(self, path: str | Path, command: str | None = None, settings: Any = None) -> None:
        self.path = Path(path)
        self.command = command
        self.settings = settings
        self.config_path = self.path / "config.json"
        self.model_path = self.path / "model.keras"
        self.metrics_path = self.path / "metrics.csv"
        self.checkpoint_paths = tuple(self.path / name for name in CHECKPOINTS)

    @property
    def finished(self) -> bool:
        """True if the trained model exists."""
        return self.model_path.is_file()

    @property
    def config(self) -> dict[str, Any]:
        """Contents of config.json.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            return dataclasses.asdict(documents.read(self.config_path, Config))
        except FileNotFoundError:
            raise RunError(f"{self.path}: not a run directory (no config.json); train there first") from None
        except DataError as error:
            raise RunError(f"{error}; restore it or train in another directory") from None

    def check_entries(self) -> None:
        """Raise RunError where something else made the directory, or a symbolic link in it leads elsewhere."""
        files.check_no_links(self.path, (LOCK, *OWN_FILES))
        files.check_ours(self.path, "config.json", OWN_FILES)

    def check_own(self) -> None:
        """Raise RunError where the run has begun with other settings than it is to be trained with."""
        if self.config_path.is_file():
            self.check_settings(self.command, self.settings, longer=True)

    def settings_as(self, kind: Any) -> dict[str, Any]:
        """Return the settings by name; a setting that is younger than the run has its default.

        Args:
            kind: dataclass of the settings, or an instance.
        """
        return _plain({f.name: f.default for f in dataclasses.fields(kind)}) | self.config["settings"]

    def begin(self, digests: Mapping[str, str] | None = None) -> None:
        """Write config.json, if this is the first time; call it once the input has been checked.

        Args:
            digests: of the data by split, of `digest`; those of a run that began earlier are compared.

        Raises:
            RunError: the run began on other data.
        """
        if not self.config_path.is_file():
            files.write_json(self.config_path, _description(self.command, self.settings) | {"digests": digests or {}})
        for split, own in (digests or {}).items():
            self.check_data(split, own)

    def check_data(self, split: str, own: str) -> None:
        """Refuse data other than those that the run began with, by their `digest`; runs before 0.2 hold none.

        Raises:
            RunError: the data differ.
        """
        if self.config.get("digests", {}).get(split, own) != own:
            raise RunError(
                f"{self.path}: its {split} data have changed since the run began; restore the file that it was trained "
                "on, or choose another directory"
            )

    def longer(self, settings: Any) -> dict[str, tuple[float, float]]:
        """Return the lengths that ``settings`` raise beyond the run's own, each with the old and the new one."""
        if settings.shaped_by_length() or not self.config_path.is_file():
            return {}
        own = self.settings_as(settings)
        lengths = [f.name for f in dataclasses.fields(settings) if f.metadata.get("length")]
        return {n: (own[n], getattr(settings, n)) for n in lengths if own[n] < getattr(settings, n)}

    def prolong(self, settings: Any) -> None:
        """Let the run go on to the larger length in ``settings``; its model becomes the checkpoint to go on from.

        Raises:
            RunError: the run does not say how many steps it made.
        """
        if self.finished:
            try:
                step = documents.read(self.path / PROGRESS_FILE, dict[str, int])["step"]
            except (FileNotFoundError, DataError, KeyError):
                raise RunError(f"{self.path}: does not tell how many steps it made; train elsewhere") from None
            with files.replacing(self.checkpoint_paths[0]) as temporary:
                shutil.copyfile(self.model_path, temporary)
                add_progress(temporary, Progress(step))
            self.model_path.unlink()
        for path in self.path.glob("eval_*.json"):  # of the shorter training
            path.unlink()
        # Last: until then the run is one of the old length, and is asked to go on again.
        files.write_json(self.config_path, self.config | {"settings": _plain(dataclasses.asdict(settings))})

    def check_settings(
        self, command: str | None, settings: Any, only: Collection[str] | None = None, longer: bool = False
    ) -> None:
        """Refuse settings other than the run's own.

        Args:
            command: name of the command.
            settings: dataclass.
            only: names to compare; default all but the operational ones.
            longer: whether lengths may be larger than the run's.

        Raises:
            RunError: names every setting that differs.
        """
        config = self.config
        names = {f.name for f in dataclasses.fields(settings)} if only is None else set(only)
        names -= operational_names(settings) | (self.longer(settings).keys() if longer else set())
        if config["command"] != command:
            raise RunError(f"{self.path}: made by {config['command']}, not {command}; choose another directory")
        mine, theirs = _plain(dataclasses.asdict(settings)), self.settings_as(settings)
        differing = [
            f"{spelled(name)} is {theirs[name]} there, {mine[name]} here"
            for name in sorted(names)
            if theirs[name] != mine[name]
        ]
        if differing:
            raise RunError(
                f"{self.path}: trained with other settings ({'; '.join(differing)}); give the same flags or choose "
                "another directory"
            )

    def check_warm_start(self, settings: Any, kind: Any, names: Sequence[str], remedy: str) -> None:
        """Refuse to start from this run unless it is finished and shares the named settings.

        Args:
            settings: of the run that starts.
            kind: dataclass of this run's settings.
            names: of the settings that both share.
            remedy: command that makes such a run.

        Raises:
            RunError: it is not finished.
            InvalidArgument: a setting differs.
        """
        if not self.finished:
            raise RunError(f"--warm-start {self.path}: holds no trained network; run first: {remedy}")
        theirs = self.settings_as(kind)
        for name in names:
            if theirs[name] != getattr(settings, name):
                raise InvalidArgument(
                    f"{spelled(name)} must be that of --warm-start {self.path}, {theirs[name]}. "
                    f"Received: {getattr(settings, name)}"
                )

    def save_checkpoint(self, model: Any, progress: Progress) -> None:
        """Write the checkpoint; the one before it stays as a fallback."""
        newest, previous = self.checkpoint_paths
        with files.replacing(newest) as temporary:
            model.save(temporary)
            add_progress(temporary, progress)
            if newest.is_file():
                keep_as(newest, previous)

    def resume(self, load: Callable) -> tuple[Any, Progress] | None:
        """Return the newest checkpoint that can be read.

        Args:
            load: function of a path that returns the model.

        Returns:
            ``(model, Progress)``, or None where there is no checkpoint.

        Raises:
            RunError: there are checkpoints and none can be read.
        """
        present = [path for path in self.checkpoint_paths if path.is_file()]
        for path in present:
            try:
                progress = progress_of(path)
                return load(path), progress
            except Exception as error:  # a damaged file fails in whatever layer meets it first
                print(f"{path}: cannot be read ({type(error).__name__}); trying the one before")
        if present:
            raise RunError(f"{self.path}: no checkpoint can be read; delete checkpoint*.keras to train from the start")
        return None

    def finish(self, model: Any) -> None:
        """Write the trained model; from here on the run is finished."""
        with files.replacing(self.model_path) as temporary:
            model.save(temporary)
        for path in self.checkpoint_paths:
            path.unlink(missing_ok=True)

    def load_model(self, load: Callable | None = None) -> Any:
        """Return the trained model, or of an unfinished run the newest checkpoint, with a line that says so.

        Raises:
            RunError: neither is there, or it is damaged.
        """
        load = load or load_model
        for extension in self.config["settings"].get("extension", ()) if self.config_path.is_file() else ():
            registry.extend(extension)
        registry.load_extensions()
        if not self.finished:
            try:
                resumed = self.resume(load) if self.config else None
            except RunError:
                if not self.finished:  # a run that finishes deletes its checkpoints while they are read
                    raise
                resumed = None
            if resumed:
                print(f"{self.path}: not finished; using its checkpoint of step {resumed[1].step}")
                return resumed[0]
            if not self.finished:
                raise RunError(f"{self.path}: holds no trained model; train there first")
        return read_model(self.model_path, load)


def read_model(path: Path, load: Callable) -> Any:
    """Return what ``load`` makes of a .keras file.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        check_archive(path)
        return load(path)
    except Exception as error:  # damage surfaces in several layers
        reason = (str(error).splitlines() or [""])[0][:120]
        raise RunError(
            f"{path}: cannot be read ({type(error).__name__}: {reason}); delete it and train again"
        ) from None


def digest(*arrays: np.ndarray) -> str:
    """Return a SHA-256 of arrays: their types, shapes and bytes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


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

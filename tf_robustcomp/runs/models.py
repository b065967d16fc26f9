"""Find runs and their models, for the commands that read them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tf_robustcomp as rc
from tf_robustcomp.data.images import check_source
from tf_robustcomp.runs.directory import Run, read_model
from tf_robustcomp.utils.errors import Error, InvalidArgument

SHIPPED = Path(rc.__file__).parent / "pretrained"  # of the models that `rc.load_pretrained` reads


def model_path(path: str | Path) -> Path:
    """Return the path of the model in a run directory or a folder with model.keras alone, or the .keras file itself.

    The name of a model that comes with the package, such as mnist-standard, is as good as a path.

    Raises:
        RunError: there is none; an unfinished run's is where it will be.
    """
    path = Path(path)
    shipped = SHIPPED / f"{path}.npz"
    if not path.exists() and shipped.is_file():
        return shipped
    if path.is_file() and path.suffix == ".keras":
        return path
    run = Run(path)
    return run.model_path if run.finished or run.config else path


def model_files(path: str | Path) -> list[Path]:
    """Return the files that `load_trained` may read."""
    run = Run(path)
    return [Path(path), run.config_path, run.model_path, *run.checkpoint_paths]


def load_trained(path: str | Path) -> Any:
    """Return the model of a run directory, of a folder with model.keras alone, of a .keras file, or of a name.

    Raises:
        RunError: there is none, or it is damaged.
    """
    found = model_path(path)
    if (found.parent / "config.json").is_file() and found.name == "model.keras":
        return Run(found.parent).load_model()
    return rc.load_pretrained(found.stem) if found.parent == SHIPPED else read_model(found, rc.load_model)


def find_runs(roots: Sequence[str | Path], command: str) -> list[Run]:
    """Return the run directories of one command among ``roots`` and their direct children, sorted by path."""
    found: dict = {}
    for root in map(Path, roots):
        for path in (root, *sorted(p for p in root.glob("*") if p.is_dir())):
            if not (path / "config.json").exists():
                continue
            try:
                if Run(path).config["command"] == command:
                    found.setdefault(path.resolve(), Run(path))
            except Error as error:
                print(f"left out: {error}")
    return sorted(found.values(), key=lambda run: str(run.path))


def training_data(paths: Sequence[str], data: str = "") -> str:
    """Return ``data``, or where it is empty the source of images that the runs were trained on.

    Raises:
        InvalidArgument: they were trained on different images.
        RunError: a directory that holds no run; what they were trained on is then unknown.
    """
    for path in paths:
        model_path(path)
    if data:
        check_source(data)
        return data
    trained = {str(Run(path).config["settings"].get("data", "mnist")) for path in paths}
    if len(trained) == 1:
        return trained.pop()
    raise InvalidArgument(f"--data must be given where --models were trained on several: {', '.join(sorted(trained))}")

"""Check the files that a command will write before it does any work."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tf_robustcomp.utils import files
from tf_robustcomp.utils.drawing import MARK
from tf_robustcomp.utils.settings import field

# By what a command knows its own files, by suffix: tables by the beginning of their header.
MARKS = {".png": MARK, ".pdf": MARK, ".csv": b"model,stage,stages", ".json": b'"key": {'}


def force() -> Any:
    """Return the flag that all commands with outputs share."""
    return field(False, "write over files that this command did not make", operational=True)


def with_suffixes(prefix: str, suffixes: Iterable[str]) -> list[tuple[Path, bytes | None]]:
    """Return the paths PREFIX + suffix, each with the bytes by which the command knows its own files.

    PREFIX.json, which may be damaged, is known by the table beside it, too.
    """
    if files.holds(Path(f"{prefix}.csv"), MARKS[".csv"]):
        suffixes = [suffix for suffix in suffixes if suffix != ".json"]
    paths = [Path(f"{prefix}{suffix}") for suffix in suffixes]
    return [(path, MARKS.get(path.suffix, MARK)) for path in paths]


def check(outputs: Sequence[tuple[Path, bytes | None]], inputs: Iterable[str | Path], forced: bool) -> None:
    """Refuse outputs as `utils.files.check_outputs` does, and make their folders.

    Raises:
        InvalidArgument: an output would write over something, or is not the name of a file.
    """
    files.check_outputs(outputs, inputs, forced)
    for path, _ in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)

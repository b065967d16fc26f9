"""Rounds of iterative pruning, their report, and the folder that keeps them.

The folder holds::

    config.json       the settings, and the shapes of the model's variables
    rewind.npz        the state at the epoch to which rounds rewind
    round-<r>.npz     the state at the end of round r: variables, those of the optimizer, masks
    round-<r>.json    sparsity and history of round r; written last, its presence means that the round has finished
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp.utils import documents, files, table
from tf_robustcomp.utils.errors import DataError, RunError

LOCK, CONFIG, REWIND = ".lock", "config.json", "rewind.npz"


@dataclasses.dataclass(frozen=True)
class PruningRound:
    """One round of `iterative_pruning`.

    Attributes:
        number: of the round; 0 is the training of the dense model.
        sparsity: fraction of zeros in the kernels that are pruned.
        history: what ``fit`` reports by name: a value for each epoch.
    """

    number: int
    sparsity: float
    history: dict[str, list[float]]

    @property
    def metrics(self) -> dict[str, float]:
        """Values of the last epoch by name."""
        return {name: values[-1] for name, values in self.history.items() if values}


@dataclasses.dataclass(frozen=True)
class IterativePruningReport:
    """The rounds of `iterative_pruning`, the dense model first; prints as a table."""

    rounds: tuple[PruningRound, ...]

    def __str__(self):
        names = list(dict.fromkeys(name for one in self.rounds for name in one.metrics))
        rows = [
            (one.number, f"{one.sparsity:.4f}", *(f"{one.metrics.get(name, math.nan):.4g}" for name in names))
            for one in self.rounds
        ]
        return table.text(("round", "sparsity", *names), rows)


@dataclasses.dataclass(frozen=True)
class RoundState:
    """All that a round hands to the next: values of the model's and the optimizer's variables, and masks."""

    variables: list
    optimizer: list
    masks: list

    def save(self, path: Path) -> None:
        """Write a file of NumPy arrays, whole or not at all."""
        named = {
            f"{field.name}-{i}": array
            for field in dataclasses.fields(self)
            for i, array in enumerate(getattr(self, field.name))
        }
        with files.replacing(path) as temporary:
            np.savez(temporary, **named)

    @classmethod
    def load(cls, path: Path) -> "RoundState":
        """Read what `save` wrote.

        Raises:
            DataError: the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                lists: dict[str, list] = {field.name: [] for field in dataclasses.fields(cls)}
                for name in archive.files:
                    lists[name.rpartition("-")[0]].append(archive[name])
            return cls(**lists)
        except Exception as error:  # whatever a damaged archive makes zipfile and NumPy say
            raise DataError(f"{path}: cannot be read ({type(error).__name__}); delete the folder") from None


class RoundsFolder:
    """The finished rounds in a folder, or nowhere."""

    def __init__(self, path: Any) -> None:
        self.path = path

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Any, rounds: int, described: dict[str, Any]) -> Iterator["RoundsFolder"]:
        """Open a folder of so many rounds as its only user.

        Raises:
            RunError: it holds rounds of other settings, is in use, or something else made it.
        """
        if path is None:
            yield cls(None)
            return
        path = files.folder(path)
        names = [name for r in range(rounds) for name in (arrays_name(r), _facts(r))]
        files.check_no_links(path, (LOCK, CONFIG, REWIND, *names))
        files.check_ours(path, CONFIG, (REWIND, *names))
        with files.locked(path / LOCK, f"{path}: another process prunes in this folder; wait for it or choose another"):
            files.remove_leftovers(path)
            if (path / CONFIG).is_file():
                found = documents.read(path / CONFIG, dict[str, Any])
                other = sorted(name for name in described if found.get(name) != described[name])
                if other:
                    raise RunError(
                        f"{path}: holds rounds with another {', '.join(other)}; choose another folder or delete it"
                    )
            else:
                files.write_json(path / CONFIG, described)
            yield cls(path)

    def rounds(self) -> list[PruningRound]:
        """Return the rounds that have finished, without a gap."""
        found: list[PruningRound] = []
        while self.path is not None and (self.path / _facts(len(found))).is_file():
            found.append(documents.read(self.path / _facts(len(found)), PruningRound))
        return found

    def load(self, name: str) -> RoundState:
        """Return the state in a file of the folder."""
        return RoundState.load(self.path / name)

    def save(self, name: str, state: RoundState) -> None:
        """Write a state into a file of the folder, if there is one."""
        if self.path is not None:
            state.save(self.path / name)

    def add(self, one: PruningRound) -> None:
        """Note that a round has finished."""
        if self.path is not None:
            files.write_json(self.path / _facts(one.number), dataclasses.asdict(one))


def arrays_name(number: int) -> str:
    """Return the name of the file with the state at the end of a round."""
    return f"round-{number}.npz"


def _facts(number):
    return f"round-{number}.json"

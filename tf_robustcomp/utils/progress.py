"""Show progress: a bar with the time left on a terminal, plain lines elsewhere; a small file for other processes."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tf_robustcomp.utils import documents, files
from tf_robustcomp.utils.errors import DataError

PROGRESS_FILE = "progress.json"


def bar(total: float, what: str, shown: bool = True, unit: str = "it") -> Any:
    """Return a progress bar on standard error, shown on a terminal only; its ``update()`` moves it."""
    return tqdm(total=total, desc=what, unit=unit, leave=False, disable=None if shown else True)


def write_progress(folder: Path, step: int, steps: int) -> None:
    """Write how far a run is into its directory."""
    files.write_json(folder / PROGRESS_FILE, {"step": step, "steps": steps})


def read_progress(folder: Path) -> float:
    """Return the fraction of its steps that the run in a directory has made; 0 where nothing can be read."""
    try:
        progress = documents.read(folder / PROGRESS_FILE, dict[str, int])
        return min(progress["step"] / max(progress["steps"], 1), 1.0)
    except (FileNotFoundError, DataError, KeyError):
        return 0.0


class Meter:
    """Progress of a training.

    Args:
        step: where training begins now.
        total: where it ends.
    """

    def __init__(self, step: int, total: int) -> None:
        self.first, self.total, self.began = step, total, time.monotonic()
        self.bar = tqdm(initial=step, total=total, unit="step", disable=not sys.stderr.isatty(), smoothing=0.05)

    def advance(self, step: int) -> None:
        """Move the bar."""
        if not self.bar.disable:
            self.bar.update(step - self.bar.n)

    def show(self, step: int, row: Mapping[str, float]) -> None:
        """Show a row of metrics."""
        values = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
        if not self.bar.disable:
            self.bar.set_postfix_str(values)
            return
        rate = (step - self.first) / max(time.monotonic() - self.began, 1e-9)
        left = tqdm.format_interval((self.total - step) / rate)
        print(f"step {step}/{self.total}  {values}  {rate:.3g} steps/s  {left} left", flush=True)

    def close(self) -> None:
        """End the bar's line."""
        self.bar.close()

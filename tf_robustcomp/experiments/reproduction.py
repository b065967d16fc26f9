"""Report a published study: collect its runs, draw, and write ours beside the published figures."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_robustcomp.experiments import records, reports
from tf_robustcomp.experiments.studies import randomisation_report, robust_report
from tf_robustcomp.scheduling.task import Task

EXPORTED = ("report.md", records.NAME)


def finish(folder: Path, tasks: Sequence[Task], study: dict[str, Any], target: str) -> list[Path]:
    """Write runs.json, figures and report of a study whose tasks are all done; return the paths of the report.

    ``target`` is a folder for copies, see `export`; empty for none.
    """
    if study["study"] == "robust":
        robust_report.join(folder, tasks)
    records.write(folder, records.collect(folder, tasks), study)
    paths = report(folder)
    if target:
        export(folder, Path(target))
    return paths


def report(folder: Path) -> list[Path]:
    """Write the report of a folder that holds runs.json and the tables in ``figures/``; return its paths."""
    study, found = records.read(folder)
    text = robust_report.text if study["study"] == "robust" else randomisation_report.text
    options = "".join(f" --{name} {study[name]}" for name in sorted(study.keys() - {"study", "scale", "seed"}))
    command = f"python -m tf_robustcomp.reproduce {study['study']} --scale {study['scale']}{options}"
    return reports.write(folder, text(folder, found, f"Scale `{study['scale']}`: `{command}`."))


def export(folder: Path, target: Path) -> None:
    """Copy what others need of a finished study: report, runs.json, tables of all points and figures."""
    (target / "figures").mkdir(parents=True, exist_ok=True)
    kept = [path for path in (folder / "figures").iterdir() if path.suffix in (".csv", ".png")]
    for path in (*(folder / name for name in EXPORTED), *kept):
        shutil.copyfile(path, target / path.relative_to(folder))

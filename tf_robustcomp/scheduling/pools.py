"""Choose where the tasks of a study run."""

from pathlib import Path
from typing import Any

from tf_robustcomp.scheduling.local_pool import LocalPool


def make(settings: Any, folder: Path) -> Any:
    """Return the pool that `cli.settings.ExecutorSettings` ask for, for the study in a folder."""
    if settings.executor == "local":
        return LocalPool(settings.jobs)
    from tf_robustcomp.scheduling.ray_pool import RayPool  # Ray is optional

    return RayPool(folder, settings.ray_address, settings.cpus_per_run, settings.gpus_per_run)

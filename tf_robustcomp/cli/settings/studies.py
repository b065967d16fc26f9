"""Settings of performing many runs."""

import dataclasses

from tf_robustcomp.utils.settings import field


@dataclasses.dataclass(frozen=True)
class ExecutorSettings:
    """Flags of every command that performs many runs."""

    executor: str = field("local", "where the runs go", operational=True, choices=("local", "ray"))
    jobs: int = field(1, "local: runs at a time; they share the cores", operational=True, minimum=1)
    ray_address: str | None = field(
        None, "ray: `auto` or HOST:PORT of a running cluster [default: one is started here]", operational=True
    )
    cpus_per_run: int = field(1, "ray: cores, and threads, of each run", operational=True, minimum=1)
    gpus_per_run: float = field(0.0, "ray: GPUs of each run; a fraction shares one", operational=True, minimum=0)


@dataclasses.dataclass(frozen=True)
class SweepSettings(ExecutorSettings):
    """Flags of a command that can be swept."""

    sweep: tuple[str, ...] = field(
        (),
        "SETTING=VALUES, may be repeated: a run for each combination, in --train-dir, with the table of all in "
        "sweep.csv; values are separated by commas, START:STOP are whole numbers below STOP, the items of a list are "
        "joined by + (stage-dims=3+7,7+3)",
        repeated=True,
    )
    rank_by: str | None = field(None, "column by which a sweep's table is sorted; -COLUMN: greatest first")

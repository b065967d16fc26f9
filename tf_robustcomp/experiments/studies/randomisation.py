"""The runs of the randomisation experiment of arXiv 1804.05862, at three scales.

``paper``: the published settings to the letter, as in ``flags_configs/``.  ``laptop``: some hours on two cores, on a
part of CIFAR-10, with schedules scaled to it.  ``smoke``: minutes, on the embedded digits.
"""

from tf_robustcomp.cli.settings.networks import pruned_directory, trained_directory
from tf_robustcomp.scheduling.task import Task

PROPORTIONS = (0.0, 0.3, 0.5, 0.7, 1.0)
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)

# Minutes expected and flags, of training and of pruning.  The schedules are the published ones shortened in proportion.
SCALES: dict[str, dict] = {
    "paper": {
        "seeds": 1,
        "shared": {"model-size": 56, "batch-size": 128, "bn-momentum": 0.997},
        "training": (
            320,
            {"max-steps": 64_000, "learning-rates": (0.001, 0.1, 0.01, 0.001), "boundaries": (400, 32_000, 48_000)},
        ),
        "pruning": (
            105,
            {
                "max-steps": 20_000,
                "ramp-steps": 15_000,
                "update-steps": 500,
                "learning-rate": 0.05,
                "learning-rate-decay-steps": 200,
                "surgery-decay-steps": 100,
                "threshold": "quantile",
            },
        ),
    },
    # 4,000 images are a 12th of CIFAR-10, the pruning's steps a 12th of the published: as many epochs.  A tenth of
    # ResNet-8's weights are 2 for each image; the published network has 1.7.
    "laptop": {
        "seeds": 2,
        "shared": {
            "model-size": 8,
            "batch-size": 128,
            "bn-momentum": 0.95,
            "max-images": 4000,
            "mixed-precision": True,
        },
        "training": (
            3,
            {"max-steps": 2000, "learning-rates": (0.01, 0.1, 0.01, 0.001), "boundaries": (80, 1300, 1700)},
        ),
        "pruning": (
            2.5,
            {
                "max-steps": 1600,
                "ramp-steps": 1200,
                "update-steps": 40,
                "learning-rate": 0.05,
                "learning-rate-decay-steps": 16,
                "surgery-decay-steps": 8,
                "threshold": "exact",
            },
        ),
    },
    "smoke": {
        "seeds": 1,
        "shared": {"model-size": 8, "batch-size": 64, "bn-momentum": 0.9},
        "training": (0.5, {"max-steps": 6, "learning-rates": (0.1,), "boundaries": ()}),
        "pruning": (
            0.5,
            {"max-steps": 6, "ramp-steps": 4, "update-steps": 1, "threshold": "exact"},
        ),
    },
}


def tasks(scale: str, dataset: str, seed: int = 0, seeds: int = 0, threshold: str = "") -> tuple[Task, ...]:
    """Return the study's tasks.

    Args:
        scale: "smoke", "laptop" or "paper".
        dataset: as the flag ``--dataset``; smoke takes the digits.
        seed: of the first network; further ones follow it.
        seeds: networks of each kind; 0 leaves their number to the scale.
        threshold: "quantile", as published, or "exact"; empty leaves it to the scale.
    """
    settings = SCALES[scale]
    minutes, pruning = settings["pruning"]
    pruning = (minutes, pruning | ({"threshold": threshold} if threshold else {}))
    smoke = scale == "smoke"
    runs: list[Task] = []
    numbers = range(seed, seed + (seeds or settings["seeds"]))
    for proportion in (0.0, 1.0) if smoke else PROPORTIONS:
        for seed_ in numbers:
            shared = {"dataset": "digits" if smoke else dataset, "proportion-random": proportion, **settings["shared"]}
            trained = trained_directory(proportion)
            name, dense = f"{trained}-seed-{seed_}", f"runs/seed-{seed_}/{trained}"
            runs.append(_run("train_resnet_random", name, dense, shared | {"seed": seed_}, settings["training"]))
            for sparsity in (0.5, 0.9) if smoke else SPARSITIES:
                pruned = pruned_directory(proportion, sparsity)
                own = shared | {"target-sparsity": sparsity, "warm-start": dense, "surgery-seed": seed_}
                place = f"runs/seed-{seed_}/{pruned}"
                runs.append(_run("prune_resnet_dns", f"{pruned}-seed-{seed_}", place, own, pruning, (name,)))
    summary = Task(
        "summary",
        "plot_summary",
        {"output": "figures/summary"},
        calls=(tuple(f"runs/seed-{number}" for number in numbers),),
        needs=tuple(run.name for run in runs),
        outputs=("figures/summary.csv", "figures/summary.png"),
        minutes=0.1,
    )
    return (*runs, summary)


def _run(entry, name, folder, shared, settings, needs=()):
    minutes, own = settings
    return Task(
        name,
        entry,
        {"train-dir": folder, **shared, **own},
        calls=(("train",), ("eval",)),
        needs=needs,
        outputs=(f"{folder}/eval_train.json",),
        passed_on=(f"{folder}/model.keras",),
        minutes=minutes,
    )

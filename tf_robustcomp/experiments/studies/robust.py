"""The runs of "Out-of-Distribution Robustness in Deep Learning Compression" (arXiv 2110.07007), at three scales.

``paper``: the published settings to the letter, as in ``flags_configs/``.  ``laptop``: two to three hours on two cores;
the standard compressor is trained first and the others start from it.  ``smoke``: minutes, on the embedded digits.
"""

from tf_robustcomp.scheduling.task import Task

ATTACK = {"adversary": "wasserstein", "attack-steps": 15, "attack-method": "paper"}
GAMMAS = (8, 4, 3, 2, 1.75, 1.5, 1.3, 1.15, 1)  # at which worst cases are evaluated
LOWER = (0.85, 0.7, 0.5, 0.36)  # further ones for the published 15 steps, which stay nearer at the same gamma
# Beginnings of the names of the runs in each figure.
ATTACKED = ("standard", "noise", "wass_ball", "residual", "structured-3-7", "structured-7-3", "structured-3-1")
ROTATED = ("standard", "wass_ball-1", "rotation", "worst", "structured_rotation", "angle_prediction")
PICTURED = ("wass_ball-1", "rotation", "angle_prediction")  # each beside the standard one
PAIRS = ((3, 7), (4, 6), (5, 5), (6, 4), (7, 3), (8, 2), (9, 1))


def tasks(scale: str, data: str, seed: int = 0) -> tuple[Task, ...]:
    """Return the study's tasks.

    Args:
        scale: "smoke", "laptop" or "paper".
        data: as the flag ``--data``; smoke takes the digits.
        seed: of the initial weights.
    """
    runs = {"smoke": _smoke, "laptop": _laptop, "paper": _paper}[scale](data, seed)
    # Each run is evaluated alone; at smoke's size all together, as a start takes longer than an evaluation.
    together = [runs] if scale == "smoke" else [(run,) for run in runs]
    return tuple(task for some in together for task in (*some, *_evaluations(scale, some)))


def _run(name, shared, minutes, needs=(), **own):
    flags = {"train-dir": f"runs/{name}", **shared, **{key.replace("_", "-"): value for key, value in own.items()}}
    return Task(
        name,
        "train_compressor",
        flags,
        calls=(("train",), ("eval",)),
        needs=needs,
        outputs=(f"runs/{name}/eval_test.json",),
        passed_on=(f"runs/{name}/model.keras",),
        minutes=minutes,
    )


def _paper(data, seed):
    shared = {"data": data, "latent-dim": 10, "levels": 12, "width": 64, "side": 32, "epochs": 50, "batch-size": 64}
    shared |= {"learning-rate": 2e-4, "learning-rate-schedule": "paper", "decay-epochs": (20, 40), "seed": seed}
    staged = {"epochs": 60, "latent_dim": None, "model": "successive_refinement", "warmup_epochs": 10}
    hours = 60.0
    return (
        _run("standard", shared, 1.5 * hours),
        *(_run(f"d{d}-standard", shared, 1.5 * hours, latent_dim=d) for d in (3, *range(4, 10))),
        *(_run(f"noise-{rho}", shared, 1.5 * hours, augmentation="noise", rho=rho) for rho in (20.1, 50)),
        _run("rotation", shared, 1.5 * hours, augmentation="rotation"),
        *(_run(f"wass_ball-{gamma}", shared | ATTACK, 13 * hours, gamma=gamma) for gamma in (1, 0.36)),
        _run("worst_angle", shared, 4 * hours, batch_size=128, adversary="rotation_search"),
        _run("worst_of_8_angles", shared, 4 * hours, adversary="rotation_random"),
        *(
            _run(
                f"structured-{one}-{two}-{gamma}",
                shared | ATTACK,
                8 * hours,
                **(staged | {"stage_dims": (one, two), "gamma": gamma}),
            )
            for one, two in PAIRS
            for gamma in (1, 0.36)
        ),
        _run(
            "structured_rotation",
            shared,
            4 * hours,
            **(staged | {"stage_dims": (3, 7), "batch_size": 128, "adversary": "rotation_search"}),
        ),
        _run(
            "residual",
            shared | ATTACK,
            15 * hours,
            needs=("d3-standard",),
            **{"epochs": 60, "latent_dim": None, "model": "residual", "stage_dims": (3, 7), "gamma": 0.36},
            warm_start="runs/d3-standard",
        ),
        _run("angle_prediction", shared, 2 * hours, model="rotation_aligned"),
    )


def _laptop(data, seed):
    # Half the published width, for all, so that two cores can train for long enough.
    shared = {"data": data, "latent-dim": 10, "levels": 12, "width": 32, "side": 32, "batch-size": 64, "seed": seed}
    shared |= {"learning-rate-schedule": "cosine", "clip-norm": 20, "eval-images": 200}
    climbing = {"learning-rate": 1e-3, "log-steps": 50, "attack-precision": "bfloat16"}
    return _from_standard(
        shared,
        {
            "standard": (28, {"epochs": 24, "learning-rate": 2e-3, "rate-warmup-steps": 400}),
            "noise-20.1": (4, {"epochs": 3, "learning-rate": 1e-3}),
            "rotation": (11, {"epochs": 9, "learning-rate": 2e-3}),
            "wass_ball-1": (21, climbing | {"epochs": 2.5}),
            "wass_ball-0.36": (42, climbing | {"epochs": 5}),
            "wass_ball-1-converged": (40, climbing | {"epochs": 2.5, "attack-steps": 30}),
            "worst_angle": (62, {"epochs": 12, "learning-rate": 2e-3}),
            "structured": (10, climbing | {"epochs": 2.5, "warmup-epochs": 1}),
            "angle_prediction": (28, {"epochs": 16, "learning-rate": 2e-3, "rate-warmup-steps": 400}),
        },
        stages=((7, 3), (3, 7)),
        warmup=100,
    )


def _smoke(data, seed):
    shared = {"data": "digits", "latent-dim": 4, "levels": 12, "width": 4, "side": 16, "batch-size": 32, "seed": seed}
    shared |= {"learning-rate-schedule": "cosine", "clip-norm": 20, "eval-images": 20, "learning-rate": 2e-3}
    own = {"epochs": 0.1, "log-steps": 1}
    climbing = own | {"attack-steps": 3}
    return _from_standard(
        shared,
        {
            "standard": (0.5, own | {"epochs": 3}),
            **{name: (0.4, own) for name in ("noise-20.1", "rotation", "worst_angle")},
            **{name: (0.4, climbing) for name in ("wass_ball-1", "wass_ball-0.36", "wass_ball-1-converged")},
            "structured": (0.4, climbing | {"warmup-epochs": 0}),
            "angle_prediction": (0.4, own),
        },
        stages=((3, 1), (1, 3)),
        warmup=1,
    )


def _from_standard(shared, runs, stages, warmup):
    """A standard compressor, and runs that start from it; ``runs``: name -> (minutes, flags)."""
    first = {"rate-warmup-steps": warmup}
    started = shared | first | {"warm-start": "runs/standard"}

    def run(name, flags, shared=started, kind=None):
        minutes, own = runs[kind or name]
        return _run(name, shared | flags | own, minutes, () if shared is not started else ("standard",))

    def staged(one, two):
        dims = {"model": "successive_refinement", "latent-dim": None, "stage-dims": (one, two)}
        return run(f"structured-{one}-{two}-1", {**ATTACK, **dims, "gamma": 1}, kind="structured")

    adaptive = {"attack-method": "adaptive", "attack-restarts": 0}
    return (
        run("standard", {}, shared | first),
        run("noise-20.1", {"augmentation": "noise", "rho": 20.1}),
        run("rotation", {"augmentation": "rotation"}),
        run("wass_ball-1", {**ATTACK, "gamma": 1}),
        run("wass_ball-0.36", {**ATTACK, "gamma": 0.36}),
        run("wass_ball-1-converged", {**ATTACK, "gamma": 1, **adaptive}),
        run("worst_angle", {"adversary": "rotation_search", "batch-size": 128}),
        run("angle_prediction", {"model": "rotation_aligned"}, shared | first),
        *(staged(*pair) for pair in stages),
    )


def _evaluations(scale, runs):
    """Evaluations of some runs, in separate files; `robust_report.join` joins them."""
    attack: dict = {
        "smoke": {"images": 12, "gammas": (8, 1.75, 1), "check-images": 2, "attack-steps": 5},
        "laptop": {"images": 200, "gammas": GAMMAS, "attack-precision": "bfloat16"},
        "paper": {"images": 10_000, "gammas": GAMMAS},
    }[scale]
    gammas = (*attack["gammas"], *LOWER)
    published = {"images": attack["images"], "gammas": gammas, "attack": "paper", "check-images": 0}
    rotations: dict = {
        "smoke": {"images": 50, "angle-step": 90},
        "laptop": {"images": 2000, "angle-step": 10},
        "paper": {"angle-step": 1},
    }[scale]
    minutes = {"smoke": 0.3, "laptop": 2, "paper": 220}[scale]
    label = runs[0].name if len(runs) == 1 else "all"

    def evaluation(kind, entry, minutes, chosen, flags, suffix="", output=".csv", besides=()):
        names = tuple(run.name for run in runs if run.name.startswith(chosen))
        if not names:
            return ()
        names = (*besides, *names)
        path = f"figures/{label}/{kind}"
        models = {"data": runs[0].flags["data"], "models": tuple(f"runs/{name}" for name in names)}
        flags = models | flags | {"output": path + suffix}
        return (Task(f"{kind}-{label}", entry, flags, needs=names, outputs=(path + output,), minutes=minutes),)

    pictures = {"suffix": ".png", "output": ".png", "besides": ("standard",)}
    return (
        *evaluation("worst_case", "eval_wass_ball", minutes, ATTACKED, attack | {"attack": "converged"}),
        *evaluation("worst_case_15_steps", "eval_wass_ball", minutes / 4, ATTACKED, published),
        *evaluation("rotations", "eval_rotations", minutes / 4, ROTATED, rotations),
        *evaluation("reconstructions", "plot_reconstructions", minutes / 10, PICTURED, {}, **pictures),
    )

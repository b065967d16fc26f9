"""Attackers of a model's stage at one price after the other: a network, or a codec seen from outside."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from tf_robustcomp.adversaries import WassersteinBall
from tf_robustcomp.evaluation import models as subjects
from tf_robustcomp.evaluation.codec_attack import CodecAttack
from tf_robustcomp.evaluation.ensemble import Ensemble
from tf_robustcomp.evaluation.gradient_free import ROUNDS, search_gain
from tf_robustcomp.evaluation.points import AttackedPoints
from tf_robustcomp.utils.checks import check_at_least, check_choice

ATTACKS = ("ensemble", "converged", "paper", "black_box")


@dataclasses.dataclass(frozen=True)
class Options:
    """Arguments of `worst_case.worst_case_curve` that say how to attack."""

    attack: str = "ensemble"
    steps: int = 100
    restarts: int = 1
    precision: str = "float32"
    check: int = 32
    seed: int = 0
    encoder: Any = None
    sources: Sequence[Any] = ()

    def __post_init__(self):
        check_choice("attack", self.attack, ATTACKS)
        check_at_least("check", self.check, 0)


def make_attacker(job: subjects.StageJob, images: np.ndarray, options: Options, coded: Any) -> Any:
    """Return the attacker of one stage; ``coded`` is the model with its encoder, or None.

    It has ``climb(gamma)``, which returns a `Climb`, and ``points``.
    """
    network: Any = None
    if options.attack == "ensemble":
        network = _EnsembleAttacker(job, images, options)
    elif options.attack != "black_box":
        network = _NetworkAttacker(job, images, options)
    if coded is None and network is not None:
        return network
    return _CodecAttacker(coded or job.model, job, images, network, options.seed)


@dataclasses.dataclass(frozen=True)
class Climb:
    """Cost of an attack at one price, and what it says of itself."""

    gamma: float
    evaluations: int
    gain: float
    gradient_free_gain: float
    verdict: str = ""


class _EnsembleAttacker:
    """Attacks the network by an ensemble, at one price after the other."""

    def __init__(self, job, images, options):
        self.job, self.images, self.options = job, images, options
        self.ensemble = Ensemble(
            job.model, images, job.stage, options.steps, options.seed, options.sources, options.precision
        )

    @property
    def points(self) -> AttackedPoints:
        """The points of all images."""
        return self.ensemble.points

    @property
    def attacked(self) -> np.ndarray:
        """The worst images at the last price."""
        return self.ensemble.worst

    def climb(self, gamma: float) -> Climb:
        """Attack at a price."""
        evaluations = self.ensemble.climb(gamma)
        subjects.check_defined(self.job.row["model"], ~self.ensemble.undefined)
        self.job.bar.update(len(subjects.batches(self.images)))
        gain = max((member.gain for member in self.ensemble.members if member.won), default=0.0)
        free = _gradient_free_gain(self.job, self.images, self.attacked, gamma, self.options)
        return Climb(gamma, evaluations, gain, free, self.ensemble.verdict())


class _NetworkAttacker:
    """Attacks the network by an adversary, at one price after the other, and keeps all points."""

    def __init__(self, job, images, options):
        self.job, self.images, self.options = job, images, options
        if options.attack == "paper":
            self.adversary = WassersteinBall(1.0, steps=15)
        else:
            own = {name: getattr(options, name) for name in ("steps", "restarts", "precision", "seed")}
            self.adversary = WassersteinBall(1.0, method="adaptive", **own)
        self.attacked: np.ndarray | None = None
        self.points: AttackedPoints | None = None

    def climb(self, gamma: float) -> Climb:
        """Attack at a price; ``attacked`` are then the attacked images."""
        self.adversary.gamma = gamma
        arguments = subjects.call_arguments(self.job.model, self.job.stage)
        results = []
        for part in subjects.batches(self.images):
            result = self.adversary.attack(self.job.model, part, **arguments)
            results.append({name: ops.convert_to_numpy(value) for name, value in result._asdict().items()})
            self.job.bar.update()

        def joined(name):
            return np.concatenate([result[name] for result in results])

        subjects.check_defined(self.job.row["model"], joined("defined"))
        self.attacked = joined("x")
        if self.points is None:
            self.points = AttackedPoints.clean(joined("clean_distortion"))
        self.points = self.points.with_point(joined("radius"), joined("distortion"), self.options.attack)
        sizes = [len(result["radius"]) for result in results]
        return Climb(
            gamma=gamma,
            evaluations=int(max(result["evaluations"] for result in results)),
            gain=float(np.average([result["gain"] for result in results], weights=sizes)),
            gradient_free_gain=_gradient_free_gain(self.job, self.images, self.attacked, gamma, self.options),
        )


def _gradient_free_gain(job, images, attacked, gamma, options):
    if not options.check:
        return float("nan")
    some = slice(options.check)
    return search_gain(job.model, job.stage, images[some], attacked[some], gamma, seed=options.seed)


class _CodecAttacker:
    """Attacks a codec from outside, beginning at the images that an attack on its network found, if it has one."""

    def __init__(self, codec, job, images, network, seed):
        arguments = subjects.call_arguments(codec, job.stage)
        self.job, self.network, self.seed = job, network, seed
        self.attack = CodecAttack(lambda part: _in_batches(codec, part, arguments), images)

    @property
    def points(self) -> AttackedPoints:
        """The points through the codec."""
        return self.attack.points

    def climb(self, gamma: float) -> Climb:
        """Attack at a price."""
        evaluations, before = 0, self.points.radius.shape[1]
        if self.network is not None:
            evaluations = self.network.climb(gamma).evaluations
            self.attack.evaluate(self.network.attacked, finder="attack on the network")
        else:
            self.job.bar.update(len(subjects.batches(self.attack.images)))
        self.attack.climb(gamma)
        if self.network is None:
            evaluations += ROUNDS
            self.attack.search(gamma, ROUNDS, self.seed)
        evaluations += self.points.radius.shape[1] - before
        return Climb(gamma, evaluations, gain=float("nan"), gradient_free_gain=float("nan"))


def _in_batches(codec, images, arguments):
    parts = subjects.batches(images)
    return np.concatenate([ops.convert_to_numpy(codec(part, **arguments)) for part in parts]).astype(np.float32)

"""The contract of every adversary: an attack, checked and measured in one place."""

import inspect
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import keras
from keras import ops

from tf_robustcomp.backend.folding import inference_function
from tf_robustcomp.backend.gradients import compiled, is_concrete, read
from tf_robustcomp.data.distortion import distortion, per_image
from tf_robustcomp.utils.checks import check_images
from tf_robustcomp.utils.errors import InvalidArgument


class AttackResult(NamedTuple):
    """Result of an attack, as the base class measured it.

    Attributes:
        x: attacked images, (n, h, w, c).
        objective: the adversary's objective at ``x``, (n,).
        clean_objective: the same at the clean images, (n,).
        distortion: d(x, f(x)), (n,).
        clean_distortion: distortion of the clean images, (n,).
        radius: squared 2-norm of the perturbation, (n,); its mean is the rho of a Wasserstein ball.
        angle: rotation of each image in degrees, counter-clockwise, (n,); zeros for adversaries that do not rotate.
        evaluations: evaluations of the objective that the method made, scalar int32.
        gain: fraction of the mean objective that the last steps of the method gained, scalar; 0 where it has no steps.
        defined: whether the objective was finite wherever the method saw or left it, (n,) of bool.  Where it was not,
            the attack knows nothing of the image's worst case.
    """

    x: Any
    objective: Any
    clean_objective: Any
    distortion: Any
    clean_distortion: Any
    radius: Any
    angle: Any
    evaluations: Any
    gain: Any
    defined: Any

    @classmethod
    def unattacked(cls, x: Any) -> "AttackResult":
        """Return the images as they are, with zeros for all that was not measured."""
        zeros = ops.zeros(ops.shape(x)[:1], "float32")
        count, gain = ops.zeros((), "int32"), ops.zeros((), "float32")
        return cls(x, zeros, zeros, zeros, zeros, zeros, zeros, count, gain, zeros >= 0.0)


class Proposal(NamedTuple):
    """Return value of `Adversary.propose`: a value that ``images_from`` understands, and how it was found.

    The other fields are those of `AttackResult`.
    """

    value: Any
    evaluations: Any = 0
    gain: Any = 0.0
    defined: Any = True


class Adversary:
    """Inner maximisation of min-max training: replaces images by worse ones.

    ``adversary(model, x)`` returns the attacked images, ``adversary.attack(model, x)`` also what was measured.  The
    objective of an image is d(x', f(x')) - penalty(x', x).  The order is the same for every adversary::

        check x --> propose --> images_from --> clip to [0, 1] --> measure --> keep the worse image

    The model runs in inference and its state (weights, statistics, seeds) is not touched.  ``propose`` climbs on a fast
    view of the model (`backend.folding.inference_function`); what is reported is measured on the model itself.

    A new adversary states ``propose`` and, where needed, ``penalty`` and ``images_from``.  It holds plain values, which
    ``get_config`` names, and is registered, so that a compiled model is saved with it.

    Attributes:
        reports: "radius" or "angle", the quantity that training logs.
        per_batch: whether the clean images are kept for the whole batch (by the mean objective) or image by image.
        precision: dtype in which ``propose`` climbs, for the networks of this package's compressors.

    Example:
        >>> @rc.register("adversary", "brighten", flags={"amount": (0.1, "added to every pixel")})
        ... class Brighten(rc.Adversary):
        ...     def __init__(self, amount=0.1):
        ...         super().__init__()
        ...         self.amount = amount
        ...
        ...     def propose(self, objective, x, step):
        ...         return rc.Proposal(x + self.amount)
        ...
        ...     def get_config(self):
        ...         return {"amount": self.amount}
    """

    reports = "radius"
    per_batch = False
    precision = "float32"

    def __init__(self) -> None:
        self._attacks: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()

    def __call__(self, model: Any, x: Any, step: Any = 0, **call_kwargs: Any) -> Any:
        """Return the attacked images; the arguments are those of ``attack``."""
        return self.attack(model, x, step, **call_kwargs).x

    def attack(self, model: Any, x: Any, step: Any = 0, **call_kwargs: Any) -> AttackResult:
        """Attack a batch.

        Args:
            model: Keras model or layer, or any function of images; maps (n, h, w, c) to the same shape.
            x: images (n, h, w, c) in [0, 1].
            step: int or integer tensor; adversaries that draw at random draw by (their seed, step).
            **call_kwargs: plain values, handed to the model (such as ``stage=1``).

        Returns:
            AttackResult.

        Raises:
            InvalidArgument: ``x`` breaks the rules of ``check_images`` (values are seen only outside a trace).
        """
        x = ops.convert_to_tensor(check_images(x, name="x") if is_concrete(x) else x, "float32")
        step = ops.convert_to_tensor(step)
        if not isinstance(model, keras.Layer):
            return self._solve(model, call_kwargs, [], [], x, step)
        if not model.built:
            model(x[:1])
        values = [read(variable) for variable in self._state(model)]
        return self._compiled(model, call_kwargs)(values, x, step)

    def propose(self, objective: Callable, x: Any, step: Any) -> Proposal:
        """Return worse images: the one method that every adversary states.

        Args:
            objective: differentiable function of images (n, h, w, c) -> (n,), to be maximised.
            x: clean images.
            step: integer tensor, for random draws.
        """
        raise NotImplementedError

    def penalty(self, candidate: Any, x: Any) -> Any:
        """Return the distance penalty of each image, (n,) or 0."""
        return 0.0

    def images_from(self, value: Any, x: Any) -> tuple[Any, Any]:
        """Return ``(images in the valid set, angle (n,))`` for a proposal's value.  Default: the images themselves."""
        return value, ops.zeros_like(x[:, 0, 0, 0])

    def adapt(self, result: AttackResult, weight: Any = 1.0) -> None:
        """Tune own variables by what training measured; ``weight`` 0 says that this batch was not attacked."""

    @property
    def variables(self) -> list[keras.Variable]:
        """Variables that ``adapt`` changes."""
        return []

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Adversary":
        """Return an adversary made from ``get_config``."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def _state(self, model):
        return [*model.variables, *self.variables]

    def _compiled(self, model, call_kwargs):
        """Trace the attack on this model once.  State comes in as an argument, so later weights are seen, too."""
        attacks = self._attacks.setdefault(model, {})
        key = tuple(sorted(call_kwargs.items()))
        if key not in attacks:
            weak = weakref.ref(model)  # or the cache would keep the model alive

            def run(values, x, step):
                model: Any = weak()
                kwargs = {**call_kwargs, **({"training": False} if _takes_training(model) else {})}
                return self._solve(model, kwargs, self._state(model), values, x, step)

            attacks[key] = compiled(run)
        return attacks[key]

    def _solve(self, model, call_kwargs, variables, values, x, step):
        def scope():
            return keras.StatelessScope(zip(variables, values, strict=True)) if variables else nullcontext()

        def measure(function, candidate):
            with scope():  # one for each evaluation: whatever a model assigns is dropped with it
                reached = distortion(candidate, function(candidate, **call_kwargs))
                return reached - self.penalty(candidate, x), reached

        with scope():
            fast = inference_function(model, None if self.precision == "float32" else self.precision)
            proposal = self.propose(lambda candidate: measure(fast, candidate)[0], x, step)
        images, angle = self.images_from(proposal.value, x)
        images = ops.clip(images, 0.0, 1.0)
        clean_objective, clean_distortion = measure(model, x)
        objective, reached = measure(model, images)
        better = self._better(objective, clean_objective)
        images = ops.where(per_image(better), images, x)
        return AttackResult(
            images,
            ops.where(better, objective, clean_objective),
            clean_objective,
            ops.where(better, reached, clean_distortion),
            clean_distortion,
            distortion(images, x),
            ops.where(better, angle, 0.0),
            ops.cast(proposal.evaluations, "int32"),
            ops.cast(proposal.gain, "float32"),
            ops.logical_and(ops.isfinite(objective), proposal.defined),
        )

    def _better(self, objective, clean_objective):
        """(n,) of bool.  An objective of NaN is not better."""
        if self.per_batch:
            return ops.broadcast_to(ops.mean(objective) > ops.mean(clean_objective), ops.shape(objective))
        return objective > clean_objective


def _takes_training(model):
    return "training" in inspect.signature(model.call).parameters


def get(adversary: Any) -> Adversary | None:
    """Return an adversary from None, an instance, the config of one, or a name whose arguments have defaults.

    Raises:
        InvalidArgument: none of these.
    """
    if isinstance(adversary, str):
        adversary = {"class_name": f"tf_robustcomp>{adversary}", "config": {}}
    if isinstance(adversary, dict):
        found = keras.saving.get_registered_object(adversary.get("registered_name") or adversary["class_name"])
        if found is None:
            raise InvalidArgument(f"adversary must be a known one. Received: {adversary['class_name'].split('>')[-1]}")
        adversary = found.from_config(adversary["config"])
    if adversary is not None and not isinstance(adversary, Adversary):
        raise InvalidArgument(f"adversary must be an Adversary or None. Received: adversary={adversary!r}")
    return adversary

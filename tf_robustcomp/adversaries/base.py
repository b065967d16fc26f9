"""What every adversary shares: the contract of an attack, guarded and measured in one place."""

import contextlib
import inspect
import weakref
import zlib
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend import compiled, is_concrete, read
from tf_robustcomp.chain import frozen
from tf_robustcomp.errors import InvalidArgument
from tf_robustcomp.random import StepSeed


def distortion(x, y):
    """Sum of squared errors of each image, in float32 whatever the model's precision: (n, h, w, c) twice -> (n,)."""
    difference = ops.cast(x, "float32") - ops.cast(y, "float32")
    return ops.sum(ops.square(difference), axis=(1, 2, 3))


def check_images(images, image_shape=None, name="images"):
    """Check images once, at the door.

    Args:
        images: array-like (n, h, w, c).
        image_shape: the (h, w, c) that they must have; None accepts any.
        name: what the error calls them.

    Returns:
        numpy array (n, h, w, c), float32.

    Raises:
        InvalidArgument: not of that shape, no images, not numbers, NaN or infinite, or outside [0, 1].
    """
    images = np.asarray(images)
    expected = "(n, h, w, c)" if image_shape is None else f"(n, {', '.join(map(str, image_shape))})"
    if images.ndim != 4 or (image_shape is not None and images.shape[1:] != tuple(image_shape)):
        raise InvalidArgument(f"{name} must have shape {expected}. Received: shape {images.shape}")
    if images.size == 0:
        raise InvalidArgument(f"{name} must hold at least one image. Received: shape {images.shape}")
    if images.dtype.kind not in "fiub":
        raise InvalidArgument(f"{name} must be real numbers. Received: dtype {images.dtype}")
    images = images.astype(np.float32, copy=False)
    if not np.isfinite(images).all():
        raise InvalidArgument(f"{name} must be finite. Received: {np.sum(~np.isfinite(images))} values NaN or infinite")
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        raise InvalidArgument(f"{name} must lie in [0, 1]. Received: values from {low:g} to {high:g}")
    return images


def check_at_least(name, value, least):
    """``value`` as an int, if it is one and not below ``least``; else InvalidArgument."""
    if isinstance(value, bool) or int(value) != value or value < least:
        raise InvalidArgument(f"{name} must be an integer >= {least}. Received: {name}={value}")
    return int(value)


def check_positive(name, value):
    """``value`` as a float, if it is finite and above 0; else InvalidArgument."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise InvalidArgument(f"{name} must be > 0. Received: {name}={value}")
    return number


def step_seed(purpose, seed, step):
    """Seed for keras.random: a stream of its own for each purpose (a name) and seed, at the given step."""
    return StepSeed(zlib.crc32(f"{purpose} {seed}".encode()) >> 1, step)  # seeds are int32 on some backends


def per_image(values):
    """(n,) -> (n, 1, 1, 1), to scale or to choose whole images."""
    return ops.reshape(values, (-1, 1, 1, 1))


class AttackResult(NamedTuple):
    """What an attack reached, as measured by the base class, not as claimed by the method.

    Attributes:
        x: the attacked images, (n, h, w, c).
        objective: the adversary's own objective at ``x``, (n,).
        clean_objective: the same at the clean images, (n,).
        distortion: d(x, f(x)), (n,).
        clean_distortion: the distortion of the clean images, (n,).
        radius: squared 2-norm of the change, (n,); its mean is the rho of a Wasserstein ball.
        angle: turn of each image in degrees, counter-clockwise, (n,); zeros for adversaries that do not turn.
        evaluations: how many times the objective was evaluated by the method, scalar int32.
        gain: share of the mean objective gained in the method's last five steps, scalar; 0 where it has no steps.
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

    @classmethod
    def unattacked(cls, x):
        """The images as they are, nothing measured (zeros)."""
        zeros = ops.zeros(ops.shape(x)[:1], "float32")
        return cls(x, zeros, zeros, zeros, zeros, zeros, zeros, ops.zeros((), "int32"), ops.zeros((), "float32"))


class Proposal(NamedTuple):
    """What a method hands to the base class: a value that ``realise`` understands, and what it took to find it."""

    value: Any
    evaluations: Any = 0
    gain: Any = 0.0


class Adversary:
    """Inner maximisation of min-max training: replaces images by worse ones.

    ``adversary(model, x)`` returns the attacked images, ``adversary.attack(model, x)`` also what was measured.  The
    objective of an image is d(x', f(x')) - penalty(x', x).  This class checks the input, runs the model in inference
    mode and without touching its state (weights, statistics, seeds), keeps the result inside [0, 1] and inside the
    valid set, returns the clean image wherever the method's is no better in its own objective, and measures.

    A new adversary states ``propose`` and, where needed, ``penalty`` and ``realise``.  It holds plain values, which
    ``get_config`` names, and is registered with Keras, so that a compiled model is saved with it.

    Attributes:
        reports: "radius" or "angle", the quantity that training logs.
        whole_batch: whether the clean images are kept for the whole batch (by the mean objective) or one by one.
    """

    reports = "radius"
    whole_batch = False

    def __init__(self):
        self._attacks: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()

    def __call__(self, model, x, step=0, **call_kwargs):
        """Return the attacked images; the arguments are those of ``attack``."""
        return self.attack(model, x, step, **call_kwargs).x

    def attack(self, model, x, step=0, **call_kwargs):
        """Attack a batch.

        Args:
            model: Keras model or layer, or any function of images; maps (n, h, w, c) to the same shape.
            x: images (n, h, w, c) in [0, 1].
            step: int or integer tensor; adversaries that draw at random draw by (their seed, step).
            **call_kwargs: plain values, given on to the model (such as ``stage=1``).

        Returns:
            AttackResult.

        Raises:
            InvalidArgument: ``x`` breaks the rules of ``check_images`` (values are seen only outside a trace).
        """
        x = ops.convert_to_tensor(check_images(x, name="x") if is_concrete(x) else x, "float32")
        step = ops.convert_to_tensor(step)
        if not isinstance(model, keras.Layer):
            return self._solve(lambda images: model(images, **call_kwargs), [], [], x, step)
        if not model.built:
            model(x[:1])
        values = [read(variable) for variable in self._state(model)]
        return self._compiled(model, call_kwargs)(values, x, step)

    def propose(self, objective, x, step):
        """Look for worse images: the one method that every adversary states.

        Args:
            objective: function of images (n, h, w, c) -> (n,), differentiable, to be made large.
            x: the clean images.
            step: integer tensor, for random draws.

        Returns:
            Proposal.
        """
        raise NotImplementedError

    def penalty(self, candidate, x):
        """What being far from the clean image costs: (n,) or 0."""
        return 0.0

    def realise(self, value, x):
        """Turn a proposal's value into ``(images in the valid set, angle (n,))``.  Default: images, as they are."""
        return value, ops.zeros_like(x[:, 0, 0, 0])

    def proposing(self, model):
        """Context in which `propose` runs, not what measures it; ``model`` is None where a function is attacked."""
        return contextlib.nullcontext() if model is None else frozen(model)

    def adapt(self, result, weight=1.0):
        """Tune own variables by what training measured; ``weight`` 0 says that this batch was not attacked."""

    @property
    def variables(self):
        """List of ``keras.Variable`` that ``adapt`` changes."""
        return []

    def get_config(self):
        """Return the constructor's arguments as plain values."""
        return {}

    @classmethod
    def from_config(cls, config):
        """Make an adversary from what ``get_config`` returned."""
        return cls(**config)

    def __repr__(self):
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
                return self._solve(lambda images: model(images, **kwargs), self._state(model), values, x, step, model)

            attacks[key] = compiled(run)
        return attacks[key]

    def _solve(self, reconstruct, variables, values, x, step, model=None):
        def scope():
            return keras.StatelessScope(zip(variables, values, strict=True)) if variables else contextlib.nullcontext()

        def measure(candidate):
            with scope():  # one for each evaluation: whatever a model assigns is dropped with it
                reached = distortion(candidate, reconstruct(candidate))
                return reached - self.penalty(candidate, x), reached

        with scope(), self.proposing(model):
            proposal = self.propose(lambda candidate: measure(candidate)[0], x, step)
        images, angle = self.realise(proposal.value, x)
        images = ops.clip(images, 0.0, 1.0)
        clean_objective, clean_distortion = measure(x)
        objective, reached = measure(images)
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
        )

    def _better(self, objective, clean_objective):
        """(n,) of bool.  An objective of NaN is not better."""
        if self.whole_batch:
            return ops.broadcast_to(ops.mean(objective) > ops.mean(clean_objective), ops.shape(objective))
        return objective > clean_objective


def _takes_training(model):
    return "training" in inspect.signature(model.call).parameters


def get(adversary):
    """An adversary from None, an instance, the config of one, or the name of one whose arguments have defaults.

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

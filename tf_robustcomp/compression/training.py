"""Min-max training of any Keras model that maps images to images."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp import adversaries
from tf_robustcomp.adversaries import augmentation as augmentations
from tf_robustcomp.adversaries.base import AttackResult
from tf_robustcomp.backend import keras_private
from tf_robustcomp.backend.gradients import read
from tf_robustcomp.backend.prepared_model import PreparedModel
from tf_robustcomp.backend.replicas import build_optimizer
from tf_robustcomp.data.distortion import distortion
from tf_robustcomp.utils.checks import check_at_least, check_images, is_array
from tf_robustcomp.utils.errors import InvalidArgument

# Arguments of Keras' compile that are not a choice: the loss is the mean distortion.
NO_CHOICE = ("loss", "loss_weights", "metrics", "weighted_metrics")


class MinMaxTraining(PreparedModel):
    """A Keras model whose ``fit`` replaces every batch by its worst case before the ordinary step.

    One training step, whatever the model and the backend::

        images --augmentation--> --adversary--> worst case --Keras' step--> lower distortion of the worst case

    The targets are the inputs and the loss is the mean distortion, the sum of squared errors of an image.  A subclass
    states ``call(inputs, training=False)``; one whose training differs overrides ``training_inputs``.

    Example:
        >>> class Autoencoder(rc.MinMaxTraining):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.body = keras.Sequential([keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
        ...                                       keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")])
        ...
        ...     def call(self, images, training=False):
        ...         return self.body(images, training=training)
        ...
        >>> model = Autoencoder()
        >>> model.compile("adam", adversary=rc.WassersteinBall(gamma=1.0))
        >>> model.fit(train_images)
    """

    adversary: Any = None  # until compile
    augmentation: Any = None
    image_shape: tuple[int, ...] | None = None  # that images must have; None accepts any
    compile_settings: tuple[str, ...] = ("adversary", "augmentation", "seed")  # beside those of Keras

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = ("distortion", "adversarial_distortion", "radius", "angle", "outside")
        self._means = {name: keras.metrics.Mean(name=name) for name in names}

    def training_inputs(self, images: Any) -> tuple[Any, Any]:
        """Return ``(inputs of call, target images)`` of a training step.  Default: the worst case, twice."""
        worst = self.worst_case(images).x
        return worst, worst

    def clean_weight(self, inputs: Any) -> Any:
        """Return 1 where ``training_inputs`` left this batch clean, else 0."""
        return 0.0

    def worst_case(self, images: Any, attacked: Any = None, **call_kwargs: Any) -> AttackResult:
        """Augment and attack a training batch, log what was measured, and tune the adversary.

        Args:
            images: (n, h, w, c).
            attacked: scalar bool tensor, whether this batch is attacked; None is yes.
            **call_kwargs: handed to the model under attack.
        """
        step = read(self.optimizer.iterations)
        if self.augmentation is not None:
            images = self.augmentation(images, step)
        if self.adversary is None:
            return AttackResult.unattacked(images)

        def attack():
            return self.adversary.attack(self, images, step, **call_kwargs)

        if attacked is None:
            result, weight = attack(), 1.0
        else:
            result = ops.cond(attacked, attack, lambda: AttackResult.unattacked(images))
            weight = ops.cast(attacked, "float32")
        self.adversary.adapt(result, weight)
        self._log(distortion=result.clean_distortion, adversarial_distortion=result.distortion, weight=weight)
        self._log(**{self.adversary.reports: ops.abs(getattr(result, self.adversary.reports))}, weight=weight)
        return result

    def compile(
        self, optimizer: Any = "adam", adversary: Any = None, augmentation: Any = None, seed: int = 0, **kwargs: Any
    ) -> None:
        """Make ready for ``fit``, ``evaluate`` or both.

        Args:
            optimizer: Keras optimizer, its name or config.
            adversary: Adversary that replaces every batch by its worst case; None for ordinary training.
            augmentation: Augmentation of the batch, before the adversary; the shifted image is its own target.
            seed: int >= 0, of the random numbers that the model itself draws while training.
            **kwargs: ``run_eagerly``, ``steps_per_execution``, ``jit_compile``, ``auto_scale_loss`` of Keras.

        Raises:
            InvalidArgument: a loss or metrics are given, or an argument breaks its rule.
        """
        ruled_out = [name for name in NO_CHOICE if kwargs.pop(name, None) is not None]
        if ruled_out:
            raise InvalidArgument(f"a compressor's loss and metrics are its own. Received: {', '.join(ruled_out)}")
        super().compile(optimizer=optimizer, **kwargs)
        self.adversary = adversaries.get(adversary)
        self.augmentation = augmentations.get(augmentation)
        self.seed = check_at_least("seed", seed, 0)

    def get_compile_config(self) -> dict[str, Any]:
        """Return the settings of ``compile``, with those of the adversary."""
        config = super().get_compile_config()
        own = {name: getattr(self, name) for name in self.compile_settings} if config else {}
        kept = {name: value for name, value in config.items() if name not in NO_CHOICE}
        return {**kept, **keras.saving.serialize_keras_object(own)}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with what ``get_compile_config`` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: None = None, **kwargs: Any) -> keras.callbacks.History:
        """Train as ``keras.Model.fit`` does; the targets are the inputs.

        A callback that monitors a distortion, the rate or the radius takes less of it for better.

        Args:
            x: images (n, h, w, c) in [0, 1], or a dataset or generator of batches of such images and nothing else.
            y: must be None.
            **kwargs: of ``keras.Model.fit``; ``validation_data`` is images, too.

        Raises:
            InvalidArgument: images break the rules of ``check_images``, or ``y`` is given.  Those of a dataset are
                seen after the first batch of an epoch; the weights are then again as before it.
        """
        if is_array(kwargs.get("validation_data")):
            kwargs["validation_data"] = self._checked(kwargs["validation_data"])
        kwargs["callbacks"] = self._callbacks(kwargs.get("callbacks"))
        x, y = self._checked(x), _no_targets(y)
        if self.built and self.optimizer is not None:
            build_optimizer(self)
        return super().fit(x, y, **kwargs)

    def evaluate(self, x: Any = None, y: None = None, **kwargs: Any) -> Any:
        """Measure the clean distortion as ``keras.Model.evaluate`` does; the targets are the inputs."""
        kwargs["callbacks"] = self._callbacks(kwargs.get("callbacks"))
        return super().evaluate(self._checked(x), _no_targets(y), **kwargs)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """Return the images (n, h, w, c) as they are after coding, as ``keras.Model.predict`` does."""
        return super().predict(self._checked(x), **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Export as ``keras.Model.export`` does, which needs a model that has been called."""
        if self.image_shape is not None:
            self(np.zeros((1, *self.image_shape), "float32"))
        return super().export(*args, **kwargs)

    def prepare_train_batch(self, data: Any) -> tuple[Any, Any]:
        """Replace the batch by what ``training_inputs`` makes of it."""
        images = self._images_alone(data)
        self._log(outside=_outside(images))
        return self.training_inputs(images)

    def prepare_test_batch(self, data: Any) -> tuple[Any, Any]:
        """Return the images as their own targets."""
        images = self._images_alone(data)
        return images, images

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the mean distortion, plus what layers add."""
        return MeanDistortion()(y, y_pred) + sum(self.losses)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Return results by name: loss, distortion; in training against an adversary also what that measured.

        In training ``distortion`` is that of the clean images; where there is an adversary, it has measured them.
        """
        names = ["distortion"]
        weight = 1.0
        if self.in_training_step and self.adversary is not None:
            names += ["adversarial_distortion", self.adversary.reports]
            weight = self.clean_weight(x)
        self._log(distortion=distortion(y, y_pred), weight=weight)
        if not self.in_training_step:
            self._log(outside=_outside(y))
        loss = keras_private.loss_tracker(self).result()
        return {"loss": loss, **{name: self._means[name].result() for name in names}}

    @property
    def variables(self) -> list[keras.Variable]:
        """The model's own and the adversary's, which training moves together."""
        return super().variables + self._adversary_variables

    def save_own_variables(self, store: Any) -> None:
        """Save the adversary's variables; Keras saves those of the layers."""
        for variable in self._adversary_variables:
            store[f"adversary_{variable.name}"] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Load the adversary's variables; they are missing when training begins from an ordinary model."""
        for variable in self._adversary_variables:
            if f"adversary_{variable.name}" in store:
                variable.assign(store[f"adversary_{variable.name}"])

    @property
    def fraction_outside(self) -> Any:
        """Fraction of the images since the epoch began that are not finite or not in [0, 1]."""
        return self._means["outside"].result()

    @property
    def _adversary_variables(self):
        return [] if self.adversary is None else self.adversary.variables

    def _checked(self, images):
        return check_images(images, self.image_shape) if is_array(images) else images

    def _images_alone(self, data):
        """The batch of a dataset, as float32."""
        images, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        if y is not None or weight is not None:
            raise InvalidArgument(
                "a compressor's targets are its inputs: the dataset must yield batches of images alone"
            )
        shape = tuple(images.shape)
        if len(shape) != 4 or (self.image_shape and None not in shape[1:] and shape[1:] != tuple(self.image_shape)):
            expected = ", ".join(map(str, self.image_shape or ("h", "w", "c")))
            raise InvalidArgument(f"batches of the dataset must have shape (n, {expected}). Received: {shape}")
        return ops.cast(images, "float32")

    def _callbacks(self, callbacks):
        """The user's callbacks, told the direction of our results, and the check of a dataset's images."""
        if isinstance(callbacks, keras.callbacks.CallbackList):
            return callbacks  # of fit, which evaluates
        callbacks = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else list(callbacks or ())
        for callback in callbacks:
            if getattr(callback, "mode", "") == "auto" and callback.monitor.removeprefix("val_") in self._means:
                callback.mode = "min"
        return [*callbacks, _RangeCheck()]

    def _log(self, weight=1.0, **values):
        for name, value in values.items():
            self._means[name].update_state(value, sample_weight=ops.ones_like(value) * weight)


class MeanDistortion(keras.losses.Loss):
    """Mean distortion over images, as a Keras loss, which knows how replicas share a batch."""

    def call(self, y_true, y_pred):
        """Return the distortion (n,) of images."""
        return distortion(y_true, y_pred)


class _RangeCheck(keras.callbacks.Callback):
    """Ends ``fit`` and ``evaluate`` where images of the first batch of an epoch are not in [0, 1].

    Batches of a dataset exist only inside the compiled step, and taking one out of it beforehand would change the order
    of the others.  So the step is made and, where its images are refused, taken back.
    """

    def __init__(self):
        super().__init__()
        self.seen = set()
        self.before = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.clear()
        variables = [*self.model.variables, *self.model.optimizer.variables]
        self.before = [(variable, np.array(ops.convert_to_numpy(variable))) for variable in variables]

    def on_train_batch_end(self, batch, logs=None):
        self.look("train")

    def on_test_batch_end(self, batch, logs=None):
        self.look("test")

    def look(self, phase):
        if phase in self.seen:
            return
        self.seen.add(phase)
        outside = float(self.model.fraction_outside)
        if outside > 0:
            for variable, value in self.before:
                variable.assign(value)
            raise InvalidArgument(
                f"images must be finite and lie in [0, 1]. Received: {outside:.0%} of those in the first batch do not; "
                "divide bytes by 255"
            )


def _outside(images):
    """1 for an image with a value that is NaN or outside [0, 1], else 0: (n, h, w, c) -> (n,)."""
    inside = ops.logical_and(images >= 0.0, images <= 1.0)
    return 1.0 - ops.cast(ops.all(inside, axis=(1, 2, 3)), "float32")


def _no_targets(y):
    if y is not None:
        raise InvalidArgument("a compressor's targets are its inputs: y must be None")

"""The contract of all compressors, and min-max training."""

import math

import keras
import numpy as np
from keras import ops

from tf_robustcomp import adversaries
from tf_robustcomp.adversaries.base import AttackResult, check_at_least, check_images, distortion
from tf_robustcomp.augmentation import get as augmentation_of
from tf_robustcomp.backend import PreparedModel, read
from tf_robustcomp.compressors import bitstream, networks
from tf_robustcomp.compressors.entropy import EntropyModel
from tf_robustcomp.compressors.quantizer import ScalarQuantizer
from tf_robustcomp.errors import InvalidArgument

NO_CHOICE = ("loss", "loss_weights", "metrics", "weighted_metrics")  # of Keras' arguments of compile


class BaseCompressor(PreparedModel):
    """A learned lossy code for images, in one or more stages: x (n, h, w, c) in [0, 1] -> the same.

    One order for all::

        images --latents--> z in [-1, 1]^d --quantizer--> one of L values each --reconstruct--> images
                                               |   encode gives the indices of these, decode takes them

    ``model(x)`` is ``decode(encode(x))``, bit for bit.  The code of a stage is a prefix of the code of the next.

    A variant states ``latents`` and ``reconstruct``, and ``training_batch`` where training is not on the worst case
    of the whole batch alone.  Its constructor makes its networks and then calls ``self.build(None)``.

    Args:
        stage_dims: sequence of int >= 1, the latents that each stage adds.
        levels: int >= 2, values L of each latent.
        width: int >= 1, channels of the networks.
        image_shape: (h, w, c), sides multiples of 16.
        sigma: float > 0, hardness of the quantiser's gradient.

    Raises:
        InvalidArgument: an argument breaks its rule.
    """

    adversary = augmentation = None  # until compile
    entropy_model = None  # until fit_entropy_model
    compile_settings: tuple[str, ...] = ("adversary", "augmentation", "seed")  # beside those of Keras

    def __init__(self, stage_dims, levels=12, width=64, image_shape=(32, 32, 1), sigma=1.0, **kwargs):
        super().__init__(autocast=False, **kwargs)  # images and angles come in whole, each network casts for itself
        self.stage_dims = tuple(check_at_least("latent dimension", dim, 1) for dim in stage_dims)
        self.levels = check_at_least("levels", levels, 2)
        self.width = check_at_least("width", width, 1)
        self.image_shape = networks.check_image_shape(image_shape)
        self.sigma = sigma
        self.quantizer = ScalarQuantizer(levels, sigma, name="quantizer")
        names = ("distortion", "adversarial_distortion", "radius", "angle", "rate")
        self._means = {name: keras.metrics.Mean(name=name) for name in names}

    # What a variant states.

    def latents(self, images, stage, training=False):
        """Images -> float (n, stage_width(stage)), in [-1, 1], not yet quantised."""
        raise NotImplementedError

    def reconstruct(self, latents, stage, training=False):
        """Quantised latents (n, stage_width(stage)) -> images."""
        raise NotImplementedError

    def training_batch(self, images):
        """Training images -> ``(what call is given, the images it shall give back)``.  Default: the worst case."""
        worst = self.worst_case(images).x
        return worst, worst

    # The code.

    def __call__(self, *args, **kwargs):
        """Call the model, as ``call`` says."""
        self.check_stage(kwargs.get("stage"))  # here, since Keras wraps what ``call`` raises into a page of its own
        return super().__call__(*args, **kwargs)

    def call(self, inputs, stage=None, training=False):
        """Images (n, h, w, c) -> what is left of them after coding.

        Args:
            inputs: images in [0, 1].
            stage: int from 1, how much of the code is used; None is all of it.
            training: whether batch norm uses, and moves with, the statistics of the batch.
        """
        stage = self.check_stage(stage)
        latents = self.quantizer(self.latents(inputs, stage, training=training))
        return self.reconstruct(latents, stage, training=training)

    def encode(self, images, stage=None):
        """Images (n, h, w, c) -> int32 symbols (n, d of that stage), each 0 to L - 1."""
        stage = self.check_stage(stage)
        images = ops.convert_to_tensor(self._checked(images), "float32")
        return self.quantizer.symbols(self.latents(images, stage))

    def decode(self, symbols, stage=None):
        """Symbols (n, d) -> images (n, h, w, c) in [0, 1].

        Args:
            symbols: int (n, d), 0 to L - 1; d may be that of any stage.
            stage: int, how much of the code to use; None uses all that is there.
        """
        symbols = ops.convert_to_tensor(symbols, "int32")
        if stage is None:
            widths = [self.stage_width(stage) for stage in range(1, self.stages + 1)]
            if symbols.shape[1] not in widths:
                raise InvalidArgument(f"symbols must have one of {widths} columns. Received: shape {symbols.shape}")
            stage = 1 + widths.index(symbols.shape[1])
        stage = self.check_stage(stage)
        return self.reconstruct(self.quantizer.values(symbols[:, : self.stage_width(stage)]), stage)

    def fit_entropy_model(self, images):
        """Fit the integer tables of ``compress`` once, on training images (n, h, w, c); they are saved with the model.

        Returns:
            the model.
        """
        symbols = bitstream.encode_all(self, check_images(images, self.image_shape))
        self.entropy_model = EntropyModel.fit(symbols, self.levels)
        return self

    def compress(self, images, mode="entropy", max_distortion=None):
        """Images (n, h, w, c) in [0, 1] -> bytes.

        Args:
            images: array.
            mode: "entropy", which needs ``fit_entropy_model``, or "fixed", ceil(n d log2 L) bits of payload for each
                stage.  A stage whose entropy code would be longer is coded as in fixed mode.
            max_distortion: float > 0 or None: no image may be further from its decoded form than this sum of squared
                errors.  Where the learned code is, the encoder looks for a better one (the decoder stays), then takes
                the next stage, at last it stores the image losslessly.  The bits say which.

        Returns:
            bytes; those of a structured model decode to stage 1 when cut after it.

        Raises:
            InvalidArgument: an argument breaks its rule.
        """
        return bitstream.compress(self, images, mode, max_distortion)[0]

    def decompress(self, data, stage=None):
        """Inverse of ``compress``: bytes -> float32 images (n, h, w, c) in [0, 1], equal to ``model(images)``.

        Args:
            data: bytes.
            stage: int, how much of the code to use; later parts of the stream are then not even read.

        Raises:
            BitstreamError: the stream is damaged, cut, too long, of another version or of another model.
        """
        return bitstream.decompress(self, data, stage)

    @property
    def stages(self):
        """Number of stages."""
        return len(self.stage_dims)

    @property
    def latent_dim(self):
        """Latents d of the whole code."""
        return sum(self.stage_dims)

    def stage_width(self, stage):
        """Latents of the code up to a stage."""
        return sum(self.stage_dims[:stage])

    @property
    def rate(self):
        """Bits per image of the whole code, d log2 L."""
        return self.stage_rate(self.stages)

    def stage_rate(self, stage):
        """Bits per image of the code up to a stage."""
        return self.stage_width(self.check_stage(stage)) * math.log2(self.levels)

    @staticmethod
    def distortion(x, y):
        """Sum of squared errors of each image: (n, h, w, c) twice -> (n,)."""
        return distortion(x, y)

    # Training.

    def compile(self, optimizer="adam", adversary=None, augmentation=None, seed=0, **kwargs):
        """Make ready for ``fit``, ``evaluate`` or both.

        Args:
            optimizer: Keras optimizer, its name or config.
            adversary: Adversary that replaces every batch by its worst case; None for ordinary training.
            augmentation: Augmentation of the batch, before the adversary; the shifted image is its own target.
            seed: int >= 0, of what the model itself draws while training (structured models).
            **kwargs: ``run_eagerly``, ``steps_per_execution``, ``jit_compile``, ``auto_scale_loss`` of Keras.  The
                loss is not a choice: it is the mean distortion.
        """
        ruled_out = [name for name in NO_CHOICE if kwargs.pop(name, None) is not None]
        if ruled_out:
            raise InvalidArgument(f"a compressor's loss and metrics are its own. Received: {', '.join(ruled_out)}")
        super().compile(optimizer=optimizer, **kwargs)
        self.adversary = adversaries.get(adversary)
        self.augmentation = augmentation_of(augmentation)
        self.seed = check_at_least("seed", seed, 0)

    def get_compile_config(self):
        """Settings of ``compile``, with those of the adversary."""
        config = super().get_compile_config()
        own = {name: getattr(self, name) for name in self.compile_settings} if config else {}
        config = {name: value for name, value in config.items() if name not in NO_CHOICE}
        return {**config, **keras.saving.serialize_keras_object(own)}

    def compile_from_config(self, config):
        """Inverse of ``get_compile_config``."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, **kwargs):
        """Train as ``keras.Model.fit`` does; the targets are the inputs.

        Args:
            x: images (n, h, w, c) in [0, 1], or a dataset that yields batches of such images and nothing else.
            y: must be None.
            **kwargs: of ``keras.Model.fit``; ``validation_data`` is images, too.

        Raises:
            InvalidArgument: ``x`` breaks the rules of ``check_images``, or ``y`` is given.
        """
        return super().fit(self._checked(x), _no_targets(y), **kwargs)

    def evaluate(self, x=None, y=None, **kwargs):
        """Measure the clean distortion as ``keras.Model.evaluate`` does; the targets are the inputs."""
        return super().evaluate(self._checked(x), _no_targets(y), **kwargs)

    def worst_case(self, images, attacked=None, **call_kwargs):
        """Augment and attack a training batch, log what was measured, tune the adversary: AttackResult.

        Args:
            images: (n, h, w, c).
            attacked: scalar bool tensor, whether this batch is attacked; None is yes.
            **call_kwargs: given to the model under attack.
        """
        step = read(self.optimizer.iterations)
        if self.augmentation is not None:
            images = self.augmentation(images, step)
        if self.adversary is None:
            return AttackResult.unattacked(images)
        if attacked is None:
            result, weight = self.adversary.attack(self, images, step, **call_kwargs), 1.0
        else:
            result = ops.cond(
                attacked,
                lambda: self.adversary.attack(self, images, step, **call_kwargs),
                lambda: AttackResult.unattacked(images),
            )
            weight = ops.cast(attacked, "float32")
        self.adversary.adapt(result, weight)
        self._log(distortion=result.clean_distortion, adversarial_distortion=result.distortion, weight=weight)
        self._log(**{self.adversary.reports: ops.abs(getattr(result, self.adversary.reports))}, weight=weight)
        return result

    def prepare_train_batch(self, data):
        """Worst case of the batch, by ``training_batch``."""
        return self.training_batch(_images_alone(data))

    def prepare_test_batch(self, data):
        """The images are their own targets."""
        images = _images_alone(data)
        return images, images

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Mean distortion, and what layers add."""
        return MeanDistortion()(y, y_pred) + sum(self.losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Results by name: loss, distortion, rate; in training against an adversary also what that measured.

        In training ``distortion`` is that of the clean images: measured by the adversary, where there is one.
        """
        names = ["distortion", "rate"]
        weight = 1.0
        if self.in_training_step and self.adversary is not None:
            names += ["adversarial_distortion", self.adversary.reports]
            weight = self.unattacked_share(x)
        self._log(distortion=distortion(y, y_pred), weight=weight)
        self._log(rate=self.rate)
        return {"loss": self._loss_tracker.result(), **{name: self._means[name].result() for name in names}}

    def unattacked_share(self, inputs):
        """1 where this training batch was left clean, by what ``training_batch`` gave to ``call``; else 0."""
        return 0.0

    # Keras: variables, saving.

    def build(self, input_shape):
        """Nothing more to build: the constructor made the networks whole."""

    @property
    def variables(self):
        """The model's own and the adversary's, which training moves together."""
        return super().variables + ([] if self.adversary is None else self.adversary.variables)

    def save_own_variables(self, store):
        """Save the adversary's variables and the entropy model; the networks' are saved with the networks."""
        for variable in [] if self.adversary is None else self.adversary.variables:
            store[f"adversary_{variable.name}"] = variable.numpy()
        for name, array in self.entropy_model.to_arrays().items() if self.entropy_model else ():
            store[f"entropy_{name}"] = array

    def load_own_variables(self, store):
        """Load the adversary's variables and the entropy model, if they are there."""
        if "entropy_tables" in store:
            arrays = (np.asarray(store[f"entropy_{name}"]) for name in ("parents", "tables"))
            self.entropy_model = EntropyModel.from_arrays(self.levels, *arrays)
        for variable in [] if self.adversary is None else self.adversary.variables:
            if f"adversary_{variable.name}" in store:  # not there when training begins from an ordinary model
                variable.assign(store[f"adversary_{variable.name}"])

    def get_config(self):
        """Constructor's arguments."""
        names = ("levels", "width", "image_shape", "sigma")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def check_stage(self, stage):
        """The number of a stage, None being the last; InvalidArgument if there is no such stage."""
        if stage is None:
            return self.stages
        if check_at_least("stage", stage, 1) > self.stages:
            raise InvalidArgument(f"stage must be at most {self.stages}. Received: stage={stage}")
        return stage

    def _checked(self, images):
        return check_images(images, self.image_shape) if isinstance(images, np.ndarray) else images

    def _log(self, weight=1.0, **values):
        for name, value in values.items():
            count = ops.ones_like(value) * weight
            self._means[name].update_state(value, sample_weight=count)


class MeanDistortion(keras.losses.Loss):
    """Mean over images of the sum of squared errors, as a Keras loss, which knows how replicas share a batch."""

    def call(self, y_true, y_pred):
        """Images twice -> (n,)."""
        return distortion(y_true, y_pred)


def _images_alone(data):
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if y is not None or weight is not None:
        raise InvalidArgument("a compressor's targets are its inputs: the dataset must yield batches of images alone")
    return x


def _no_targets(y):
    if y is not None:
        raise InvalidArgument("a compressor's targets are its inputs: y must be None")

"""The contract of all compressors: images to a code in stages, and back."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.coding.entropy_model import EntropyModel
from tf_robustcomp.compression import bitstream, networks
from tf_robustcomp.compression.encoders import Encoder
from tf_robustcomp.compression.fingerprint import digest_of_weights
from tf_robustcomp.compression.quantizer import ScalarQuantizer
from tf_robustcomp.compression.symbols import encode_all
from tf_robustcomp.compression.training import MinMaxTraining
from tf_robustcomp.data.distortion import distortion
from tf_robustcomp.utils.checks import check_at_least, check_images
from tf_robustcomp.utils.errors import InvalidArgument


class CompressionModel(MinMaxTraining):
    """A learned lossy code for images, in one or more stages: x (n, h, w, c) in [0, 1] -> the same.

    The order is the same for every compressor::

        images --latents--> z in [-1, 1]^d --quantizer--> one of L values each --reconstruct--> images
                                               |   encode gives the indices of these, decode takes them

    ``model(x)`` equals ``decode(encode(x))``, bit for bit.  The code of a stage is a prefix of the code of the next.

    A variant states ``latents`` and ``reconstruct``, and ``training_inputs`` where training is not on the worst case of
    the whole batch alone.  Its constructor makes its networks and then calls ``self.build((None, *self.image_shape))``.

    Args:
        stage_dims: sequence of int >= 1, the latents that each stage adds.
        levels: int >= 2, values L of each latent.
        width: int >= 1, channels of the networks.
        image_shape: (h, w, c), sides multiples of 16.
        sigma: float > 0, hardness of the quantiser's gradient.
        fused: whether batch norm runs as one operation in training, and is folded under attack.
        **kwargs: ``name`` and ``dtype`` of Keras.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> model = rc.Compressor(latent_dim=3, levels=4, width=8)  # a variant
        >>> symbols = model.encode(images)  # int (n, 3)
        >>> model.decode(symbols).shape == images.shape
        True
    """

    entropy_model: EntropyModel | None = None  # until fit_entropy_model
    image_shape: tuple[int, int, int]
    quantization: str | None = None  # mode of `quantize`
    entropy_weights: bytes | None = None  # digest of the weights that it was fitted to

    def __init__(
        self,
        stage_dims: Sequence[int],
        levels: int = 12,
        width: int = 64,
        image_shape: Sequence[int] = (32, 32, 1),
        sigma: float = 1.0,
        fused: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # images and angles come in whole, each network casts for itself
        self.stage_dims = tuple(check_at_least("latent dimension", dim, 1) for dim in stage_dims)
        self.levels = check_at_least("levels", levels, 2)
        self.width = check_at_least("width", width, 1)
        self.image_shape = networks.check_image_shape(image_shape)
        self.sigma = sigma
        self.fused = fused
        self.quantizer = ScalarQuantizer(levels, sigma, name="quantizer")
        self.quantizer.build((None, None))
        self._means["rate"] = keras.metrics.Mean(name="rate")

    # The hooks of a variant -------------------------------------------------------------------------------------------

    def latents(self, images: Any, stage: int, training: bool = False) -> Any:
        """Return the latents of images, float (n, stage_width(stage)) in [-1, 1], not yet quantised."""
        raise NotImplementedError

    def reconstruct(self, latents: Any, stage: int, training: bool = False) -> Any:
        """Return the images of quantised latents (n, stage_width(stage))."""
        raise NotImplementedError

    def training_call(self, *inputs: Any) -> Any:
        """Return the images of a training step, for variants whose ``training_inputs`` are a tuple."""
        raise NotImplementedError

    def warm_start_parts(self, trained: "CompressionModel") -> list[tuple[keras.Model, keras.Model]]:
        """Return pairs (network of this model, network of a trained one) whose weights `load_warm_start` copies."""
        return [(self, trained)]

    @classmethod
    def compile_arguments(cls, settings: Any, steps_per_epoch: float) -> dict[str, Any]:
        """Return further arguments of ``compile`` that a command's settings name."""
        return {}

    # The code ---------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, as ``call`` says."""
        self.check_stage(kwargs.get("stage"))  # here, since Keras wraps what ``call`` raises into a page of its own
        return super().__call__(*args, **kwargs)

    def call(self, inputs: Any, stage: int | None = None, training: bool = False) -> Any:
        """Return images (n, h, w, c) as they are after coding.

        Args:
            inputs: images in [0, 1]; in a training step, what ``training_inputs`` returned.
            stage: int from 1, how much of the code is used; None is all of it.
            training: whether batch norm uses, and moves with, the statistics of the batch.
        """
        if isinstance(inputs, tuple | list):
            return self.training_call(*inputs)
        stage = self.check_stage(stage)
        latents = self.quantizer(self.latents(inputs, stage, training=training))
        return self.reconstruct(latents, stage, training=training)

    def encode(self, images: Any, stage: int | None = None) -> Any:
        """Return the symbols of images (n, h, w, c): int32 (n, d of that stage), each 0 to L - 1."""
        stage = self.check_stage(stage)
        images = ops.convert_to_tensor(self._checked(images), "float32")
        return self.quantizer.symbols(self.latents(images, stage))

    def decode(self, symbols: Any, stage: int | None = None) -> Any:
        """Return the images (n, h, w, c) in [0, 1] of symbols.

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

    def fit_entropy_model(self, images: Any) -> "CompressionModel":
        """Fit the integer tables of ``compress`` to training images (n, h, w, c); they are saved with the model."""
        symbols = encode_all(self, check_images(images, self.image_shape))
        self.entropy_model = EntropyModel.fit(symbols, self.levels)
        self.entropy_weights = digest_of_weights(self)
        return self

    def rates(self, images: Any, stage: int | None = None) -> Any:
        """Return the bits of each image's code (n,), as the entropy model states them, with a gradient.

        The gradient is the slope of the bits between the two symbols around a latent, given the symbols before it.

        Args:
            images: (n, h, w, c) in [0, 1].
            stage: int from 1, the code up to it; None is all of it.

        Raises:
            InvalidArgument: there is no entropy model yet.
        """
        if self.entropy_model is None:
            raise InvalidArgument("rates needs model.fit_entropy_model(images) first")
        stage = self.check_stage(stage)
        latents = self.latents(ops.convert_to_tensor(images, "float32"), stage)
        symbols = self.quantizer.symbols(latents)
        place = (ops.cast(latents, "float32") + 1) * (self.levels - 1) / 2
        below = ops.cast(ops.clip(ops.floor(place), 0, self.levels - 2), "int32")
        total = ops.zeros_like(place[:, 0])
        for latent, (parents, table) in enumerate(
            zip(self.entropy_model.parents, self.entropy_model.tables, strict=True)
        ):
            if latent == symbols.shape[1]:
                break
            bits = ops.convert_to_tensor(-np.log2(table.ravel() / table[0].sum()).astype("float32"))
            context = ops.zeros_like(symbols[:, 0])
            for parent in parents:
                context = context * self.levels + symbols[:, parent]
            context *= self.levels
            slope = ops.take(bits, context + below[:, latent] + 1) - ops.take(bits, context + below[:, latent])
            own = place[:, latent]
            total += ops.take(bits, context + symbols[:, latent]) + slope * (own - ops.stop_gradient(own))
        return total

    def compress(
        self,
        images: Any,
        mode: str = "entropy",
        max_distortion: float | None = None,
        encoder: Encoder | None = None,
    ) -> bytes:
        """Return the stream of images (n, h, w, c) in [0, 1].

        Args:
            images: array.
            mode: "entropy", which needs ``fit_entropy_model``, or "fixed", n d log2 L bits of payload and a few more.
                A stage whose entropy code would be longer is coded as in fixed mode.
            max_distortion: float > 0 or None: no image may be further from its decoded form than this sum of squared
                errors.  Where the network's code is, the encoder looks for a nearer one, then takes the next stage,
                and in the end the image is stored losslessly.
            encoder: that finds the codes (`NetworkEncoder`, `SearchEncoder`, `ListEncoder`, `BestOf`); the stream and
                its decoder stay the same.  Default: the network's code, and under ``max_distortion`` steps on single
                symbols.

        Returns:
            bytes; those of a structured model decode to stage 1 when cut after it.

        Raises:
            InvalidArgument: an argument breaks its rule.

        Warns:
            UserWarning: the weights have changed since ``fit_entropy_model``, so that streams are longer than need be.
        """
        return bitstream.compress(self, images, mode, max_distortion, encoder=encoder)[0]

    def decompress(self, data: bytes, stage: int | None = None) -> np.ndarray:
        """Return the float32 images (n, h, w, c) in [0, 1] of a stream, equal to ``model(images)``.

        Args:
            data: bytes.
            stage: int, how much of the code to use; later parts of the stream are then not even read.

        Raises:
            BitstreamError: the stream is corrupt, truncated, too long, of another version or of another model.
        """
        return bitstream.decompress(self, data, stage)

    def load_warm_start(self, trained: "CompressionModel") -> None:
        """Copy the weights of a trained compressor into the part of this one that has its form.

        Raises:
            InvalidArgument: it does not fit.
        """
        pairs = self.warm_start_parts(trained)
        if any([v.shape for v in part.weights] != [v.shape for v in source.weights] for part, source in pairs):
            raise InvalidArgument(
                f"a {type(trained).__name__} of {trained.latent_dim} latents and width {trained.width} does not fit "
                f"into this {type(self).__name__}"
            )
        for part, source in pairs:
            part.set_weights(source.get_weights())

    @property
    def network_options(self) -> dict[str, Any]:
        """Arguments that all networks of the model share."""
        return {"width": self.width, "image_shape": self.image_shape, "dtype": self.dtype_policy, "fused": self.fused}

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.stage_dims)

    @property
    def latent_dim(self) -> int:
        """Latents d of the whole code."""
        return sum(self.stage_dims)

    def stage_width(self, stage: int) -> int:
        """Return the latents of the code up to a stage."""
        return sum(self.stage_dims[:stage])

    @property
    def rate(self) -> float:
        """Bits per image of the whole code, d log2 L."""
        return self.stage_rate(self.stages)

    def stage_rate(self, stage: int) -> float:
        """Return the bits per image of the code up to a stage."""
        return self.stage_width(self.check_stage(stage)) * math.log2(self.levels)

    def check_stage(self, stage: int | None) -> int:
        """Return the stage index, None being the last; raise InvalidArgument if there is no such stage."""
        if stage is None:
            return self.stages
        if check_at_least("stage", stage, 1) > self.stages:
            raise InvalidArgument(f"stage must be at most {self.stages}. Received: stage={stage}")
        return stage

    @staticmethod
    def distortion(x: Any, y: Any) -> Any:
        """Return the sum of squared errors of each image: (n, h, w, c) twice -> (n,)."""
        return distortion(x, y)

    # Keras: metrics, saving -------------------------------------------------------------------------------------------

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        """Return the results of training, and the rate."""
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        self._log(rate=self.rate)
        return {**results, "rate": self._means["rate"].result()}

    def build(self, input_shape: Any) -> None:
        """Build nothing more: the constructor made the networks whole."""

    def save_own_variables(self, store: Any) -> None:
        """Save the entropy model, too."""
        super().save_own_variables(store)
        for name, array in self.entropy_model.to_arrays().items() if self.entropy_model else ():
            store[f"entropy_{name}"] = array
        if self.entropy_weights is not None:
            store["entropy_weights"] = np.frombuffer(self.entropy_weights, np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Load the entropy model, too, if it is there."""
        super().load_own_variables(store)
        if "entropy_tables" in store:
            arrays = (np.asarray(store[f"entropy_{name}"]) for name in ("parents", "tables"))
            self.entropy_model = EntropyModel.from_arrays(self.levels, *arrays)
        if "entropy_weights" in store:
            self.entropy_weights = np.asarray(store["entropy_weights"]).tobytes()

    def quantize(self, mode: str, **kwargs: Any) -> None:
        """Quantise the weights of dense layers as ``keras.Model.quantize`` does; the file remembers it."""
        super().quantize(mode, **kwargs)
        self.quantization = mode

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, and the mode of ``quantize`` where that was called."""
        names = ("levels", "width", "image_shape", "sigma", "fused")
        quantized = {"quantization": self.quantization} if self.quantization else {}
        return {**super().get_config(), **{name: getattr(self, name) for name in names}, **quantized}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CompressionModel":
        """Return a model of the form that ``get_config`` describes."""
        mode = config.get("quantization")
        model = cls(**{name: value for name, value in config.items() if name != "quantization"})
        if mode:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*does not have a `quantize` method")
                model.quantize(mode)
        return model

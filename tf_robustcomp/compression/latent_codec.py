"""Codecs for photographs of any size at any rate: a transform, a gain that sets the rate, and an entropy model."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend.gradients import without_gradients
from tf_robustcomp.coding import integer_symbols
from tf_robustcomp.compression import photograph_stream, tiles
from tf_robustcomp.compression.encoders import Encoder, LatentSearch
from tf_robustcomp.compression.latent_code import STEPS, Code, coarse, quality_steps
from tf_robustcomp.compression.rounding import NoisyRounding, Rounding
from tf_robustcomp.compression.training import MinMaxTraining
from tf_robustcomp.compression.transforms import BLOCK, Analysis, Gain, Synthesis, quality_features
from tf_robustcomp.data.distortion import distortion, squared_error
from tf_robustcomp.data.similarity import ms_ssim
from tf_robustcomp.utils.checks import check_at_least, check_choice
from tf_robustcomp.utils.errors import InvalidArgument

OBJECTIVES = ("distortion", "rate", "both")
DISTORTIONS = ("mse", "msssim")
SIMILARITY_UNIT = 1300.0  # what 1 - MS-SSIM counts in units of the mean squared error, so that both take like lambdas


class LatentCodec(MinMaxTraining):
    """A learned codec for images of any size: x (n, h, w, c) in [0, 1] -> the same, at a quality from 0 to 1.

    The order is the same for every codec::

        images --Analysis--> * gain(quality) --round--> integers --Stack--> bytes
        images <--Synthesis-- * inverse gain(quality) <--------- integers <------

    ``model(x, quality=q)`` equals ``decode(encode(x, q))`` but for the last bits of float arithmetic, which may round a
    latent to the other side; what a stream's integers mean is the same on every machine.

    A variant states ``unrounded``, ``rounded``, ``symbols``, ``push``, ``pull``, ``restored``, ``least_bits`` and
    ``fit_entropy_model``.

    Args:
        latents: int >= 1, channels of the latents, at 1/16 of the resolution.
        widths: three ints, channels of the networks at 1/4, 1/8 and 1/16 of the resolution.
        blocks: three ints, residual blocks there.
        channels: 1 or 3.
        lambdas: (low, high), the weight of the mean squared error (in units of 1/255) against bits per pixel in
            training, at quality 0 and 1, and in geometric proportion between.
        **kwargs: ``name`` and ``dtype`` of Keras.

    Raises:
        InvalidArgument: an argument breaks its rule.
    """

    side = BLOCK  # the padded sides are multiples of it
    entropy_model = None  # tables are weights of the layers
    any_precision = True  # streams do not depend on the precision

    attacked = "distortion"  # the objective of the adversary in training
    distortion = "mse"  # what is weighed against the rate in training
    compile_settings = (*MinMaxTraining.compile_settings, "attacked", "distortion")

    def __init__(
        self,
        latents: int = 256,
        widths: Sequence[int] = (64, 96, 128),
        blocks: Sequence[int] = (2, 2, 1),
        channels: int = 3,
        lambdas: Sequence[float] = (0.0012, 0.07),
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.latents = check_at_least("latents", latents, 1)
        self.widths = tuple(check_at_least("widths", width, 1) for width in widths)
        self.blocks = tuple(check_at_least("blocks", number, 0) for number in blocks)
        self.channels = channels
        self.lambdas = tuple(float(value) for value in lambdas)
        if channels not in (1, 3):
            raise InvalidArgument(f"channels must be 1 or 3. Received: channels={channels}")
        if len(self.widths) != 3 or len(self.blocks) != 3:
            raise InvalidArgument(f"widths and blocks must be three each. Received: {widths} and {blocks}")
        if len(self.lambdas) != 2 or not 0 < self.lambdas[0] <= self.lambdas[1]:
            raise InvalidArgument(f"lambdas must be 0 < low <= high. Received: lambdas={lambdas}")
        low, high = self.lambdas
        slope = math.log(high / low) / 4
        # The step of a uniform quantiser at which rate + lambda * distortion is least, for orthonormal latents.
        middle = math.log(50 * (low * high) ** 0.25)
        options = {"latents": latents, "widths": widths, "blocks": blocks, "channels": channels}
        self.analysis = Analysis(**options, dtype=self.dtype_policy, name="analysis")
        self.synthesis = Synthesis(**options, dtype=self.dtype_policy, name="synthesis")
        self.gain = Gain((middle, slope, 0.0, 0.0), name="gain")
        self.inverse = Gain((-middle, -slope, 0.0, 0.0), name="inverse")
        self.analysis.build((None, None, None, channels))
        for layer in (self.synthesis, self.gain, self.inverse):
            layer.build((None, None, None, latents))
        self.random = keras.random.SeedGenerator(0)
        self._means["rate"] = keras.metrics.Mean(name="rate")

    def compile(self, *args: Any, attacked: str = "distortion", distortion: str = "mse", **kwargs: Any) -> None:
        """Make ready for ``fit``, as `MinMaxTraining.compile`.

        Args:
            *args: of `MinMaxTraining.compile`.
            attacked: what the adversary makes large in training: "distortion", "rate" or "both".
            distortion: what training weighs against the rate: "mse", or "msssim" for 1 - MS-SSIM.
            **kwargs: of `MinMaxTraining.compile`.
        """
        super().compile(*args, **kwargs)
        self.attacked = check_choice("attacked", attacked, OBJECTIVES)
        self.distortion = check_choice("distortion", distortion, DISTORTIONS)

    def training_inputs(self, images: Any) -> tuple[Any, Any]:
        """Return the worst case of a batch at the middle quality, twice."""
        worst = self.worst_case(images, objective=self.attacked).x
        return worst, worst

    # The hooks of a variant -------------------------------------------------------------------------------------------

    def unrounded(self, y: Any) -> tuple[Any, ...]:
        """Return all that is rounded, for scaled latents (n, h, w, c): these first, then what else is coded."""
        raise NotImplementedError

    def rounded(self, latents: tuple[Any, ...], step: Any, rounding: Rounding) -> tuple[Any, Any]:
        """Return ``(rounded latents (n, h, w, c), bits of each image (n,))``, with gradients.

        Args:
            latents: of `unrounded`.
            step: the quality as an integer from 0 to 255, (n,).
            rounding: that rounds latents less their means, and counts their bits.
        """
        raise NotImplementedError

    def symbols(self, latents: tuple[Any, ...], step: Any) -> tuple[np.ndarray, ...]:
        """Return the integers of latents of `unrounded`."""
        raise NotImplementedError

    def push(self, stack: integer_symbols.Stack, code: Code) -> None:
        """Add the symbols to a stack, in the order of decoding."""
        raise NotImplementedError

    def pull(self, coder: Any, grid: tuple[int, int, int], step: Any) -> tuple[np.ndarray, ...]:
        """Return the symbols of (n, rows, columns) latents from a decoder."""
        raise NotImplementedError

    def restored(self, symbols: tuple[np.ndarray, ...], step: Any) -> np.ndarray:
        """Return the rounded latents of symbols."""
        raise NotImplementedError

    def least_bits(self, grid: tuple[int, int, int]) -> float:
        """Return the bits that the symbols of (n, rows, columns) latents take at least."""
        raise NotImplementedError

    # The code ---------------------------------------------------------------------------------------------------------

    def call(self, images: Any, quality: Any = None, training: bool = False, objective: str = "distortion") -> Any:
        """Return images (n, h, w, c) as they are after coding.

        Args:
            images: in [0, 1].
            quality: float in [0, 1], or one of each image (n,); default 0.5, in training spread over all.
            training: whether the rate is that of latents with noise, and rate and distortion become losses.
            objective: what an adversary makes large.  With "rate" images are returned whose distortion is the number of
                bits, so that every adversary attacks the rate (Wu et al. 2024, arXiv 2405.07717); with "both", bits and
                lambda times the distortion as in training.
        """
        count = ops.shape(images)[0]
        images = ops.cast(images, "float32")
        if quality is None and training:  # stratified: every batch sees all rates
            places = ops.cast(ops.arange(count), "float32") + keras.random.uniform((count,), seed=self.random)
            quality = places / ops.cast(count, "float32")
        quality = ops.broadcast_to(ops.cast(0.5 if quality is None else quality, "float32"), (count,))
        check_choice("objective", objective, OBJECTIVES)
        if not training:
            quality = ops.round(quality * STEPS) / STEPS  # as in a stream
        decoded, bits = self._coded(images, quality, training)
        if training:
            rate = bits / (images.shape[1] * images.shape[2])
            price = self.price(quality)
            # Else the highest rates would decide alone.
            weight = (price / self.price(0.5)) ** -0.4
            self.add_loss(ops.mean(weight * (rate + price * self._error(images, decoded))))
            return decoded
        decoded = ops.clip(decoded, 0.0, 1.0)
        return decoded if objective == "distortion" else self._as_distortion(images, decoded, bits, quality, objective)

    def rates(self, images: Any, quality: Any = 0.5) -> Any:
        """Return the bits of each image (n,), as the entropy model states them, with a gradient."""
        images = ops.convert_to_tensor(images, "float32")
        quality = ops.broadcast_to(ops.cast(quality, "float32"), (ops.shape(images)[0],))
        return self._coded(images, quality, False)[1]

    def start_from(self, images: Any) -> "LatentCodec":
        """Begin as the best linear transform of blocks, which is where classical codecs stand.

        Analysis and synthesis become the Karhunen-Loeve transform of blocks of 16 x 16 pixels in colour; the networks
        begin as 0 and learn what is to be added.  Call it before `fit`.

        Args:
            images: (n, h, w, c) in [0, 1], n from some hundred on.

        Raises:
            InvalidArgument: there are too few blocks in them.
        """
        images = self._checked(images) - 0.5
        rows, columns = (length // BLOCK * BLOCK for length in images.shape[1:3])
        blocks = images[:, :rows, :columns].reshape(
            len(images), rows // BLOCK, BLOCK, columns // BLOCK, BLOCK, self.channels
        )
        blocks = blocks.swapaxes(2, 3).reshape(-1, BLOCK**2 * self.channels).astype(np.float64)
        if len(blocks) < 2 * blocks.shape[1] or self.latents > blocks.shape[1]:
            raise InvalidArgument(
                f"start_from needs {2 * blocks.shape[1]} blocks of 16 x 16 pixels at least. Received: {len(blocks)}"
            )
        basis = np.linalg.eigh(blocks.T @ blocks)[1][:, ::-1][:, : self.latents]
        self.analysis.linear.kernel.assign(basis.reshape(BLOCK, BLOCK, self.channels, self.latents))
        self.synthesis.linear.kernel.assign(basis.T)
        middle = math.exp(float(ops.convert_to_numpy(self.gain.logarithm)[0, 0]))
        self._start_scales(np.std(blocks @ basis, axis=0) * middle)
        return self

    def _start_scales(self, scales):
        """Begin with the standard deviations of the latents at the middle quality."""

    def encode(self, images: Any, quality: Any = 0.5, encoder: Encoder | None = None) -> Code:
        """Return the code of images (n, h, w, c) in [0, 1] of any size.

        Args:
            images: array.
            quality: float in [0, 1], or one of each image.
            encoder: that finds the codes: `SearchEncoder`, or a `BestOf` of such; default: the network.

        Raises:
            InvalidArgument: an argument breaks its rule, or the encoder is for models of one size.
        """
        images = self._checked(images)
        steps = quality_steps(quality, len(images))
        parts = []
        for image, step in zip(images, steps, strict=True):  # one by one: the last bits may depend on the batch
            features = quality_features(np.array([step / STEPS], np.float32))
            y = tiles.analysed(self, image[None], features)
            with without_gradients():
                latents = (y, *map(ops.convert_to_numpy, self.unrounded(ops.convert_to_tensor(y))[1:]))
            if encoder is None:
                parts.append(self.symbols(latents, coarse(step[None])))
            else:
                search = LatentSearch(self, image[None], latents, step[None], encoder.budget)
                encoder.improve_latents(search)
                parts.append(search.code.symbols)
        symbols = tuple(np.concatenate(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True))
        return Code(symbols, images.shape[1:3], steps)

    def decode(self, code: Code) -> np.ndarray:
        """Return the float32 images (n, h, w, c) in [0, 1] of a code."""
        images = np.empty((len(code), *code.size, self.channels), np.float32)
        for number, one in enumerate(code):
            features = quality_features((one.steps / STEPS).astype(np.float32))
            y = self.restored(one.symbols, coarse(one.steps))
            tiles.synthesise(self, y, features, images[number : number + 1])
        return images

    def compress(
        self,
        images: Any,
        quality: float | None = None,
        target_bpp: float | None = None,
        max_distortion: float | None = None,
        encoder: Encoder | None = None,
        tile: int | None = None,
    ) -> bytes:
        """Return the stream of images (n, h, w, c) in [0, 1], of any size.

        Args:
            images: array; grey ones (n, h, w, 1) are taken by a colour model, too.
            quality: float in [0, 1]; default 0.5.
            target_bpp: float > 0: the highest quality whose stream has at most so many bits per pixel is taken.
            max_distortion: float > 0: of each image the lowest quality is taken at which its sum of squared errors,
                rounded to 8 bits, is at most that; where there is none, it is stored losslessly.
            encoder: that finds the codes, as in `encode`; with ``target_bpp`` and ``max_distortion`` it searches
                at every quality that is tried.
            tile: int >= 16: ``max_distortion`` then holds for every tile of so many pixels a side.  Tiles that the code
                of the whole image leaves further away get codes of their own, losslessly if need be; the whole is coded
                at the quality with the shortest stream.

        Raises:
            InvalidArgument: an argument breaks its rule, more than one of the three is given, the tables are not made
                yet, or no quality meets the target.

        Example:
            >>> data = rc.load_pretrained("photo").compress(photographs, target_bpp=0.25)
        """
        return photograph_stream.compress(self, images, quality, target_bpp, max_distortion, encoder=encoder, tile=tile)

    def decompress(self, data: bytes) -> np.ndarray:
        """Return the float32 images (n, h, w, c) in [0, 1] of a stream.

        Raises:
            BitstreamError: the stream is corrupt, truncated, too long, of another version or of another model.
        """
        return photograph_stream.decompress(self, data)

    def fit_entropy_model(self) -> "LatentCodec":
        """Make the integer tables of ``compress`` from the trained distributions, once; they are saved with the model.

        Other compressors need images for it.
        """
        raise NotImplementedError

    def cost(self, images: np.ndarray, code: Code) -> np.ndarray:
        """Return rate + lambda * distortion of each image (n,) of a code, in bits, as it is decoded.

        Args:
            images: (n, h, w, c), the originals.
            code: of all of them.
        """
        bits = [photograph_stream.estimated_bits(self, one) for one in code]
        price = np.array([self.price_per_pixel(step / STEPS) for step in code.steps])
        return np.array(bits) + price * squared_error(images, self.decode(code))

    def price(self, quality: Any) -> Any:
        """Return lambda at a quality."""
        low, high = self.lambdas
        return low * (high / low) ** quality

    def price_per_pixel(self, quality: Any) -> Any:
        """Return how many bits a squared error of 1 in one channel of a pixel is worth, at a quality."""
        return self.price(quality) * (255.0**2 / self.channels)

    def code(self, symbols: tuple[np.ndarray, ...], size: tuple[int, int], steps: np.ndarray) -> Code:
        """Return the code of these symbols."""
        return Code(symbols, size, steps)

    def quality_of(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the qualities of a code, and the integers that select its tables: int (n,) -> float32 (n,), twice."""
        return (steps / STEPS).astype(np.float32), coarse(steps)

    def code_of(self, latents: tuple[np.ndarray, ...], size: tuple[int, int], steps: np.ndarray) -> Code:
        """Return the code of latents of `unrounded`."""
        return Code(self.symbols(latents, coarse(steps)), size, steps)

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """Return rows and columns of the latents of images of a size (h, w), which are padded by reflection."""
        rows, columns = (-(-length // self.side) * (self.side // BLOCK) for length in size)
        return rows, columns

    def _coded(self, images, quality, training):
        features = quality_features(quality)
        size = images.shape[1:3]
        y = self.gain(self.analysis(tiles.padded(images, self.side), features), features)
        rounding = NoisyRounding(self.random) if training else Rounding()
        y, bits = self.rounded(self.unrounded(y), ops.floor(quality * 255.0 + 0.5), rounding)
        decoded = self.synthesis(self.inverse(y, features), features)
        return decoded[:, : size[0], : size[1]], bits

    def _error(self, images, decoded):
        """The distortion of each image (n,) that lambda weighs in training."""
        if self.distortion == "msssim":
            return SIMILARITY_UNIT * (1 - ms_ssim(images, decoded))
        return ops.mean(ops.square(decoded - images), axis=(1, 2, 3)) * 255.0**2

    def _as_distortion(self, images, decoded, bits, quality, objective):
        """Images whose distortion is the number of bits, or bits and lambda times the distortion."""
        height, width, channels = images.shape[1:]
        if objective == "both":
            bits = bits + self.price_per_pixel(quality) * distortion(images, decoded)
        return images + ops.sqrt(bits / (height * width * channels))[:, None, None, None]

    def _checked(self, images):
        images = super()._checked(images)
        if hasattr(images, "shape") and len(images.shape) == 4 and images.shape[-1] not in (self.channels, None):
            raise InvalidArgument(f"images must have {self.channels} channels. Received: shape {tuple(images.shape)}")
        return images

    # Keras: losses, saving --------------------------------------------------------------------------------------------

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return rate + lambda * distortion in training, which ``call`` added; else the mean distortion."""
        return sum(self.losses) if training and self.losses else super().compute_loss(x, y, y_pred, sample_weight)

    def build(self, input_shape: Any) -> None:
        """Build nothing more: the constructor made the layers whole."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("latents", "widths", "blocks", "channels", "lambdas")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LatentCodec":
        """Return a model of the form that ``get_config`` describes."""
        return cls(**config)

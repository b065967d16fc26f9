"""The contract of every encoder: it proposes codes, and the nearest one is kept."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_robustcomp.compression.encoders.latents import LatentSearch
from tf_robustcomp.compression.symbols import batches, decode_all, encode_all
from tf_robustcomp.data.distortion import squared_error
from tf_robustcomp.utils.checks import check_at_least, check_images
from tf_robustcomp.utils.errors import InvalidArgument

LEAST_GAIN = 1e-6  # fraction by which a code must be nearer to replace another: decoders differ in the last bits


class CodeSearch:
    """The nearest codes found so far for some images, at one stage of a model.

    Args:
        model: compressor.
        images: (n, h, w, c) in [0, 1].
        symbols: int (n, d of that stage), the codes to begin with.
        stage: index of the stage.
        first: int, latents before this one stay as they are in ``symbols``.
        enough: distortion at which an image needs no better code.
        hopeless: distortion from which on an image is left alone.
        budget: decoder evaluations of each image at most; None is no limit.
        decode: function ``(model, symbols, stage)`` that returns images.

    Attributes:
        symbols: int (n, d), the nearest codes so far.
        distortion: float (n,), their distortion.
        used: int (n,), decoder evaluations that each image took.
        limit: float (n,), how many it may take.
    """

    def __init__(
        self,
        model: Any,
        images: np.ndarray,
        symbols: np.ndarray,
        stage: int,
        first: int = 0,
        enough: float = 0.0,
        hopeless: float = float("inf"),
        budget: int | None = None,
        decode: Callable = decode_all,
    ) -> None:
        self.model, self.images, self.stage, self.first = model, images, stage, first
        self.enough, self.hopeless, self.decode = enough, hopeless, decode
        self.symbols = np.array(symbols, np.int32)
        self.distortion = squared_error(images, decode(model, self.symbols, stage))
        self.used = np.zeros(len(images), int)
        self.limit = np.full(len(images), float("inf") if budget is None else budget, float)

    @property
    def left(self) -> np.ndarray:
        """Decoder evaluations (n,) that each image may still take."""
        return self.limit - self.used

    def rows(self, free: bool = False) -> np.ndarray:
        """Return the indices of the images that need a better code; with ``free``, of those without budget, too."""
        wanted = (self.distortion > self.enough) & (self.distortion < self.hopeless)
        return np.flatnonzero(wanted & (free | (self.left >= 1)))

    def offer(self, rows: np.ndarray, symbols: np.ndarray, free: bool = False) -> np.ndarray:
        """Decode one code for each of some images, and keep it where it is nearer.

        Args:
            rows: int (m,), indices of images, each at most once.
            symbols: int (m, d).
            free: whether the budget does not count: for codes whose decoded images are known.

        Returns:
            bool (m,), where it was kept.
        """
        kept = np.zeros(len(rows), bool)
        tried = np.clip(symbols, 0, self.model.levels - 1).astype(np.int32)
        tried[:, : self.first] = self.symbols[rows, : self.first]
        new = np.flatnonzero(np.any(tried != self.symbols[rows], axis=1) & (free | (self.left[rows] >= 1)))
        if len(new):
            at = rows[new]
            self.used[at] += 0 if free else 1
            distortion = squared_error(self.images[at], self.decode(self.model, tried[new], self.stage))
            better = distortion < (1 - LEAST_GAIN) * self.distortion[at]
            self.symbols[at[better]], self.distortion[at[better]] = tried[new][better], distortion[better]
            kept[new[better]] = True
        return kept


class Encoder:
    """Finds codes of images for a compressor whose decoder stays as it is.

    The decoder is the standard and the encoder is free: every encoder's codes have the same rate and go through the
    same stream.  The order is the same for all of them::

        the network's code --> improve: codes offered to a `CodeSearch` --> the nearest code of all

    So no image is ever further from its decoded form than by the network's code.  Encoders are deterministic.  A new
    encoder states ``improve``, and for codecs of images of any size ``improve_latents``, where the cheapest code by
    rate + lambda * distortion is kept.

    Args:
        budget: decoder evaluations of each image at most; None is no limit.

    Example:
        >>> class Brighter(rc.Encoder):
        ...     def improve(self, search):
        ...         rows = search.rows()
        ...         search.offer(rows, search.symbols[rows] + 1)
    """

    budget: int | None = None

    @property
    def lists(self) -> tuple:
        """The `ListEncoder`s that are scanned for every image, whatever the budget: what a certificate builds on."""
        return ()

    def __call__(self, model: Any, images: Any, stage: int | None = None, progress: bool = False) -> np.ndarray:
        """Return the codes that are nearest at one stage.

        Args:
            model: compressor.
            images: (n, h, w, c) in [0, 1].
            stage: index of the stage; None is the last.  Earlier stages of these codes are not looked at.
            progress: whether to show a progress bar.

        Returns:
            symbols, int32 (n, d of that stage).

        Raises:
            InvalidArgument: the images or the stage break their rule, or the encoder was made for another model.
        """
        stage = model.check_stage(stage)
        images = check_images(images, model.image_shape)
        self.check(model)
        parts = [self.search(model, part, stage).symbols for part in batches(images, progress, "encoding")]
        return np.concatenate(parts)

    def improve(self, search: CodeSearch) -> None:
        """Offer codes to the search."""
        raise NotImplementedError

    def improve_latents(self, search: LatentSearch) -> None:
        """Offer latents to the search of one image of any size.

        Raises:
            InvalidArgument: the encoder knows codes of images of one size only.
        """
        raise InvalidArgument(
            f"encoder must be a NetworkEncoder or a SearchEncoder for images of any size. Received: {self!r}"
        )

    def check(self, model: Any) -> None:
        """Raise InvalidArgument if the encoder cannot serve this model."""

    def search(self, model: Any, images: np.ndarray, stage: int) -> CodeSearch:
        """Return the search whose codes ``__call__`` returns, for one batch of checked images."""
        search = CodeSearch(model, images, encode_all(model, images, stage), stage, budget=self.budget)
        self.improve(search)
        return search

    def encode_stages(self, model: Any, images: Any, progress: bool = False) -> np.ndarray:
        """Return codes of all stages, for a stream that may be cut after any of them.

        Each stage is improved while the code of the stages before stays as it is.  An image whose code would be further
        at some stage than the network's keeps the network's.

        Returns:
            symbols, int32 (n, d).
        """
        if model.stages == 1:
            return self(model, images, progress=progress)
        images = check_images(images, model.image_shape)
        self.check(model)
        return np.concatenate([self._staged(model, part) for part in batches(images, progress, "encoding")])

    def _staged(self, model, images):
        network = encode_all(model, images)
        symbols, worse = network.copy(), np.zeros(len(images), bool)
        for stage in range(1, model.stages + 1):
            width, first = model.stage_width(stage), model.stage_width(stage - 1)
            search = CodeSearch(model, images, symbols[:, :width], stage, first, budget=self.budget)
            self.improve(search)
            symbols[:, :width] = search.symbols
            own = squared_error(images, decode_all(model, network[:, :width], stage))
            worse |= search.distortion > (1 + LEAST_GAIN) * own
        symbols[worse] = network[worse]
        return symbols

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {}

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def check_budget(budget: int | None) -> int | None:
    """Return a budget of decoder evaluations, an int >= 1 or None; else raise InvalidArgument."""
    return None if budget is None else check_at_least("budget", budget, 1)

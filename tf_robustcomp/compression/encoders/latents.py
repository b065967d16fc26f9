"""The search for the code of one image of any size: least rate + lambda * distortion."""

import weakref
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.backend.gradients import compiled, read, value_and_input_gradient
from tf_robustcomp.compression import tiles
from tf_robustcomp.compression.rounding import SoftRounding
from tf_robustcomp.compression.transforms import BLOCK, quality_features

LEAST_GAIN = 1e-6  # fraction by which a code must be cheaper to replace another: decoders differ in the last bits
# One step size serves all latents: they are scaled so that rounding by 1 is right, which makes the curvature of
# lambda * distortion near 12 / ln 2 bits for each.  Adam would move the many that hardly matter as far as the others.
STEP_SIZE = 0.003
MOMENTUM = 0.9
LONGEST_STEP = 0.1
SHARPNESS = (6.0, 15.0)  # of the soft rounding, at the first and at the last step


class LatentSearch:
    """The cheapest code found so far for one image of any size.

    Args:
        model: codec, see `LatentCodec`.
        image: (1, h, w, c) in [0, 1].
        latents: of ``model.unrounded``, arrays: the network's, to begin with.
        steps: int (1,), the quality as in a code.
        limit: decoder evaluations at most; None is no limit.

    Attributes:
        code: the cheapest so far.
        cost: its rate + lambda * distortion in bits: by the tables of the stream, as it is decoded.
        latents: those that the code was rounded from.
        used: decoder evaluations so far.
    """

    def __init__(
        self,
        model: Any,
        image: np.ndarray,
        latents: tuple[np.ndarray, ...],
        steps: np.ndarray,
        limit: int | None = None,
    ) -> None:
        self.model, self.image, self.latents, self.steps = model, image, latents, steps
        self.code = model.code_of(latents, image.shape[1:3], steps)
        self.cost = float(model.cost(image, self.code)[0])
        self.used, self.limit = 0, float("inf") if limit is None else limit

    def offer(self, latents: tuple[np.ndarray, ...]) -> bool:
        """Round latents and decode them, and keep their code if it is cheaper; return whether it was."""
        self.used += 1
        code = self.model.code_of(latents, self.image.shape[1:3], self.steps)
        cost = float(self.model.cost(self.image, code)[0])
        if not cost < (1 - LEAST_GAIN) * self.cost:
            return False
        self.code, self.cost, self.latents = code, cost, latents
        return True


def anneal(search: LatentSearch, steps: int) -> None:
    """Offer the latents that gradient steps reach while their rounding grows harder (Yang, Bamler, Mandt 2020).

    Large images go tile by tile; what is kept of a tile is out of reach of its border.  The rounding is `SoftRounding`,
    which needs no random numbers.

    Args:
        search: of an image.
        steps: of gradient descent with momentum on the latents and hyper-latents of a tile together.
    """
    model, side = search.model, search.model.side
    height, width = (BLOCK * length for length in search.latents[0].shape[1:3])
    whole = tiles.padded(search.image, side)
    counted = np.zeros((1, height, width, 1), np.float32)  # padding costs nothing
    counted[:, : search.image.shape[1], : search.image.shape[2]] = 1
    latents = [part.copy() for part in search.latents]
    for kept, inside, tile in tiles.cut((height, width), model.blocks, "searching"):
        own = [_part(part, tile, height) for part in latents]
        found = _annealed(search, _part(whole, tile, height), _part(counted, tile, height), own, steps)
        for part, values in zip(latents, found, strict=True):
            _part(part, kept, height)[...] = _part(values, inside, BLOCK * own[0].shape[1])
    search.offer(tuple(latents))


def _part(array, slices, height):
    """A view of the part of an image, or of latents of a lower resolution, that slices of pixels name."""
    scale = height // array.shape[1]
    rows, columns = (slice(part.start // scale, part.stop // scale) for part in slices)
    return array[:, rows, columns]


def _annealed(search, image, counted, latents, steps):
    """The latents of one tile after the gradient steps."""
    shapes = [part.shape for part in latents]
    point = np.concatenate([part.ravel() for part in latents])[None]
    move = np.zeros_like(point)
    slopes = _slopes_of(search.model, shapes)
    for step in range(steps):
        sharpness = SHARPNESS[0] * (SHARPNESS[1] / SHARPNESS[0]) ** (step / max(steps - 1, 1))
        move = MOMENTUM * move - STEP_SIZE * slopes(point, image, counted, search.steps, sharpness)
        move = np.clip(move, -LONGEST_STEP, LONGEST_STEP)
        point = point + move
    return _split(point, shapes)


def _split(point, shapes):
    """The arrays of some shapes that stand in a row (1, m) one after another."""
    ends = np.cumsum([0, *(np.prod(shape) for shape in shapes)])
    return [
        ops.reshape(point[0, first:last], shape) for first, last, shape in zip(ends[:-1], ends[1:], shapes, strict=True)
    ]


_traced: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()


def _slopes_of(model, shapes):
    """A function of latents in a row (1, m) and of an image that returns the gradient of the relaxed cost."""
    functions, key = _traced.setdefault(model, {}), tuple(shapes)
    if key not in functions:
        weak = weakref.ref(model)  # or the cache would keep the model alive

        def run(weights, point, image, counted, quality, step, sharpness):
            model: Any = weak()
            with keras.StatelessScope(zip(model.variables, weights, strict=True)):
                features = quality_features(quality)

                def objective(point):
                    y, bits = model.rounded(tuple(_split(point, shapes)), step, SoftRounding(sharpness))
                    decoded = model.synthesis(model.inverse(y, features), features)
                    squares = ops.sum(counted * ops.square(decoded - image), axis=(1, 2, 3))
                    return bits + model.price_per_pixel(quality) * squares

                return value_and_input_gradient(objective, point)[1]

        functions[key] = compiled(run)

    def slopes(point, image, counted, steps, sharpness):
        weights = [read(variable) for variable in model.variables]
        quality, step = model.quality_of(steps)
        values = (point, image, counted, quality, step, np.float32(sharpness))
        return np.array(ops.convert_to_numpy(functions[key](weights, *map(ops.convert_to_tensor, values))))

    return slopes

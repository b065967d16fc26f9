"""Scalar quantisation with a gradient."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tf_robustcomp.utils.checks import check_at_least, check_positive


@keras.saving.register_keras_serializable("tf_robustcomp")
class ScalarQuantizer(keras.layers.Layer):
    """Round every coordinate to the nearest of L values, uniformly spaced on [-1, 1], ends included.

    Forward: exactly the nearest value; of two equally near, the lower.  Backward: the gradient of the soft assignment
    sum_l c_l softmax_l(-sigma (z - c_l)^2) (Agustsson et al. 2017, arXiv 1704.00648; Mentzer et al. 2018, arXiv
    1801.04260).  Always computed in float32, so that a symbol does not depend on the model's precision.

    Args:
        levels: int >= 2, the number L of values.
        sigma: float > 0, hardness of the soft assignment.

    Raises:
        InvalidArgument: an argument breaks its rule.

    Example:
        >>> rc.ScalarQuantizer(levels=3)(np.array([-0.6, -0.5, 0.7], "float32"))  # -> -1, -1, 1
    """

    def __init__(self, levels: int, sigma: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.levels = check_at_least("levels", levels, 2)
        self.sigma = check_positive("sigma", sigma)
        self._points = np.linspace(-1.0, 1.0, self.levels).astype("float32")
        self._borders = _midpoints(self._points)

    def build(self, input_shape: Any) -> None:
        """Build nothing: there are no weights."""

    def symbols(self, z: Any) -> Any:
        """Return the index of the nearest value of each coordinate: float (...) -> int32 (...), 0 to L - 1."""
        above = ops.greater(ops.expand_dims(z, -1), ops.convert_to_tensor(self._borders))
        return ops.sum(ops.cast(above, "int32"), axis=-1)

    def values(self, symbols: Any) -> Any:
        """Return the values of symbols: int (...) -> float32 (...)."""
        return ops.take(ops.convert_to_tensor(self._points), symbols)

    def call(self, z: Any) -> Any:
        """Return the nearest values of latents (...)."""
        soft = self._soft_assignment(z)
        # The bracket is exactly 0 and has the gradient: the sum is exactly the value.
        return self.values(self.symbols(z)) + (soft - ops.stop_gradient(soft))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "levels": self.levels, "sigma": self.sigma}

    def _soft_assignment(self, z):
        points = ops.convert_to_tensor(self._points)
        squares = ops.square(ops.expand_dims(z, -1) - points)
        return ops.sum(ops.softmax(-self.sigma * squares) * points, axis=-1)


def _midpoints(points):
    """For each pair of neighbours the greatest float32 that is not above their middle: x > it if and only if nearer."""
    exact = (points[:-1].astype("float64") + points[1:]) / 2
    rounded = exact.astype("float32")
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(-2)), rounded).astype("float32")

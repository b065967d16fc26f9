"""Small codecs for photographs, and photographs."""

import keras
import numpy as np

import tf_robustcomp as rc
from tf_robustcomp.compression.transforms import quality_features

SMALL = {"latents": 12, "widths": (4, 6, 8), "blocks": (1, 1, 1)}
MAKERS = {
    "factorized": lambda **kwargs: rc.FactorizedPrior(**SMALL, **kwargs),
    "hyperprior": lambda **kwargs: rc.MeanScaleHyperprior(
        **SMALL, hyper_widths=(8, 8, 4), parameters_width=8, **kwargs
    ),
}
numpy = keras.ops.convert_to_numpy


def codec(name, **kwargs):
    """An untrained model whose symbols are not all 0, with tables."""
    model = MAKERS[name](**kwargs)
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:
        if "linear" in variable.path:
            variable.assign(rng.normal(size=variable.shape) * 0.05)
    return model.fit_entropy_model()


def photographs(*shape, seed=0):
    """Smooth colours and some noise, 8 bits."""
    rng = np.random.default_rng(seed)
    n, h, w, c = shape
    waves = (
        np.sin(np.linspace(0, 9, h))[:, None, None] * np.cos(np.linspace(0, 7, w))[:, None] * rng.random((n, 1, 1, c))
    )
    return (np.round(255 * np.clip(0.5 + 0.4 * waves + 0.1 * rng.normal(size=shape), 0, 1)) / 255).astype("float32")


def rate_features(quality):
    """The features of a quality that the transforms take, (1, n)."""
    return quality_features(np.array([quality], "float32"))

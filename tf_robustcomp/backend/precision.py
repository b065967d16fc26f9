"""Precision and determinism."""

from typing import Any

import keras

from tf_robustcomp.backend import BACKEND
from tf_robustcomp.backend.replicas import strategy_scope

if BACKEND == "tensorflow":
    import tensorflow as tf


def configured(settings: Any) -> Any:
    """Set precision and determinism for the process; return the context in which models are made and trained.

    Args:
        settings: `cli.settings.common.DeviceSettings`.
    """
    keras.backend.clear_session()
    keras.config.set_dtype_policy("mixed_bfloat16" if settings.mixed_precision else "float32")
    if settings.deterministic and BACKEND == "tensorflow":
        tf.config.experimental.enable_op_determinism()
    return strategy_scope(settings.strategy)

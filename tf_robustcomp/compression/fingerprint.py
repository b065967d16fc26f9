"""Tell models apart by their architecture and weights."""

import hashlib
import json
from typing import Any

import numpy as np
from keras import ops


def fingerprint(model: Any) -> bytes:
    """Return 16 bytes that tell models apart: a hash of architecture, weights and entropy tables, not of names."""
    unrelated = ("name", "dtype", "trainable", "fused")  # dtype stands below, by its name
    config = {key: value for key, value in model.get_config().items() if key not in unrelated}
    precision = {} if getattr(model, "any_precision", False) else {"dtype": model.dtype_policy.name}
    config |= {"class": type(model).__name__, **precision}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    _add_weights(digest, model)
    if model.entropy_model is not None:
        for array in model.entropy_model.to_arrays().values():
            digest.update(array.tobytes())
    return digest.digest()[:16]


def digest_of_weights(model: Any) -> bytes:
    """Return 16 bytes that change with any of a model's weights."""
    digest = hashlib.sha256()
    _add_weights(digest, model)
    return digest.digest()[:16]


def _add_weights(digest, model):
    for variable in model.weights:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable.value)).tobytes())

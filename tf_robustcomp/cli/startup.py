"""Import Keras, and modules that need it, without start-up notices; commands do so once their flags are checked."""

import importlib
import os
from typing import Any

from tf_robustcomp.utils import quiet
from tf_robustcomp.utils.errors import Error

BACKENDS = ("tensorflow", "jax", "torch")
LEAST_MEMORY = 3 * 2**30  # bytes of address space; importing TensorFlow takes 2.3e9, a small training some more


def load(name: str) -> Any:
    """Return a module of the package that needs Keras, such as "experiments.compressor".

    Raises:
        Error: Keras is to run on another backend than TensorFlow, or cannot run in the memory allowed.
    """
    check_environment()
    import_backend_quietly()
    import keras

    _check_backend(keras.backend.backend())  # which ~/.keras/keras.json may name
    return importlib.import_module(f"tf_robustcomp.{name}")


def check_environment() -> None:
    """Refuse, before the import, a backend that commands do not have, and a limit below what TensorFlow needs.

    Raises:
        Error: says what to change.
    """
    _check_backend(os.environ.get("KERAS_BACKEND") or "tensorflow")
    try:
        import resource
    except ImportError:  # Windows
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_MEMORY:
        raise Error(
            f"the limit on this process's memory is {limit // 2**20} MiB, TensorFlow needs "
            f"{LEAST_MEMORY // 2**20}; raise it (ulimit -v)"
        )


def _check_backend(backend):
    if backend not in BACKENDS:
        raise Error(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}. Received: {backend}")
    if backend != "tensorflow":
        raise Error(f"commands need TensorFlow; unset KERAS_BACKEND, or use the Python API on {backend}")


def import_backend_quietly() -> None:
    """Import Keras on TensorFlow, where that is the backend, without notices on the terminal."""
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return
    quiet.import_keras()
    import tensorflow

    tensorflow.get_logger().setLevel("ERROR")

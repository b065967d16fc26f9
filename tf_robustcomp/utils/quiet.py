"""Import Keras without the start-up notices of its backend."""

import contextlib
import os
import sys


def import_keras() -> None:
    """Import Keras and its backend, if nobody has, with nothing on the terminal.

    TensorFlow's log of errors in C++ stays off, unless TF_CPP_MIN_LOG_LEVEL is set: a machine without CUDA and a part
    of the graph that cannot be fused are errors to it.
    """
    if "keras" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _no_standard_error():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow  # noqa: F401


@contextlib.contextmanager
def _no_standard_error():
    """Send file descriptor 2 nowhere: the first notices come from C++, before any setting of the log is read."""
    try:
        terminal = os.dup(2)
    except OSError:  # closed already
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)

"""Keep what the backend prints in C++ off the terminal."""

import contextlib
import os
import sys
from collections.abc import Iterator


def import_keras() -> None:
    """Import Keras and its backend, if nobody has, with nothing on the terminal.

    TensorFlow's log of errors in C++ stays off, unless TF_CPP_MIN_LOG_LEVEL is set: a machine without CUDA and a part
    of the graph that cannot be fused are errors to it.
    """
    if "keras" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with no_standard_error():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow  # noqa: F401


@contextlib.contextmanager
def no_standard_error() -> Iterator[None]:
    """Send file descriptor 2 nowhere, while the context lasts.

    The first notices come from C++, before any setting of the log is read; converters heed no setting at all.
    """
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

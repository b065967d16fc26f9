"""Pruning for any Keras 3 model, and learned image compression that holds under distribution shift.

The public names stand in ``__init__.pyi``; each is loaded from its module on first use.
"""

import importlib.metadata
import sys
from typing import Any

import lazy_loader

from tf_robustcomp.utils import quiet

_load, _, _exported = lazy_loader.attach_stub(__name__, __file__)
__version__ = importlib.metadata.version("tf_robustcomp")
__all__ = sorted([*_exported, "__version__", "load_model"])


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _exported:
        quiet.import_keras()
    value = _load(name)
    if name in _exported:
        globals()[name] = value
    return value


def load_model(path: Any) -> Any:
    """Return the model in a ``.keras`` file; the package's classes are registered first, and safe mode is on.

    Example:
        >>> model = rc.load_model("model.keras")  # a pruning optimizer inside goes on where it stopped
    """
    load_all()
    import keras

    return keras.saving.load_model(path, safe_mode=True)


def load_all() -> None:
    """Load every name; this registers every class that Keras may meet in a file."""
    for name in _exported:
        __getattr__(name)


if "keras" in sys.modules:  # whoever imported Keras first may load files that hold the package's classes
    load_all()

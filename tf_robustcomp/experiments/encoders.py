"""The encoder that a command's flags name, for the model in a file."""

from pathlib import Path
from typing import Any

from tf_robustcomp.compression.encoders import BestOf, Encoder
from tf_robustcomp.utils.registry import variants


def chosen(settings: Any, model: Any, path: Path) -> Encoder | None:
    """Return the encoder of ``--encoder``, several of which improve the same codes in order; None without the flag.

    Args:
        settings: with ``encoder`` and ``encoder_budget``, checked.
        model: compressor.
        path: its file, beside which its list stands.

    Raises:
        DataError: there is no list beside it.
        InvalidArgument: the list is of another model.
    """
    found = []
    for name in settings.encoder:
        variant = variants("encoder")[name]
        found.append(variant.build(settings, model, path) if name == "list" else variant.build(settings))
    if len(found) > 1:
        return BestOf(found, settings.encoder_budget)
    return found[0] if found else None

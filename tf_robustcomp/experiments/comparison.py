"""The one shape of the commands that evaluate trained compressors together; Keras is imported after the checks."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tf_robustcomp.cli import outputs, startup
from tf_robustcomp.cli.flags import Parsed
from tf_robustcomp.runs.models import training_data


def command(measure: str, suffixes: Sequence[str]) -> Callable[[Parsed], None]:
    """Return the command that checks its outputs, models and data, then measures and writes.

    Args:
        measure: name of a function of `experiments.evaluations`.
        suffixes: of the files written, after the setting ``output``.
    """

    def perform(parsed: Parsed) -> None:
        settings: Any = parsed.settings
        outputs.check(
            outputs.with_suffixes(settings.output, suffixes),
            settings.models,
            settings.force,
        )
        settings = dataclasses.replace(settings, data=training_data(settings.models, settings.data))
        getattr(startup.load("experiments.evaluations"), measure)(settings)

    return perform

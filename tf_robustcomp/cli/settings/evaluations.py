"""Settings of evaluating trained compressors."""

import dataclasses
from pathlib import Path

from tf_robustcomp.cli import outputs
from tf_robustcomp.cli.settings.coding import EncoderSettings
from tf_robustcomp.cli.settings.common import IMAGES
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.settings import field


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Flags of every command that evaluates trained compressors together."""

    models: tuple[str, ...] = field((), "run directories of train_compressor, separated by commas", path=True)
    labels: tuple[str, ...] = field((), "names in the figure [default: the directories' names]")
    data: str = field(
        "",
        f"images: {IMAGES}; its test set is used [default: the models' training data]",
        path=True,
    )
    images: int = field(0, "use only the first N test images (0 = all)", minimum=0)
    force: bool = outputs.force()

    def check(self) -> None:
        """Refuse models and labels that do not fit together."""
        if not self.models:
            raise InvalidArgument("--models must name at least one run directory. Received: none")
        if self.labels and len(self.labels) != len(self.models):
            raise InvalidArgument(
                f"--labels must be as many as --models. Received: {len(self.labels)}, {len(self.models)}"
            )
        if len(self.labelled()) < len(self.models):
            raise InvalidArgument(f"--labels must differ. Received: {','.join(self._names())}")

    def labelled(self) -> dict[str, str]:
        """Return the run directories by label."""
        return dict(zip(self._names(), self.models, strict=True))

    def _names(self):
        return self.labels or [Path(path).resolve().name for path in self.models]


@dataclasses.dataclass(frozen=True)
class CodedEvaluationSettings(EncoderSettings, EvaluationSettings):
    """Flags of every command that evaluates trained compressors with an encoder of choice."""

    def check(self) -> None:
        """Refuse models, labels and encoders that do not fit together."""
        super().check()
        self.check_encoder()

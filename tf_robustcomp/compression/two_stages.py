"""The base of compressors of two stages."""

from collections.abc import Sequence
from typing import Any

from tf_robustcomp.compression.model import CompressionModel
from tf_robustcomp.utils.errors import InvalidArgument


class TwoStageModel(CompressionModel):
    """A compressor of two stages, whose first argument is their latents ``(d1, d2)``."""

    def __init__(self, stage_dims: Sequence[int], *args: Any, **kwargs: Any) -> None:
        if len(tuple(stage_dims)) != 2:
            raise InvalidArgument(f"stage_dims must be two integers. Received: stage_dims={stage_dims}")
        super().__init__(stage_dims, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "stage_dims": self.stage_dims}

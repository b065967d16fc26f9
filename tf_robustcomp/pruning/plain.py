"""Base of schedules, distributions and patterns: dataclasses of plain values, which Keras saves."""

import dataclasses
from typing import Any, Self


class Plain:
    """Base of frozen dataclasses whose fields are plain values."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return an instance made from ``get_config``."""
        return cls(**config)

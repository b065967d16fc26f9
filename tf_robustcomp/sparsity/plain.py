"""What schedules, distributions and patterns are: dataclasses of plain values, which Keras saves as such."""

import dataclasses


class Plain:
    """Base of frozen dataclasses whose fields are plain values."""

    def get_config(self):
        """Plain values: the constructor's arguments."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config):
        """Inverse of `get_config`."""
        return cls(**config)

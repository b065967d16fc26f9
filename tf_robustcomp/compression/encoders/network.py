"""The code that the network gives."""

from tf_robustcomp.compression.encoders.base import CodeSearch, Encoder


class NetworkEncoder(Encoder):
    """Takes the network's code as it is.

    Example:
        >>> rc.NetworkEncoder()(model, images)  # equals model.encode(images)
    """

    def improve(self, search: CodeSearch) -> None:
        """Offer nothing."""

    def __repr__(self) -> str:
        return "NetworkEncoder()"

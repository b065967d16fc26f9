"""The code that the network gives."""

from tf_robustcomp.compression.encoders.base import CodeSearch, Encoder
from tf_robustcomp.compression.encoders.latents import LatentSearch
from tf_robustcomp.utils.registry import register


@register("encoder", "network")
class NetworkEncoder(Encoder):
    """Takes the network's code as it is.

    Example:
        >>> rc.NetworkEncoder()(model, images)  # equals model.encode(images)
    """

    def improve(self, search: CodeSearch) -> None:
        """Offer nothing."""

    def improve_latents(self, search: LatentSearch) -> None:
        """Offer nothing."""

"""A compressor together with the encoder that finds its codes, as one function of images."""

from typing import Any

from keras import ops

from tf_robustcomp.compression.encoders import Encoder
from tf_robustcomp.compression.symbols import decode_all
from tf_robustcomp.utils.errors import InvalidArgument


class EncodedModel:
    """Maps images to what the decoder makes of the codes that an encoder finds.

    It runs outside of any trace, and its images have no gradient.  A codec of images of any size codes at quality 0.5.

    Args:
        model: compressor.
        encoder: encoder.

    Raises:
        InvalidArgument: the model has no codes, or the encoder is for another one.
    """

    def __init__(self, model: Any, encoder: Encoder) -> None:
        if not hasattr(model, "decode"):
            raise InvalidArgument(f"encoder needs a compressor of this package. Received: {type(model).__name__}")
        encoder.check(model)
        self.model, self.encoder = model, encoder
        self.name, self.image_shape, self.stages = model.name, model.image_shape, getattr(model, "stages", 1)

    def __call__(self, images: Any, stage: int | None = None) -> Any:
        """Return the decoded images of images (n, h, w, c)."""
        images = ops.convert_to_numpy(images)
        if self.image_shape is None:
            return ops.convert_to_tensor(self.model.decode(self.model.encode(images, encoder=self.encoder)))
        symbols = self.encoder(self.model, images, stage)
        return ops.convert_to_tensor(decode_all(self.model, symbols, stage))

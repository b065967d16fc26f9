"""Successive refinement: one encoder, a decoder for each stage."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from tf_robustcomp.backend.gradients import read
from tf_robustcomp.backend.randomness import step_seed
from tf_robustcomp.compression import networks
from tf_robustcomp.compression.model import CompressionModel
from tf_robustcomp.compression.standard import Compressor
from tf_robustcomp.compression.two_stages import TwoStageModel
from tf_robustcomp.utils.checks import check_at_least
from tf_robustcomp.utils.errors import InvalidArgument
from tf_robustcomp.utils.registry import register


@register(
    "compressor",
    "successive_refinement",
    uses=("stage_dims", "levels", "width", "image_shape", "fused"),
    rules={"stage_dims": {"length": 2}},
)
class SuccessiveRefinement(TwoStageModel):
    """One encoder, two decoders: the first sees the first d1 latents, the second all d1 + d2 (arXiv 2110.07007).

    Stage 1 is trained on clean images and stage 2 on their worst case, so that the second part of the code pays for
    robustness.  After ``warmup_steps``, each batch is attacked with probability ``attacked_fraction`` and goes through
    decoder 2; otherwise it stays clean and goes through decoder 1.  The draw is a function of (seed, step).

    Args:
        stage_dims: two int >= 1, d1 and d2.
        *args, **kwargs: of `CompressionModel`, from ``levels`` on.

    Example:
        >>> model = rc.SuccessiveRefinement((3, 7), levels=12, width=8)
        >>> model.compile("adam", adversary=rc.WassersteinBall(gamma=1.0), attacked_fraction=0.5)
        >>> model.fit(train_images, epochs=5)
        >>> first, both = model(images, stage=1), model(images)
    """

    compile_settings = (*TwoStageModel.compile_settings, "warmup_steps", "attacked_fraction")

    def __init__(self, stage_dims: Sequence[int] = (3, 7), *args: Any, **kwargs: Any) -> None:
        super().__init__(stage_dims, *args, **kwargs)
        self.encoder = networks.encoder(self.latent_dim, **self.network_options)
        self.decoders = [
            networks.decoder(self.stage_width(stage), name=f"decoder_{stage}", **self.network_options)
            for stage in (1, 2)
        ]
        self.build((None, *self.image_shape))

    def compile(self, *args: Any, warmup_steps: int = 0, attacked_fraction: float = 0.5, **kwargs: Any) -> None:
        """Make ready for ``fit``, as every compressor.

        Args:
            *args: of ``Compressor.compile``.
            warmup_steps: int >= 0, training steps at the beginning of which all are clean, through decoder 1.
            attacked_fraction: float in [0, 1], probability of an attacked batch afterwards.
            **kwargs: of ``Compressor.compile``.
        """
        super().compile(*args, **kwargs)
        self.warmup_steps = check_at_least("warmup_steps", warmup_steps, 0)
        self.attacked_fraction = attacked_fraction
        if not 0 <= attacked_fraction <= 1:
            raise InvalidArgument(
                f"attacked_fraction must lie in [0, 1]. Received: attacked_fraction={attacked_fraction}"
            )

    @classmethod
    def compile_arguments(cls, settings: Any, steps_per_epoch: float) -> dict[str, Any]:
        """Return the steps of warm-up."""
        return {"warmup_steps": round(settings.warmup_epochs * steps_per_epoch)}

    def warm_start_parts(self, trained: CompressionModel) -> list[tuple[keras.Model, keras.Model]]:
        """Take a standard compressor's encoder, and its decoder for stage 2."""
        if isinstance(trained, Compressor):
            return [(self.encoder, trained.encoder), (self.decoders[1], trained.decoder)]
        return super().warm_start_parts(trained)

    def latents(self, images: Any, stage: int, training: bool = False) -> Any:
        """Return the first latents of the one encoder."""
        return self.encoder(images, training=training)[:, : self.stage_width(stage)]

    def reconstruct(self, latents: Any, stage: int, training: bool = False) -> Any:
        """Return the images of the stage's own decoder."""
        return self.decoders[stage - 1](latents, training=training)

    def training_call(self, *inputs: Any) -> Any:
        """Return the images of the drawn stage for ``(images, stage)``, where ``stage`` is a tensor."""
        images, stage = inputs
        latents = self.quantizer(self.latents(images, self.stages, training=True))
        return self._reconstruct_chosen(latents, ops.equal(stage, 2))

    def training_inputs(self, images: Any) -> tuple[Any, Any]:
        """Return the worst case for stage 2 or clean images for stage 1, by the draw."""
        attacked = self.attacks_at(read(self.optimizer.iterations))
        worst = self.worst_case(images, attacked, stage=2).x
        return (worst, 1 + ops.cast(attacked, "int32")), worst

    def attacks_at(self, step: Any) -> Any:
        """Return whether the batch of a training step (int or tensor) is attacked, a scalar bool tensor."""
        drawn = keras.random.uniform((), seed=step_seed("coin", self.seed, step)) < self.attacked_fraction
        return ops.logical_and(drawn, step >= self.warmup_steps)

    def clean_weight(self, inputs: Any) -> Any:
        """Return 1 where the batch went through decoder 1."""
        return ops.cast(ops.equal(inputs[1], 1), "float32")

    def _reconstruct_chosen(self, latents, second):
        """Run both decoders, so that all backends see the same gradients; only the chosen one's statistics move."""
        outputs = []
        for stage, (decoder, chosen) in enumerate(
            zip(self.decoders, (ops.logical_not(second), second), strict=True), 1
        ):
            before = [ops.copy(read(variable)) for variable in decoder.non_trainable_variables]
            outputs.append(decoder(latents[:, : self.stage_width(stage)], training=True))
            for variable, value in zip(decoder.non_trainable_variables, before, strict=True):
                variable.assign(ops.where(chosen, variable.value, value))
        return ops.where(second, outputs[1], outputs[0])

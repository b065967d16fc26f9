"""Build, train and evaluate a codec for photographs from the settings of a command."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_robustcomp.backend.fused import Adam
from tf_robustcomp.cli.flags import Parsed
from tf_robustcomp.compression import FactorizedPrior, MeanScaleHyperprior
from tf_robustcomp.compression.pretrained import load_pretrained, pretrained_names
from tf_robustcomp.data.crops import crop_batches, crops, photographs
from tf_robustcomp.evaluation.quality import ms_ssim
from tf_robustcomp.runs import trainer
from tf_robustcomp.runs.directory import Run, digest
from tf_robustcomp.utils import files, registry
from tf_robustcomp.utils.errors import InvalidArgument

KINDS = {"hyperprior": MeanScaleHyperprior, "factorized": FactorizedPrior}
START_CROPS = 400  # crops at most that the linear start is computed of
QUALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)


def train(command: str, settings: Any) -> None:
    """Train in the settings' run directory, or continue where a run stopped.

    Args:
        command: name of the command.
        settings: `cli.settings.PhotographSettings`.
    """

    def batches_from(data, step):
        return crop_batches(data[0], settings.batch_size, settings.crop, settings.order_seed, step, settings.shrink)

    trainer.train_run(
        command,
        settings,
        load=lambda: (photographs(settings.data, "train", math.ceil(settings.crop * settings.shrink)),),
        build=lambda data: build(settings, data[0]),
        batches_from=batches_from,
        max_steps=settings.steps,
        complete=lambda model, data: model.fit_entropy_model(),
        digests=lambda data: {"train": digest(*data[0])},
    )


def build(settings: Any, images: list[np.ndarray]) -> keras.Model:
    """Return the compiled model that a new run starts with."""
    keras.utils.set_random_seed(settings.seed)
    if settings.warm_start in pretrained_names():
        model = load_pretrained(settings.warm_start)
    elif settings.warm_start:
        model = Run(settings.warm_start).load_model()
        if not isinstance(model, tuple(KINDS.values())):
            raise InvalidArgument(f"--warm-start {settings.warm_start}: its model is no codec for photographs")
    else:
        model = KINDS[settings.model](settings.latents, settings.widths, settings.blocks, lambdas=settings.lambdas)
        count = max(START_CROPS, math.ceil(2 * 3 * 16**2 / (settings.crop // 16) ** 2))
        model.start_from(crops(images, count, settings.crop, settings.order_seed, 2**31))
    model.compile(
        Adam(
            keras.optimizers.schedules.CosineDecay(settings.learning_rate, settings.steps),
            fused=settings.fused,
            global_clipnorm=settings.clip_norm or None,
            use_ema=settings.ema_momentum > 0,
            ema_momentum=settings.ema_momentum,
        ),
        adversary=_chosen("adversary", settings.adversary, settings),
        augmentation=_chosen("augmentation", settings.augmentation, settings),
        seed=settings.adversary_seed,
        jit_compile=settings.jit_compile,
        attacked=settings.attacked,
        distortion=settings.distortion,
    )
    return model


def evaluate(parsed: Parsed) -> None:
    """Write eval_test.json of the run in the settings' directory: bits per pixel of files, PSNR, MS-SSIM by quality."""
    run = Run(parsed.settings.train_dir)
    data = parsed.settings.data if "data" in parsed.given else run.settings_as(parsed.settings)["data"]
    model, images = run.load_model(), photographs(data, "test")
    results = {f"{quality:g}": measured(model, images, quality) for quality in QUALITIES}
    path = Path(run.path) / "eval_test.json"
    files.write_json(path, {"data": data, "images": len(images), "qualities": results})
    for quality, entry in results.items():
        print(f"{path}: quality {quality}, " + ", ".join(f"{name} {value:.4f}" for name, value in entry.items()))


def measured(model: Any, images: list[np.ndarray], quality: float) -> dict[str, float]:
    """Return means over pictures: bits per pixel of the stream, PSNR over RGB in dB, MS-SSIM."""
    rates, psnr, alike = [], [], []
    for pixels in images:
        data = model.compress((pixels / 255).astype(np.float32)[None], quality=quality)
        decoded = np.round(model.decompress(data) * 255).astype(np.uint8)
        rates.append(8 * len(data) / pixels[..., 0].size)
        psnr.append(-10 * np.log10(np.mean((decoded[0] / 255 - pixels / 255) ** 2)))
        alike.append(ms_ssim(pixels[None], decoded)[0])
    return {
        "bits_per_pixel": float(np.mean(rates)),
        "psnr_db": float(np.mean(psnr)),
        "ms_ssim": float(np.nanmean(alike)),
    }


def _chosen(kind, name, settings):
    return None if name == "none" else registry.variants(kind)[name].build(settings)

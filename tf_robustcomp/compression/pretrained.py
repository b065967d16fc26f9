"""Trained models that come with the package, as small files: float16 where that is exact or does no harm."""

import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_robustcomp.coding.entropy_model import EntropyModel
from tf_robustcomp.compression import hyperprior, standard  # noqa: F401  (they register their models)
from tf_robustcomp.compression.fingerprint import digest_of_weights
from tf_robustcomp.compression.model import CompressionModel
from tf_robustcomp.utils import files
from tf_robustcomp.utils.checks import check_choice
from tf_robustcomp.utils.errors import DataError

FOLDER = Path(__file__).parents[1] / "pretrained"
TABLES = "tables_"  # beginning of the names of a compressor's entropy model
CONFIG = "config"  # the array that holds class and configuration, as JSON


def pretrained_names() -> tuple[str, ...]:
    """Return the names of the models that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.npz")))


def load_pretrained(name: str = "photo") -> Any:
    """Return a trained model that comes with the package.

    Args:
        name: "photo", a codec for photographs in colour, of any size; its card is docs/model_card_photo.md.
            "mnist-standard", the study's compressor of 32 x 32 grey images, width 32, d = 10, L = 12, trained on MNIST.
            "mnist-min-max", trained from it by min-max over a Wasserstein ball at gamma = 1 (arXiv 2110.07007).

    Raises:
        InvalidArgument: there is none of this name.
        DataError: its file is damaged.

    Example:
        >>> model = rc.load_pretrained("photo")
        >>> data = model.compress(photographs, quality=0.5)  # (n, h, w, 3) in [0, 1]
    """
    check_choice("name", name, pretrained_names())
    return read(FOLDER / f"{name}.npz")


def write(model: Any, path: str | Path) -> None:
    """Write a model as `load_pretrained` reads it.

    Kernels are rounded to float16; of the settled integer networks they are exact.  Vectors stay float32.  The tables
    of a compressor belong to the rounded weights: call `round_weights`, then ``fit_entropy_model``, before.
    """
    path = Path(path)
    config = {"class": type(model).__name__, "config": model.get_config()}
    config["config"] = {key: value for key, value in config["config"].items() if key not in ("dtype", "trainable")}
    arrays: dict[str, Any] = {f"w{number:03d}": _small(variable) for number, variable in enumerate(model.weights)}
    arrays[CONFIG] = np.array(json.dumps(config))
    if model.entropy_model is not None:
        arrays |= {f"{TABLES}{name}": array for name, array in model.entropy_model.to_arrays().items()}
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def read(path: str | Path) -> Any:
    """Return the model in a file of `write`.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            config = json.loads(str(content[CONFIG]))
            model = keras.saving.get_registered_object(f"tf_robustcomp>{config['class']}").from_config(config["config"])
            if isinstance(model, CompressionModel):
                model(np.zeros((1, *model.image_shape), "float32"))
            for number, variable in enumerate(model.weights):
                variable.assign(content[f"w{number:03d}"].astype(keras.backend.standardize_dtype(variable.dtype)))
            tables = {name.removeprefix(TABLES): content[name] for name in content.files if name.startswith(TABLES)}
            if tables:
                model.entropy_model = EntropyModel.from_arrays(model.levels, **tables)
                model.entropy_weights = digest_of_weights(model)
    except (OSError, AttributeError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a trained model of this package ({str(error)[:120]})") from None
    return model


def round_weights(model: Any) -> None:
    """Give a model the weights that it has after `write` and `read`."""
    for variable in model.weights:
        variable.assign(_small(variable).astype(keras.backend.standardize_dtype(variable.dtype)))


def _small(variable):
    array = keras.ops.convert_to_numpy(variable.value)
    if np.issubdtype(array.dtype, np.integer):
        return array.astype(np.uint16) if array.size and array.min() >= 0 and array.max() < 2**16 else array
    return array.astype(np.float16) if array.ndim > 1 and array.size > 4096 else array.astype(np.float32)

"""The nearest of a stored list of codes."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from tf_robustcomp.compression.encoders.base import CodeSearch, Encoder
from tf_robustcomp.compression.fingerprint import fingerprint
from tf_robustcomp.compression.symbols import decode_all
from tf_robustcomp.utils import files
from tf_robustcomp.utils.errors import DataError, InvalidArgument
from tf_robustcomp.utils.registry import register

CODES = b"codes.npy"  # stands near the end of every file of a list
SCANNED = 200  # images against the whole list at once
FEW = 8  # nearest codes that are found one after another
MARGIN = 4  # codes that are compared once more in float64: the scan rounds to float32


def list_path(model_path: Path) -> Path:
    """Return the path of the list beside a model's file: ``model.keras`` has ``model.codes.npz``."""
    return model_path.with_suffix(".codes.npz")


@register("encoder", "list")
class ListEncoder(Encoder):
    """Takes the nearest of the network's code and of every code in a list.

    The list is scanned exactly, so the distortion of **every** image is at most its squared distance to the nearest
    decoded code of the list, whatever the network does: `certified_curve` builds on it.  The list belongs to the
    encoder alone.  The stream and its decoder do not know of it.

    Args:
        codes: int (m, d), symbols of the whole code.
        model_fingerprint: of the model that the list is for, 16 bytes; None accepts any model of that d and L.

    Raises:
        InvalidArgument: there are no codes, or they are not integers of that shape.

    Example:
        >>> encoder = rc.ListEncoder.fit(model, train_images)
        >>> data = model.compress(images, encoder=encoder)
    """

    def __init__(self, codes: Any, model_fingerprint: bytes | None = None) -> None:
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.size == 0:
            raise InvalidArgument(f"codes must have shape (m, d), with at least one code. Received: {codes.shape}")
        if codes.dtype.kind not in "iu":
            raise InvalidArgument(f"codes must be integers. Received: dtype {codes.dtype}")
        self.codes = np.ascontiguousarray(codes, np.int32)
        self.model_fingerprint = model_fingerprint
        self._decoded: tuple[Any, np.ndarray, np.ndarray] | None = (
            None  # of the last model and stage: key, images, norms
        )

    @classmethod
    def fit(cls, model: Any, images: Any, encoder: Encoder | None = None, progress: bool = False) -> Self:
        """Return the list of the distinct codes of training images.

        Args:
            model: compressor.
            images: (n, h, w, c) in [0, 1].
            encoder: that finds the codes; default: the network's.  Codes that a search found lie nearer to images.
            progress: whether to show a progress bar.
        """
        from tf_robustcomp.compression.encoders.network import NetworkEncoder

        symbols = (encoder or NetworkEncoder())(model, images, progress=progress)
        return cls(np.unique(symbols, axis=0), fingerprint(model))

    @classmethod
    def from_settings(cls, settings: Any, model: Any, path: Path) -> Self:
        """Return the list beside a model's file."""
        encoder = cls.load(list_path(path))
        encoder.check(model)
        return encoder

    def save(self, path: str | Path) -> None:
        """Write the codes, and the fingerprint of their model, as an .npz file."""
        kept = np.frombuffer(self.model_fingerprint or b"", np.uint8)
        small = np.uint8 if self.codes.max() < 256 else np.int32
        with files.replacing(path) as temporary:
            np.savez_compressed(temporary, codes=self.codes.astype(small), fingerprint=kept)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the list in a file of ``save``.

        Raises:
            DataError: the file is missing, or is no such list.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file; make a list with `codec fit-list`")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(arrays["codes"], arrays["fingerprint"].tobytes() or None)
        except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, InvalidArgument) as error:
            raise DataError(f"{path}: is no list of codes ({error})") from None

    @property
    def lists(self) -> tuple:
        """This list."""
        return (self,)

    def check(self, model: Any) -> None:
        """Raise InvalidArgument if the list is of another model."""
        if self.codes.shape[1] != model.latent_dim:
            raise InvalidArgument(
                f"the list has codes of {self.codes.shape[1]} symbols, the model's have {model.latent_dim}"
            )
        if self.codes.min() < 0 or self.codes.max() >= model.levels:
            raise InvalidArgument(
                f"the list has symbols from {self.codes.min()} to {self.codes.max()}, the model's lie in 0 to "
                f"{model.levels - 1}"
            )
        if self.model_fingerprint not in (None, fingerprint(model)):
            raise InvalidArgument("the list is of another model, or of this one before it was trained on: fit it again")

    def improve(self, search: CodeSearch, count: int = 1) -> None:
        """Offer the nearest codes of the list, as many as ``count`` for each image."""
        rows = search.rows(free=True)
        if len(rows):
            nearest, _ = self.nearest(search.model, search.images[rows], search.stage, count)
            for column in nearest.T:
                search.offer(rows, self.codes[column, : search.symbols.shape[1]], free=True)

    def nearest(self, model: Any, images: np.ndarray, stage: int | None = None, count: int = 1) -> tuple:
        """Return the nearest codes of images, nearest first.

        Args:
            model: compressor.
            images: (n, h, w, c).
            stage: of the code.
            count: int, codes for each image.

        Returns:
            ``(indices (n, count) into codes, squared distances (n, count))``
        """
        decoded, norms = self.decoded(model, stage)
        flat = images.reshape(len(images), -1).astype(np.float32)
        wanted = min(max(count, MARGIN), len(decoded))
        found, distances = [], []
        for first in range(0, len(flat), SCANNED):
            part = flat[first : first + SCANNED]
            scores = part @ decoded.T
            scores *= -2
            scores += norms
            near = _least(scores, wanted)
            exact = np.stack(
                [np.sum((decoded[ids] - x.astype(np.float64)) ** 2, axis=1) for ids, x in zip(near, part, strict=True)]
            )
            order = np.argsort(exact, axis=1, kind="stable")[:, : min(count, wanted)]
            found.append(np.take_along_axis(near, order, axis=1))
            distances.append(np.take_along_axis(exact, order, axis=1))
        return np.concatenate(found), np.concatenate(distances)

    def decoded(self, model: Any, stage: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the decoded codes as rows (m, h w c), float32, and their squared norms (m,); decoded once a model."""
        stage = model.check_stage(stage)
        key = (fingerprint(model), stage)
        if self._decoded is None or self._decoded[0] != key:
            images = decode_all(model, self.codes[:, : model.stage_width(stage)], stage)
            rows = images.reshape(len(images), -1)
            self._decoded = (key, rows, np.einsum("ij,ij->i", rows, rows))
        return self._decoded[1:]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"codes": self.codes, "model_fingerprint": self.model_fingerprint}

    def __repr__(self) -> str:
        digest = hashlib.sha256(self.codes.tobytes()).hexdigest()[:8]
        return f"ListEncoder({len(self.codes)} codes, {digest})"


def _least(scores, count):
    """Indices (n, count) of the least scores (n, m) of each row, which are destroyed."""
    if count > FEW:
        return np.argpartition(scores, count - 1, axis=1)[:, :count]
    found = np.empty((len(scores), count), np.intp)
    for column in range(count):  # much faster than a partition, which has no vector instructions
        found[:, column] = scores.argmin(axis=1)
        np.put_along_axis(scores, found[:, column, None], np.inf, axis=1)
    return found

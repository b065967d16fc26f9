"""Pictures of any size from and to files, and as tiles of a model's size."""

import dataclasses
from pathlib import Path

import numpy as np

from tf_robustcomp import files
from tf_robustcomp.datasets.images import NPZ_NAMES, is_source, load_images, read_npz
from tf_robustcomp.errors import DataError, InvalidArgument

SUFFIXES = (".npz", ".npy", ".png")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_CHANNELS = 64
BOMB = 2**28  # pixels of a PNG at most


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of one size from one source: bytes (n, height, width, channels)."""

    name: str
    pixels: np.ndarray


def read(source):
    """Pictures of a file or of a named data set (its test images).

    Args:
        source: path of a .png, of a .npy, or of a .npz (its ``x_test``, ``images`` or only array), of bytes or floats
            in [0, 1] (rounded to bytes), (n, h, w) or (n, h, w, c); or ``mnist`` or ``digits``.

    Raises:
        DataError: names the file and what is wrong.
    """
    source = str(source)
    if is_source(source) and not source.endswith(".npz"):
        return Pictures(f"{source}.npy", load_images(source).x_test)
    path = Path(source)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{source}: not one of {', '.join(SUFFIXES)}, mnist or digits")
    if not path.is_file():
        raise DataError(f"{source}: no such file")
    array = {".npz": _read_npz, ".npy": _read_npy, ".png": _read_png}[path.suffix.lower()](path)
    name = path.stem.lstrip(".") + (".png" if path.suffix.lower() == ".png" else ".npy")
    return Pictures(name, _bytes(source, array))


def write(folder, pictures):
    """Write what `read` read into a folder: a .png, or a .npy of bytes (n, h, w, c).  Returns the path."""
    path = Path(folder) / Path(pictures.name).name
    with files.replacing(path) as temporary:
        if path.suffix == ".png":
            from PIL import Image

            pixels = pictures.pixels[0]
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(temporary, "png")
        else:
            with open(temporary, "wb") as file:
                np.save(file, pictures.pixels)
    return path


def to_tiles(pixels, image_shape):
    """Cut pictures into tiles of the model's size, their edges padded by reflection.

    Args:
        pixels: (n, height, width, channels).
        image_shape: the model's (h, w, c).  With c = 1 the channels are cut one by one.

    Returns:
        array (m, h, w, c), picture by picture, channel by channel, row by row.

    Raises:
        InvalidArgument: the model has several channels, and the pictures another number of them.
    """
    count, height, width, channels = pixels.shape
    h, w, c = image_shape
    if c not in (1, channels):
        raise InvalidArgument(f"the model codes {c} channels, the pictures have {channels}; use a grey model")
    rows, columns = grid((height, width), image_shape)
    padding = ((0, 0), (0, rows * h - height), (0, columns * w - width), (0, 0))
    planes = np.pad(pixels, padding, mode="reflect")
    if c != channels:
        planes = np.moveaxis(planes, 3, 1).reshape(count * channels, rows * h, columns * w, 1)
    tiles = planes.reshape(-1, rows, h, columns, w, c).swapaxes(2, 3)
    return np.ascontiguousarray(tiles).reshape(-1, h, w, c)


def from_tiles(tiles, shape):
    """Inverse of ``to_tiles``: tiles (m, h, w, c) -> pictures of ``shape`` (n, height, width, channels)."""
    count, height, width, channels = shape
    _, h, w, c = tiles.shape
    rows, columns = grid((height, width), (h, w, c))
    planes = tiles.reshape(-1, rows, columns, h, w, c).swapaxes(2, 3).reshape(-1, rows * h, columns * w, c)
    if c != channels:
        planes = np.moveaxis(planes.reshape(count, channels, rows * h, columns * w), 1, 3)
    return np.ascontiguousarray(planes[:, :height, :width])


def number_of_tiles(shape, image_shape):
    """How many tiles pictures of ``shape`` (n, height, width, channels) make."""
    rows, columns = grid(shape[1:3], image_shape)
    return shape[0] * rows * columns * (1 if image_shape[2] == shape[3] else shape[3])


def grid(size, image_shape):
    """Rows and columns of tiles that cover a picture of ``size`` (height, width)."""
    return -(-size[0] // image_shape[0]), -(-size[1] // image_shape[1])


def _read_npz(path):
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = [Path(name).stem for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        raise DataError(f"{path}: not a .npz file that can be read") from None
    wanted = [name for name in ("x_test", "images") if name in names] or names
    if len(wanted) > 1 and wanted[0] not in ("x_test", "images"):
        raise DataError(f"{path}: holds {', '.join(names[:6])}; name one of them images (or {NPZ_NAMES[2]})")
    if not wanted:
        raise DataError(f"{path}: holds no array")
    return read_npz(path, wanted[:1])[0]


def _read_npy(path):
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, a size that the file does not have is refused
    except Exception as error:  # damage surfaces in several layers
        raise DataError(f"{path}: not a .npy file that can be read ({str(error)[:120]})") from None


def _read_png(path):
    from PIL import Image

    try:
        with Image.open(path, formats=["png"]) as picture:
            if picture.width * picture.height > BOMB:
                raise DataError(f"{path}: {picture.width} x {picture.height} pixels are more than {BOMB}")
            array = _eight_bits(picture)
    except DataError:
        raise
    except Exception as error:  # Pillow has many
        raise DataError(f"{path}: not a PNG that can be read ({str(error)[:120]})") from None
    return array[None, ..., None] if array.ndim == 2 else array[None]


def _eight_bits(picture):
    """Pixels of a picture of any mode: grey, RGB, or RGBA where it has transparency."""
    if picture.mode.startswith("I"):  # 16 bits a pixel
        return (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
    if picture.mode in MODES.values():
        return np.asarray(picture)
    if picture.mode in ("LA", "PA") or "transparency" in picture.info:
        return np.asarray(picture.convert("RGBA"))
    return np.asarray(picture.convert("L" if picture.mode == "1" else "RGB"))


def _bytes(source, array):
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not array.size or array.shape[3] > MAX_CHANNELS:
        raise DataError(f"{source}: must hold images (n, h, w) or (n, h, w, c). Found: shape {array.shape}")
    if array.dtype == np.uint8:
        return np.asarray(array)
    array = np.asarray(array)
    if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
        raise DataError(f"{source}: must hold bytes, or floats in [0, 1]. Found: {array.dtype}")
    return np.round(array * 255).astype(np.uint8)

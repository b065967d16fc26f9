"""Pictures of any size from and to files, and as tiles of a model's size."""

import collections
import dataclasses
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_robustcomp.data.images import NPZ_NAMES, SOURCES, as_bytes, load_images, read_npz
from tf_robustcomp.utils import files
from tf_robustcomp.utils.drawing import MARK
from tf_robustcomp.utils.errors import DataError, InvalidArgument

FORMATS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
}
SUFFIXES = (*FORMATS, ".npz", ".npy")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
MAX_CHANNELS = 64


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures of one size from one source.

    Attributes:
        name: of the file that they are decoded to; folders in it are separated by ``/``.
        pixels: bytes (n, height, width, channels).
        lost: what the source has beside its pixels and they have not, such as "its colour profile".
    """

    name: str
    pixels: np.ndarray
    lost: tuple[str, ...] = ()


def find(sources: Sequence[str | Path]) -> dict[str, str]:
    """Return the sources by the names that their pictures are decoded to; folders are searched for pictures.

    A name is that of the file, with .png or .npy for what it is decoded to.  Where two files would have one name, they
    keep the folders that tell them apart, then their own suffixes.

    Args:
        sources: paths of files and folders, or ``mnist`` or ``digits``.

    Raises:
        DataError: a source is missing, of no known kind, or a folder without pictures.
        InvalidArgument: a file is given twice.
    """
    found: list[tuple[str, Path]] = []  # with the path that gives the name
    for source in map(str, sources):
        path = Path(source)
        if source in SOURCES:
            found.append((source, Path(f"{source}.npy")))
        elif path.is_dir():
            inside = [p.relative_to(path) for p in sorted(path.rglob("*")) if p.is_file()]
            shown = [p for p in inside if p.suffix.lower() in SUFFIXES and not any(s.startswith(".") for s in p.parts)]
            if not shown:
                raise DataError(f"{source}: a folder without pictures ({', '.join(SUFFIXES)})")
            found += [(str(path / p), p) for p in shown]
        elif path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{source}: not a folder, mnist, digits, or one of {', '.join(SUFFIXES)}")
        elif not path.is_file():
            raise DataError(f"{source}: no such file")
        else:
            found.append((source, Path(path.name)))
    names = [_decoded_name(path) for _, path in found]
    above = os.path.commonpath([Path(source).absolute().parent for source, _ in found])
    for own_suffix in (False, True):
        counts = collections.Counter(names)
        names = [
            name if counts[name] == 1 else _decoded_name(Path(os.path.relpath(source, above)), own_suffix)
            for name, (source, _) in zip(names, found, strict=True)
        ]
    if len(set(names)) < len(names):
        raise InvalidArgument(f"INPUTs must be different files. Received: {', '.join(source for source, _ in found)}")
    return {name: source for name, (source, _) in zip(names, found, strict=True)}


def _decoded_name(path, own_suffix=False):
    suffix = ".png" if path.suffix.lower() in FORMATS else ".npy"
    kept = path.suffix if own_suffix and path.suffix.lower() != suffix else ""
    return "/".join([*path.parts[:-1], f"{path.stem.lstrip('.') or 'picture'}{kept}{suffix}"])


def read(source: str | Path, name: str | None = None) -> Pictures:
    """Read pictures of a file or of a named data set (its test images).

    Orientation in EXIF is applied, colours of another profile are brought to sRGB.

    Args:
        source: path of a picture (.png, .jpg, .webp, .tif, .bmp), of a .npy, or of a .npz (its ``x_test``, ``images``
            or only array), of integers 0 to 255 or floats in [0, 1]: (n, h, w), (n, h, w, c), or one picture (h, w, 3)
            or (h, w, 4); or ``mnist`` or ``digits``.
        name: that the pictures get; default: as of `find`.

    Raises:
        DataError: names the file and what is wrong.
    """
    ((found, source),) = find([source]).items()
    if source in SOURCES:
        return Pictures(name or found, load_images(source).x_test)
    path, lost = Path(source), ()
    if path.suffix.lower() in FORMATS:
        array, lost = _read_picture(path)
    else:
        array = (_read_npz if path.suffix.lower() == ".npz" else read_npy)(path)
    return Pictures(name or found, _bytes(source, array), tuple(lost))


def target(folder: str | Path, name: str) -> Path:
    """Return the path of a picture's file in a folder.

    Raises:
        DataError: a symbolic link in the folder leads out of it.
    """
    path = Path(folder, *name.split("/"))
    if not path.parent.resolve().is_relative_to(Path(folder).resolve()) or path.is_symlink():
        raise DataError(f"{path}: a symbolic link leads out of the folder; delete it")
    return path


def write(folder: str | Path, pictures: Pictures) -> Path:
    """Write pictures into a folder, as .png or as .npy of bytes (n, h, w, c); return the path."""
    path = target(folder, pictures.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        if path.suffix == ".png":
            from PIL import Image, PngImagePlugin

            pixels, info = pictures.pixels[0], PngImagePlugin.PngInfo()
            info.add_text("Software", MARK.decode())
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(temporary, "png", pnginfo=info)
        else:
            with open(temporary, "wb") as file:
                np.save(file, pictures.pixels)
    return path


def to_tiles(pixels: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """Cut pictures into tiles of the model's size, their edges padded by reflection.

    Args:
        pixels: (n, height, width, channels).
        image_shape: the model's (h, w, c).  Channels are taken c at a time; those that are left are coded one by one, a
            channel repeated c times.

    Returns:
        array (m, h, w, c), picture by picture, group of channels by group, row by row.
    """
    height, width = pixels.shape[1:3]
    h, w, c = image_shape
    rows, columns = grid((height, width), image_shape)
    padding = ((0, 0), (0, rows * h - height), (0, columns * w - width), (0, 0))
    padded = np.pad(pixels, padding, mode="reflect")
    groups = np.stack([padded[..., group] for group in _groups(pixels.shape[3], c)], axis=1)
    tiles = groups.reshape(-1, rows, h, columns, w, c).swapaxes(2, 3)
    return np.ascontiguousarray(tiles).reshape(-1, h, w, c)


def from_tiles(tiles: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Join the tiles (m, h, w, c) of ``to_tiles`` to pictures of ``shape`` (n, height, width, channels)."""
    count, height, width, channels = shape
    _, h, w, c = tiles.shape
    rows, columns = grid((height, width), (h, w, c))
    groups = _groups(channels, c)
    joined = tiles.reshape(-1, rows, columns, h, w, c).swapaxes(2, 3)
    planes = joined.reshape(count, len(groups), rows * h, columns * w, c)
    pixels = np.empty((count, height, width, channels), tiles.dtype)
    for number, group in enumerate(groups):
        plane = planes[:, number, :height, :width]
        # The mean of equal channels: its squared error is at most theirs.
        pixels[..., group] = plane if len(set(group)) == c else np.round(plane.mean(axis=-1, keepdims=True))
    return pixels


def number_of_tiles(shape: Sequence[int], image_shape: Sequence[int]) -> int:
    """Return the number of tiles of pictures of ``shape`` (n, height, width, channels)."""
    rows, columns = grid(shape[1:3], image_shape)
    return shape[0] * rows * columns * len(_groups(shape[3], image_shape[2]))


def _groups(channels, c):
    """Indices of the channels that make the c channels of a tile."""
    whole = [list(range(first, first + c)) for first in range(0, channels - c + 1, c)]
    return whole + [[channel] * c for channel in range(c * len(whole), channels)]


def grid(size: Sequence[int], image_shape: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of tiles that cover a picture of ``size`` (height, width)."""
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


def read_npy(path: str | Path) -> np.ndarray:
    """Return the array of a .npy file, on disk until it is used.

    Raises:
        DataError: the file is missing or damaged.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    try:
        return np.lib.format.open_memmap(path, mode="r")  # a size that the file does not have is refused
    except Exception as error:  # damage surfaces in several layers
        raise DataError(f"{path}: not a .npy file that can be read ({str(error)[:120]})") from None


def _read_picture(path):
    """Pixels of a picture, and what they do not keep; its header is looked at before anything is decoded."""
    from PIL import Image, ImageOps

    kind = FORMATS[path.suffix.lower()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large pictures, and of metadata that is not used
            picture = Image.open(path, formats=[kind])
        with picture:
            check_size(path, picture.width, picture.height)
            lost = ["all but the first picture"] if getattr(picture, "n_frames", 1) > 1 else []
            if picture.mode.startswith("I") or _is_deep(path):
                lost.append("more than 8 bits a channel")
            upright = ImageOps.exif_transpose(picture)
            coloured, known = _in_srgb(upright, picture.info.get("icc_profile"))
            lost += [] if known else ["its colour profile"]
            array = _eight_bits(coloured)
    except DataError:
        raise
    except Exception as error:  # Pillow has many
        raise DataError(f"{path}: not a picture ({kind}) that can be read ({str(error)[:120]})") from None
    return (array[None, ..., None] if array.ndim == 2 else array[None]), lost


def _is_deep(path):
    """Return whether a PNG holds 16 bits a channel; Pillow does not say so for colour pictures."""
    with open(path, "rb") as file:
        header = file.read(25)
    return header.startswith(b"\x89PNG") and header[24:] == b"\x10"


def check_size(name: Any, width: int, height: int) -> None:
    """Refuse a picture whose header states more pixels than Pillow takes for honest.

    Raises:
        DataError: names it and its size.
    """
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS or 0
    if width * height > most:
        raise DataError(f"{name}: {width} x {height} pixels are more than {most}")


def _in_srgb(picture, profile):
    """The picture in sRGB, and whether that could be done."""
    from PIL import ImageCms

    if not profile:
        return picture, True
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(own):
            return picture, True
        if picture.mode not in ("RGB", "RGBA"):
            return picture, False
        return ImageCms.profileToProfile(picture, own, ImageCms.createProfile("sRGB"), outputMode=picture.mode), True
    except (ImageCms.PyCMSError, OSError):
        return picture, False


def _eight_bits(picture):
    """Pixels of a picture of any mode: grey, RGB, or RGBA where it has transparency."""
    if picture.mode.startswith("I"):  # 16 bits a pixel
        return (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
    if picture.mode in MODES.values():
        return np.asarray(picture)
    if picture.mode in ("LA", "PA") or "transparency" in picture.info:
        return np.asarray(picture.convert("RGBA"))
    if picture.mode == "F":
        raise DataError("floats a pixel; save it as .npy in [0, 1]")
    return np.asarray(picture.convert("L" if picture.mode == "1" else "RGB"))


def _bytes(source, array):
    if array.ndim == 3:  # one picture in colour, or grey ones
        array = array[None] if array.shape[2] in (3, 4) else array[..., None]
    if array.ndim == 4 and array.shape[3] > MAX_CHANNELS:
        raise DataError(f"{source}: must have {MAX_CHANNELS} channels at most. Found: shape {array.shape}")
    return np.asarray(as_bytes(source, array))

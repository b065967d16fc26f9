"""Tiles of images, each of which may be replaced by one of its own."""

from collections.abc import Sequence

import numpy as np

from tf_robustcomp.compression.tiles import padded


def grid(size: Sequence[int], side: int) -> tuple[int, int]:
    """Return rows and columns of the tiles that cover images of a size (h, w, ...)."""
    return -(-size[0] // side), -(-size[1] // side)


def cut(image: np.ndarray, side: int) -> np.ndarray:
    """Return the tiles (k, side, side, c) of an image (1, h, w, c), row by row, continued by reflection at its end."""
    rows, columns = grid(image.shape[1:3], side)
    whole = np.asarray(padded(image, side)).reshape(rows, side, columns, side, image.shape[3])
    return np.ascontiguousarray(whole.swapaxes(1, 2)).reshape(rows * columns, side, side, image.shape[3])


def errors(image: np.ndarray, decoded: np.ndarray, side: int) -> np.ndarray:
    """Return the sum of squared errors of each tile: images (n, h, w, c) twice -> (n, rows, columns)."""
    squares = np.sum((image.astype(np.float64) - decoded) ** 2, axis=3)
    for axis in (1, 2):
        squares = np.add.reduceat(squares, np.arange(0, squares.shape[axis], side), axis)
    return squares


def paste(images: np.ndarray, tiles: np.ndarray, replaced: np.ndarray) -> None:
    """Write tiles (k, side, side, c) over those of images (n, h, w, c) that are replaced, a bool of each tile."""
    side = tiles.shape[1]
    rows, columns = grid(images.shape[1:3], side)
    for tile, place in zip(tiles, np.flatnonzero(replaced), strict=True):
        number, row, column = np.unravel_index(place, (len(images), rows, columns))
        target = images[number, row * side : (row + 1) * side, column * side : (column + 1) * side]
        target[...] = tile[: target.shape[0], : target.shape[1]]

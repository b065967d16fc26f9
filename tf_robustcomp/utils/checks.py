"""Checks of numbers and images, made once, at the door."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_robustcomp.utils.errors import InvalidArgument


def check_images(images: Any, image_shape: Sequence[int] | None = None, name: str = "images") -> np.ndarray:
    """Return images as float32, if they keep the rules.

    Args:
        images: array-like (n, h, w, c), or a tensor of any library.
        image_shape: the (h, w, c) that they must have; None accepts any.
        name: what the error calls them.

    Returns:
        numpy array (n, h, w, c), float32.

    Raises:
        InvalidArgument: not of that shape, no images, not numbers, NaN or infinite, or outside [0, 1].
    """
    images = np.asarray(images)
    expected = "(n, h, w, c)" if image_shape is None else f"(n, {', '.join(map(str, image_shape))})"
    if images.ndim != 4 or (image_shape is not None and images.shape[1:] != tuple(image_shape)):
        raise InvalidArgument(f"{name} must have shape {expected}. Received: shape {images.shape}")
    if images.size == 0:
        raise InvalidArgument(f"{name} must hold at least one image. Received: shape {images.shape}")
    if images.dtype.kind not in "fiub":
        raise InvalidArgument(f"{name} must be real numbers. Received: dtype {images.dtype}")
    images = images.astype(np.float32, copy=False)
    if not np.isfinite(images).all():
        raise InvalidArgument(f"{name} must be finite. Received: {np.sum(~np.isfinite(images))} values NaN or infinite")
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        raise InvalidArgument(f"{name} must lie in [0, 1]. Received: values from {low:g} to {high:g}")
    return images


def is_array(images: Any) -> bool:
    """Return whether images are all in memory: an array or a tensor of any library, not a dataset or a generator."""
    return all(hasattr(images, name) for name in ("__array__", "shape", "dtype"))


def printable(text: str) -> str:
    """Return a text from anywhere with escapes for what is no printable character: it cannot move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def check_at_least(name: str, value: Any, least: int) -> int:
    """Return ``value`` as an int, if it is one and not below ``least``; else raise InvalidArgument."""
    if isinstance(value, bool) or int(value) != value or value < least:
        raise InvalidArgument(f"{name} must be an integer >= {least}. Received: {name}={value}")
    return int(value)


def check_positive(name: str, value: Any) -> float:
    """Return ``value`` as a float, if it is finite and above 0; else raise InvalidArgument."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise InvalidArgument(f"{name} must be > 0. Received: {name}={value}")
    return number


def check_number(name: str, word: str, kind: type, low: float, high: float = float("inf")) -> Any:
    """Return a word of a command line as a number in [low, high]; else raise InvalidArgument."""
    try:
        number = kind(word)
    except ValueError:
        number = None
    if number is None or not low <= number <= high:
        bounds = f">= {low}" if high == float("inf") else f"in [{low}, {high}]"
        raise InvalidArgument(f"{name} must be a number {bounds}. Received: {word}")
    return number


def check_rising_or_falling(name: str, values: Sequence[float]) -> list[float]:
    """Return positive numbers in falling order; raise InvalidArgument unless they are sorted, each once."""
    shown = ",".join(map(str, values)) or "none"
    if not values or not all(0 < value < float("inf") for value in values):
        raise InvalidArgument(f"{name} must be numbers > 0. Received: {shown}")
    falling = sorted(set(values), reverse=True)
    if len(falling) < len(values) or list(values) not in (falling, falling[::-1]):
        raise InvalidArgument(f"{name} must be sorted, each once. Received: {shown}")
    return falling


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return ``value``, if it is one of ``choices``; else raise InvalidArgument."""
    if value not in choices:
        raise InvalidArgument(f"{name} must be {' or '.join(map(repr, choices))}. Received: {name}={value!r}")
    return value

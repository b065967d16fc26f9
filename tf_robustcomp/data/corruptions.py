"""Common corruptions of images at five severities (Hendrycks and Dietterich 2019, arXiv 1903.12261).

Parameters are those of CIFAR-10-C, for images of about 32 x 32.  Frost is missing: it needs photographs of frost.
Snow and fog are drawn from noise of the same kinds, so single images differ from those of the published set.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image
from scipy import ndimage

from tf_robustcomp.utils.checks import check_at_least, check_choice
from tf_robustcomp.utils.errors import InvalidArgument

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
_corruptions: dict[str, Corruption] = {}


def corrupted(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Return corrupted images.

    Args:
        images: (n, h, w, c) in [0, 1].
        name: a key of `corruptions`.
        severity: 1 to 5.
        seed: int >= 0; an image's noise depends on it, on the name and the severity, and on the image's place.

    Returns:
        float32 (n, h, w, c) in [0, 1].
    """
    check_choice("corruption", name, tuple(_corruptions))
    if check_at_least("severity", severity, 1) > len(SEVERITIES):
        raise InvalidArgument(f"severity must be 1 to {len(SEVERITIES)}. Received: severity={severity}")
    key = (check_at_least("seed", seed, 0), list(_corruptions).index(name), severity)
    changed = [
        _corruptions[name](image.astype(np.float64), severity - 1, np.random.default_rng((*key, place)))
        for place, image in enumerate(images)
    ]
    return np.clip(np.stack(changed), 0, 1).astype(np.float32)


def corruptions() -> Mapping[str, Corruption]:
    """Return the functions by name, each of an image (h, w, c), a severity from 0 and a generator."""
    return dict(_corruptions)


def _corruption(function):
    _corruptions[function.__name__] = function
    return function


@_corruption
def gaussian_noise(image, severity, rng):
    """Normal noise, as of low light."""
    return image + rng.normal(scale=(0.04, 0.06, 0.08, 0.09, 0.10)[severity], size=image.shape)


@_corruption
def shot_noise(image, severity, rng):
    """Poisson noise of few photons."""
    photons = (500, 250, 100, 75, 50)[severity]
    return rng.poisson(image * photons) / photons


@_corruption
def impulse_noise(image, severity, rng):
    """Black and white pixels."""
    drawn = rng.random(image.shape)
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity]
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 1, image))


@_corruption
def defocus_blur(image, severity, rng):
    """Blur by a disk."""
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity]
    places = np.arange(-3, 4)
    disk = (places[:, None] ** 2 + places**2 <= radius**2).astype(float)
    return _filtered(image, ndimage.gaussian_filter(disk / disk.sum(), softness, truncate=1.5 / softness))


@_corruption
def glass_blur(image, severity, rng):
    """Neighbouring pixels change places, between two slight blurs."""
    blur, rounds = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity]
    image = ndimage.gaussian_filter(image, (blur, blur, 0))
    height, width = image.shape[:2]
    for _ in range(rounds):
        for row in range(height - 2, 0, -1):
            for column in range(width - 2, 0, -1):
                there = (row + rng.integers(-1, 2), column + rng.integers(-1, 2))
                image[row, column], image[there] = image[there].copy(), image[row, column].copy()
    return ndimage.gaussian_filter(image, (blur, blur, 0))


@_corruption
def motion_blur(image, severity, rng):
    """Blur along a line of random direction, weighted to one end."""
    radius, deviation = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity]
    return _moved(image, radius, deviation, rng.uniform(-45, 45))


@_corruption
def zoom_blur(image, severity, rng):
    """The mean of the image and of its enlargements."""
    zooms = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity], 0.01)
    return (image + sum(_enlarged(image, zoom) for zoom in zooms)) / (len(zooms) + 1)


@_corruption
def snow(image, severity, rng):
    """Falling flakes, and a whiter picture."""
    mean, deviation, size, threshold, length, spread, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity]
    flakes = _enlarged(rng.normal(mean, deviation, (*image.shape[:2], 1)), size)
    flakes = np.clip(_moved(np.where(flakes < threshold, 0, flakes), length, spread, rng.uniform(-135, -45)), 0, 1)
    grey = image.mean(axis=2, keepdims=True) * 1.5 + 0.5
    return kept * image + (1 - kept) * np.maximum(image, grey) + flakes + np.rot90(flakes, 2)


@_corruption
def fog(image, severity, rng):
    """Haze of noise whose amplitude falls with its frequency."""
    strength, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity]
    height, width = image.shape[:2]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width) * width)
    spectrum = np.fft.fft2(rng.normal(size=(height, width))) / np.maximum(frequency, 1) ** (decay - 0.5)
    haze = np.fft.ifft2(spectrum).real
    haze = (haze - haze.min()) / (np.ptp(haze) + 1e-12)
    greatest = image.max()
    return (image + strength * haze[:, :, None]) * greatest / (greatest + strength)


@_corruption
def brightness(image, severity, rng):
    """A brighter picture."""
    return image + (0.05, 0.1, 0.15, 0.2, 0.3)[severity]


@_corruption
def contrast(image, severity, rng):
    """Less contrast about the picture's mean."""
    mean = image.mean(axis=(0, 1))
    return mean + (0.75, 0.5, 0.4, 0.3, 0.15)[severity] * (image - mean)


@_corruption
def elastic_transform(image, severity, rng):
    """A smooth random displacement after a slight affine one."""
    distance, smoothness, affine = (
        (0, 1, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity]
    shape = np.array(image.shape[:2])
    size = shape.min()
    matrix = np.eye(2) + affine * rng.uniform(-1, 1, (2, 2))
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    noise = rng.uniform(-1, 1, (2, *shape))
    moves = distance * size * ndimage.gaussian_filter(noise, (0, *2 * (smoothness * size,)), truncate=3)
    centre = (shape - 1)[:, None, None] / 2
    sources = np.einsum("ij,jhw->ihw", matrix, places - centre) + centre + moves
    return _by_channel(image, lambda channel: ndimage.map_coordinates(channel, sources, order=1, mode="reflect"))


@_corruption
def pixelate(image, severity, rng):
    """A smaller picture, enlarged again."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity]
    height, width = image.shape[:2]
    small = (max(int(width * share), 1), max(int(height * share), 1))

    def there_and_back(channel):
        picture = Image.fromarray(channel.astype(np.float32)).resize(small, Image.Resampling.BOX)
        return np.asarray(picture.resize((width, height), Image.Resampling.BOX))

    return _by_channel(image, there_and_back)


@_corruption
def jpeg_compression(image, severity, rng):
    """JPEG of low quality; channels go one by one unless there are three."""
    quality = (80, 65, 58, 50, 40)[severity]

    def coded(pixels):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "jpeg", quality=quality)
        return np.asarray(Image.open(file))

    pixels = np.round(image * 255).astype(np.uint8)
    if pixels.shape[2] == 3:
        return coded(pixels) / 255
    return _by_channel(pixels, coded) / 255


def _filtered(image, kernel):
    return ndimage.convolve(image, (kernel / kernel.sum())[:, :, None], mode="reflect")


def _moved(image, radius, deviation, angle):
    """Blur along a line of ``radius`` pixels on one side, by a normal weight of that deviation."""
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    for place in np.linspace(0, radius, 4 * radius + 1):
        row, column = radius - place * np.sin(np.radians(angle)), radius + place * np.cos(np.radians(angle))
        kernel[round(row), round(column)] += np.exp(-((place / deviation) ** 2) / 2)
    return _filtered(image, kernel)


def _enlarged(image, zoom):
    """The middle of an image, enlarged to its size."""
    centre = (np.array(image.shape[:2]) - 1) / 2
    matrix = np.eye(2) / zoom
    offset = centre - matrix @ centre
    return _by_channel(
        image, lambda channel: ndimage.affine_transform(channel, matrix, offset, order=1, mode="nearest")
    )


def _by_channel(image, function):
    return np.stack([function(channel) for channel in np.moveaxis(image, 2, 0)], axis=2)

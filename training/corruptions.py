"""The world changing on purpose: CIFAR-10-C's corruptions and the article's noise masks, from a seed.

The definitions and severity constants are those of D. Hendrycks and T. Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations", ICLR 2019, in the CIFAR-10 version of the authors' published
script (`make_cifar_c.py`); those that need outside pictures or fractals (frost, snow, fog, ...) are left out. As there,
results in fractions of 255 are cut, not rounded, to integers.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Images = NDArray[np.uint8]
Pixel = TypeVar("Pixel", np.uint8, np.float32)
Corruption = Callable[[Images, int, np.random.Generator], Images]

SIDE = 32
SEVERITIES = (1, 2, 3, 4, 5)


def gaussian_noise(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """Noise of a normal distribution added to each value. Source: section 3 and script, `gaussian_noise`."""
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return _to_uint8(_to_unit(images) + deviation * rng.standard_normal(images.shape, dtype=np.float32))


def shot_noise(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """Poisson noise, as of few photons: `photons` of them make a value of 1. Source: script, `shot_noise`."""
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return _to_uint8(rng.poisson(_to_unit(images) * photons).astype(np.float32) / photons)


def impulse_noise(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """Salt and pepper: a share of all values becomes 0 or 255, half of it each. Source: script, `impulse_noise`."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    draw = rng.random(images.shape, dtype=np.float32)
    corrupted = images.copy()
    corrupted[draw < share / 2] = 0
    corrupted[draw >= 1 - share / 2] = 255
    return corrupted


def speckle_noise(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """Noise of a normal distribution in proportion to each value. Source: script, `speckle_noise`."""
    deviation = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    unit = _to_unit(images)
    return _to_uint8(unit + unit * deviation * rng.standard_normal(images.shape, dtype=np.float32))


def gaussian_blur(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """Convolution with a normal distribution over four deviations. Source: script, `gaussian_blur`."""
    deviation = (0.4, 0.6, 0.7, 0.8, 1)[severity - 1]
    return _to_uint8(gaussian_filter(_to_unit(images), (0, deviation, deviation, 0), mode="nearest"))


def defocus_blur(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """Convolution with a disk whose edge is softened. Source: script, `defocus_blur` and `disk`."""
    radius, edge = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    y, x = np.mgrid[-2:3, -2:3]
    disk = (x**2 + y**2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disk / disk.sum(), ksize=(3, 3), sigmaX=edge, borderType=cv2.BORDER_CONSTANT)
    return _to_uint8(_each(_to_unit(images), lambda image: cv2.filter2D(image, -1, kernel)))


def motion_blur(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """A smear along a line, its angle uniform in -45..45 degrees for each image. Source: script, `motion_blur`.

    The script calls ImageMagick's operator; `_smear` is that operator's kernel.
    """
    radius, deviation = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    angles = np.radians(rng.uniform(-45, 45, len(images)))
    corrupted = np.empty_like(images)
    for i, angle in enumerate(angles):
        kernel = _smear(radius, deviation, angle)
        corrupted[i] = cv2.filter2D(images[i], -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return corrupted


def brightness(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """More of the value channel of HSV. Source: script, `brightness`."""
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    return _in_hsv(images, channel=2, factor=1, added=added)


def saturate(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """Less colour at severities 1 and 2, more of it at 3 to 5. Source: script, `saturate`."""
    factor, added = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    return _in_hsv(images, channel=1, factor=factor, added=added)


def contrast(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """Values drawn towards the mean of their channel of their image. Source: script, `contrast`."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    unit = _to_unit(images)
    means = unit.mean(axis=(1, 2), keepdims=True)
    return _to_uint8((unit - means) * factor + means)


def pixelate(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """Shrunk and enlarged again with a box filter. Source: script, `pixelate`."""
    small = int(SIDE * (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1])

    def through_small(image: Images) -> Images:
        shrunk = Image.fromarray(image).resize((small, small), Image.Resampling.BOX)
        return np.asarray(shrunk.resize((SIDE, SIDE), Image.Resampling.BOX))

    return _each(images, through_small)


def jpeg_compression(images: Images, severity: int, rng: np.random.Generator) -> Images:
    """Through JPEG of low quality. Source: script, `jpeg_compression`."""
    quality = (80, 65, 58, 50, 40)[severity - 1]

    def through_jpeg(image: Images) -> Images:
        with BytesIO() as stream:
            Image.fromarray(image).save(stream, "JPEG", quality=quality)
            return np.asarray(Image.open(stream))

    return _each(images, through_jpeg)


_CORRUPTIONS: dict[str, Corruption] = {
    function.__name__: function
    for function in (
        gaussian_noise,
        shot_noise,
        impulse_noise,
        speckle_noise,
        gaussian_blur,
        defocus_blur,
        motion_blur,
        brightness,
        saturate,
        contrast,
        pixelate,
        jpeg_compression,
    )
}
CORRUPTIONS: tuple[str, ...] = tuple(_CORRUPTIONS)
"""Names that `corrupt` knows."""


def corrupt(images: Images, name: str, severity: int, seed: int) -> Images:
    """Corrupted copies of images.

    Args:
        images: (n, 32, 32, 3) uint8.
        name: one of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (strong).
        seed: the same seed gives the same result, and the first images' result does not depend on those after.

    Returns:
        (n, 32, 32, 3) uint8.

    Raises:
        ValueError: another name or severity, or images of another shape or type.
    """
    if name not in _CORRUPTIONS:
        raise ValueError(f"no corruption is named {name!r}; choose one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity!r} is not one of {', '.join(map(str, SEVERITIES))}")
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"images must be (n, 32, 32, 3) uint8; got {images.shape} {images.dtype}")
    return _CORRUPTIONS[name](np.ascontiguousarray(images), severity, np.random.default_rng(seed))


def mask_noise(images: NDArray[np.generic], size: int, seed: int) -> NDArray[np.float32]:
    """Images with standard normal noise added on one square, the article's outliers.

    The square's place and noise are drawn once: the same for every image and channel. It does not touch the last row
    and column. Draws and meaning are those of `alibi_detect.utils.perturbation.apply_mask(mask_type="normal",
    noise_distr=(0, 1), clip_rng=(0, 1), n_masks=1)` after `numpy.random.seed(seed)`.

    Args:
        images: (n, 32, 32, 3), uint8, or floating point in 0..1.
        size: side of the square, 1 to 31 pixels.
        seed: gives the place and the noise.

    Returns:
        (n, 32, 32, 3) float32 in 0..1.

    Raises:
        ValueError: the size is not in 1..31.
    """
    if not 1 <= size < SIDE:
        raise ValueError(f"mask size {size!r} is not one of 1 to {SIDE - 1} pixels")
    rng = np.random.RandomState(seed)
    noise = rng.normal(size=(size, size)).astype(np.float32)
    top, left = int(rng.randint(0, SIDE - size, 1)[0]), int(rng.randint(0, SIDE - size, 1)[0])
    masked = _to_unit(images) if images.dtype == np.uint8 else images.astype(np.float32)
    masked[:, top : top + size, left : left + size] += noise[:, :, np.newaxis]
    return np.clip(masked, 0, 1)


def _to_unit(images: NDArray[np.generic]) -> NDArray[np.float32]:
    return images.astype(np.float32) / np.float32(255)


def _to_uint8(unit: NDArray[np.float32]) -> Images:
    # The added hundredth keeps values that are whole in exact arithmetic from falling to the integer below.
    return (np.clip(unit, 0, 1) * np.float32(255) + np.float32(0.01)).astype(np.uint8)


def _each(images: NDArray[Pixel], change: Callable[[NDArray[Pixel]], Any]) -> NDArray[Pixel]:
    changed = np.empty_like(images)
    for i, image in enumerate(images):
        changed[i] = change(image)
    return changed


def _in_hsv(images: Images, channel: int, factor: float, added: float) -> Images:
    """One channel of HSV, times `factor`, plus `added`, kept in 0..1. All images are converted as one tall image."""
    if not len(images):
        return images.copy()
    tall = _to_unit(images).reshape(-1, SIDE, 3)
    hsv = cv2.cvtColor(tall, cv2.COLOR_RGB2HSV)
    hsv[..., channel] = np.clip(hsv[..., channel] * factor + added, 0, 1)
    corrupted: Any = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return _to_uint8(corrupted.reshape(images.shape))


def _smear(radius: int, deviation: float, angle: float) -> NDArray[np.float32]:
    """Weights of a smear that starts in the kernel's middle, (4r+1, 4r+1) float32 of sum 1; `angle` in radians.

    Source: ImageMagick's `MotionBlurImage`: 2r+1 steps along the line, half a normal distribution over the steps, each
    step at the nearest pixel.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * deviation**2))
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1), np.float32)
    rows = np.ceil(steps * np.sin(angle) - 0.5).astype(int) + 2 * radius
    columns = np.ceil(steps * np.cos(angle) - 0.5).astype(int) + 2 * radius
    np.add.at(kernel, (rows, columns), weights / weights.sum())
    return kernel

"""Small models of numpy arrays, whose anchors can be reasoned about."""

import numpy as np
from numpy.typing import NDArray


def quadrants(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (n, 4): which quarter of the picture is the brightest."""
    half = images.shape[1] // 2
    parts = [images[:, row : row + half, column : column + half] for row in (0, half) for column in (0, half)]
    logits = np.stack([part.mean(axis=(1, 2, 3)) for part in parts], axis=1) * 40
    scaled = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (scaled / scaled.sum(axis=1, keepdims=True)).astype(np.float32)


def constant(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (n, 2): always the same."""
    return np.tile(np.float32([0.9, 0.1]), (len(images), 1))


def jealous(image: NDArray[np.float32]) -> object:
    """A model that gives class 0 to this very image only."""

    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        same = (images == image).all(axis=(1, 2, 3))
        return np.stack([same, ~same], axis=1).astype(np.float32)

    return predict


def picture(seed: int, side: int = 32) -> NDArray[np.float32]:
    """A patchwork of colours with some noise, (side, side, 3) float32 in 0..1."""
    rng = np.random.default_rng(seed)
    patches = rng.random((4, 4, 3)).astype(np.float32).repeat(side // 4, axis=0).repeat(side // 4, axis=1)
    return (0.9 * patches + 0.1 * rng.random((side, side, 3), np.float32)).astype(np.float32)

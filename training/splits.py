"""Which images of CIFAR-10 are used for what: nothing is reported on images that something was fitted to."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.datasets import load_split

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Split:
    """Consecutive images of one part of the data set."""

    part: Literal["train", "test"]
    start: int
    stop: int

    def load(self) -> tuple[Pixels, Pixels]:
        """Images (n, 32, 32, 3) and labels (n,) uint8."""
        images, labels = load_split(self.part)
        return np.ascontiguousarray(images[self.start : self.stop]), np.asarray(labels[self.start : self.stop])

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        part = "training" if self.part == "train" else "test"
        return f"CIFAR-10 {part} images {self.start} to {self.stop - 1}"


AUTOENCODER_SPLIT = Split("train", 0, 45_000)
"""The outlier detector learns these."""
THRESHOLD_SPLIT = Split("train", 45_000, 50_000)
"""Its threshold comes from these."""
REFERENCE_SPLIT = Split("test", 5_000, 10_000)
"""Drift of the classifier's answers is measured against these, and the temperature fitted to them: the classifier has
learned every training image, and is surer of those than of new ones."""
ENCODER_REFERENCE_SPLIT = Split("train", 0, 10_000)
"""Drift of the untrained encoder's features is measured against these: it has learned nothing, so any image will do."""
ENCODER_POOL_SPLITS = (Split("test", 0, 10_000), Split("train", 10_000, 30_000))
"""Clean images for that detector's false alarms."""
REPORT_SPLIT = Split("test", 0, 5_000)
"""Nothing is fitted to these: the report's images, and the first that `modelwatch produce cifar10` sends."""

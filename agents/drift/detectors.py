"""The drift detectors of a model: features of single pairs, and tests of windows of them against the reference."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.drift.kolmogorov_smirnov import KolmogorovSmirnov, p_value_threshold
from agents.network import CompiledFunction, Images, load_arrays, load_network, network_files, sha256_of_files
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder
from schemas.messages import Detector, DriftTest
from schemas.model_spec import DriftSpec, InputSpec

Features = NDArray[np.float32]
REFERENCE_ARRAY = "features"
ENCODER_PART = "encoder"
MAX_FEATURES = 10_000
"""Of all detectors of a model: so many p-values and distances fit into a message."""
PAIR_BYTES = 2048
"""That a pair takes in a window beside its features, its identifiers at their longest."""
MAX_WINDOW_BYTES = 256 << 20


class DriftDetector:
    """One detector: `features` of single images in a first stage, `test` of a window of them in a second.

    Attributes:
        name: the key in `model.yaml`.
        identity: names the detector in reports; its hash is that of its files, reference included.
        p_value, correction: of the test, from `model.yaml`.
    """

    def __init__(self, name: str, spec: DriftSpec, folder: ModelFolder) -> None:
        names = [spec.reference, *(network_files(spec.files) if spec.files else ())]
        folder.verify(names)
        self.name = name
        self.identity = Detector(name=name, version=spec.version, sha256=sha256_of_files(folder, names))
        self.p_value, self.correction = spec.p_value, spec.correction
        self._tests = KolmogorovSmirnov(load_reference(folder, spec))
        self._classes = len(folder.spec.labels)
        self._encoder = encoder_of(folder.file(spec.files), folder.spec.input) if spec.files else None

    @property
    def feature_count(self) -> int:
        """Number of features of one image."""
        return self._tests.features

    @property
    def uses_images(self) -> bool:
        """Whether features come from the image; if not, from the model's answer."""
        return self._encoder is not None

    def features(self, images: Images, probabilities: NDArray[np.generic]) -> Features:
        """Features (n, d) float32 of pairs; each row depends on its own image and probabilities only.

        Args:
            images: (n, h, w, c), uint8, or float32 as the model takes them.
            probabilities: (n, classes), the model's answers.

        Raises:
            ValueError: either has another shape or type.
        """
        if self._encoder is not None:
            return self._encoder(images)
        if probabilities.ndim != 2 or probabilities.shape[1] != self._classes:
            raise ValueError(f"probabilities must be (n, {self._classes}); got {probabilities.shape}")
        return probabilities.astype(np.float32)

    def test(self, features: Features) -> DriftTest:
        """Test a window's features (n, d) float32, in any order, against the reference.

        Raises:
            ValueError: the window is empty, has another number of features, or holds NaN or infinity.
        """
        result = self._tests.test(features)
        threshold = p_value_threshold(result.p_values, self.p_value, self.correction)
        return DriftTest(
            is_drift=bool((result.p_values < threshold).any()),
            p_values=tuple(result.p_values.tolist()),
            distances=tuple(result.distances.tolist()),
            threshold=threshold,
            correction=self.correction,
            detector=self.identity,
        )

    def warm_up(self) -> None:
        """Compute every batch size once, so that no image pays for it."""
        if self._encoder is not None:
            self._encoder.warm_up()


def load_detectors(folder: ModelFolder) -> dict[str, DriftDetector]:
    """The drift detectors that `model.yaml` names, by name; none if it names none.

    Raises:
        ConfigurationError: a detector's files fail their checksums or cannot be used, or its windows are too large.
    """
    detectors = {name: DriftDetector(name, spec, folder) for name, spec in folder.spec.drift.items()}
    features, size = sum(one.feature_count for one in detectors.values()), folder.spec.window.window_size
    if features > MAX_FEATURES:
        raise ConfigurationError(
            f"{folder.path}: its drift detectors have {features} features together; a report holds {MAX_FEATURES}: "
            "take an encoder with fewer outputs, or leave a detector out"
        )
    if size * (needed := 4 * features + PAIR_BYTES) > MAX_WINDOW_BYTES:
        raise ConfigurationError(
            f"{folder.path}: window.window_size is {size}; of {features} features a pair, a window of at most "
            f"{MAX_WINDOW_BYTES // needed} pairs is kept in memory ({MAX_WINDOW_BYTES >> 20} MiB)"
        )
    return detectors


def load_reference(folder: ModelFolder, spec: DriftSpec) -> Features:
    """Reference features (n, d) float32 of a verified model folder.

    Raises:
        ConfigurationError: the file holds something else.
    """
    arrays = load_arrays(folder.file(spec.reference))
    reference = arrays.get(REFERENCE_ARRAY, np.empty(0))
    if reference.ndim != 2 or reference.dtype != np.float32 or not reference.size or not np.isfinite(reference).all():
        raise ConfigurationError(
            f"{folder.file(spec.reference)} must hold finite `{REFERENCE_ARRAY}`, (n, d) float32; found "
            f"{reference.shape} {reference.dtype}"
        )
    if spec.kind == "probabilities" and reference.shape[1] != len(folder.spec.labels):
        raise ConfigurationError(
            f"{folder.file(spec.reference)} has {reference.shape[1]} features; {folder.spec.name} has "
            f"{len(folder.spec.labels)} classes"
        )
    return reference


def encoder_of(files: Path, images: InputSpec) -> CompiledFunction:
    """The encoder in a folder of verified files: images to features (n, d) float32."""
    network = load_network(files)
    return CompiledFunction(lambda x: network.apply(ENCODER_PART, x), images)

"""Temperature scaling of the classifier's confidence, fitted to labelled images that it has not learned."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from agents.calibration import scale_temperature
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder
from schemas.model_spec import CalibrationSpec
from training.classifier import Classifier
from training.folder_update import update_spec
from training.splits import REFERENCE_SPLIT

BOUNDS = (0.05, 20.0)


def fit_temperature(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> float:
    """The temperature with the least negative log likelihood of the labels (n,), given probabilities (n, classes).

    Raises:
        ConfigurationError: the best one is at an end of `BOUNDS`, as for answers that are always or never right.
    """
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return float(-np.log(scale_temperature(probabilities, np.exp(log_temperature))[rows, labels] + 1e-300).mean())

    low, high = np.log(BOUNDS)
    best = float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)
    if not low + 1e-3 < best < high - 1e-3:
        raise ConfigurationError(
            f"no temperature between {BOUNDS[0]:g} and {BOUNDS[1]:g} fits the {len(labels)} answers; "
            "are the labels those of the images?"
        )
    return round(float(np.exp(best)), 4)


def calibrate_temperature(folder: ModelFolder) -> CalibrationSpec:
    """Fit the temperature of a folder's classifier and write it to its `model.yaml`."""
    images, labels = REFERENCE_SPLIT.load()
    temperature = fit_temperature(Classifier(folder).predict(images), labels)
    section = CalibrationSpec(temperature=temperature, images=len(labels), source=str(REFERENCE_SPLIT))
    update_spec(folder.path, calibration=section)
    return section

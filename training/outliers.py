"""`modelwatch train outliers`: an auto-encoder of normal images, and a threshold with a stated false-positive rate."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.network import load_network, network_files
from agents.outliers.detector import VaeScorer
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder
from schemas.model_spec import OutliersSpec, ThresholdCalibration
from training.folder_update import new_files, update_spec
from training.image_folder import image_folder
from training.loop import CURVE_FILE
from training.splits import AUTOENCODER_SPLIT, THRESHOLD_SPLIT
from training.vae import VaeOptions, build_vae, export_vae, train_vae
from training.work_folder import work_folder

FILES = "outliers"
FALSE_POSITIVE_RATE = 0.01


def train_outliers(path: Path, options: VaeOptions, rate: float, root: Path) -> OutliersSpec:
    """Train, calibrate and put the detector into a model folder.

    Args:
        path: of the model folder.
        rate: share of clean images that may be flagged.
        root: where the unfinished training is kept.

    Raises:
        ConfigurationError: the folder is not usable, or its model takes other images than CIFAR-10's.
    """
    folder = image_folder(path)
    work = work_folder(root, "outliers", options, AUTOENCODER_SPLIT)
    detector = build_vae(options)
    train_vae(detector, AUTOENCODER_SPLIT.load()[0], options, work)
    with new_files(path, FILES) as fresh:
        export_vae(detector, fresh)
        shutil.copy(work / CURVE_FILE, fresh / CURVE_FILE)
        section = calibrate(folder, fresh, rate)
    update_spec(path, outliers=section)
    shutil.rmtree(work)
    return section


def calibrate_outliers(path: Path, rate: float) -> OutliersSpec:
    """Set the threshold of the auto-encoder that a model folder has, and write it to `model.yaml`.

    Raises:
        ConfigurationError: the folder has no usable detector.
    """
    folder = image_folder(path)
    folder.verify(network_files(FILES))
    section = calibrate(folder, path / FILES, rate)
    update_spec(path, outliers=section)
    return section


def calibrate(folder: ModelFolder, files: Path, rate: float) -> OutliersSpec:
    """The detector's section of `model.yaml`, its threshold from clean images that the auto-encoder has not learned."""
    images = THRESHOLD_SPLIT.load()[0]
    scores = VaeScorer(load_network(files), folder.spec.input).score(images).scores
    return OutliersSpec(
        kind="vae",
        version=folder.spec.version,
        files=FILES,
        threshold=threshold_of(scores, rate),
        calibration=ThresholdCalibration(false_positive_rate=rate, images=len(scores), source=str(THRESHOLD_SPLIT)),
    )


def threshold_of(scores: NDArray[np.float64], rate: float) -> float:
    """The threshold that a new clean image exceeds with a chance of at most `rate`, given n clean images' scores.

    It is the k-th smallest score, k = ceil((n + 1) (1 - rate)), as in split conformal prediction (Vovk et al. 2005): a
    new image of the same kind is equally likely to come at each place among them. Rounded up to six digits.

    Raises:
        ConfigurationError: there are too few images for so small a rate.
    """
    place = int(np.ceil((len(scores) + 1) * (1 - rate)))
    if place > len(scores):
        raise ConfigurationError(
            f"a false-positive rate of {rate:g} needs at least {int(np.ceil(1 / rate)) - 1} clean images; there are "
            f"{len(scores)}"
        )
    return float(np.ceil(np.sort(scores)[place - 1] * 1e6) / 1e6)

"""The whole report: every figure of the model card, measured from a model folder's files on real images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from agents.drift.detectors import DriftDetector, load_detectors, load_reference
from agents.network import Images
from agents.outliers.detector import OutlierDetector
from runtime.model_folder import ModelFolder
from training.classifier import Classifier, in_blocks
from training.corruptions import SEVERITIES, corrupt
from training.datasets import TRUCK_INDEX, load_cifar10
from training.fashion_mnist import fashion_mnist_file
from training.loop import progress_bar
from training.report import classifier_figures, drift_figures, outlier_figures
from training.splits import ENCODER_POOL_SPLITS, REPORT_SPLIT

Report = dict[str, Any]
Features = dict[str, NDArray[np.float32]]


@dataclass
class Subject:
    """A loaded model folder, and the clean images it is measured on.

    Attributes:
        images, labels: of `REPORT_SPLIT`.
        probabilities: (10000, classes), of all test images.
    """

    folder: ModelFolder
    classifier: Classifier
    outliers: OutlierDetector
    drift: dict[str, DriftDetector]
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    bar: Progress

    def track(self, title: str, function: Callable[[Images], NDArray[np.generic]], images: Images) -> NDArray[Any]:
        """`function` of images in blocks, with a bar."""
        task = self.bar.add_task(title, total=len(images))
        try:
            return in_blocks(function, images, lambda done: self.bar.advance(task, done))
        finally:
            self.bar.remove_task(task)

    def features(self, title: str, images: NDArray[np.uint8]) -> tuple[Features, NDArray[np.float32]]:
        """Features by drift detector, and the probabilities, of images."""
        probabilities = self.track(f"Classifying {title}", self.classifier.predict, images)
        features = {
            name: self.track(f"Encoding {title}", partial(detector.features, probabilities=probabilities), images)
            if detector.uses_images
            else detector.features(images, probabilities)
            for name, detector in self.drift.items()
        }
        return features, probabilities


def measure_report(folder: ModelFolder, fashion_mnist: bool = True) -> Report:
    """Measure everything; minutes on two cores. The same files give the same report.

    Raises:
        ConfigurationError: the folder lacks a detector or calibration, or Fashion-MNIST is not there.
    """
    if fashion_mnist:
        fashion_mnist_file()
    with progress_bar() as bar:
        subject = load_subject(folder, bar)
        report = identity(subject) | classifier_part(subject) | outlier_part(subject, fashion_mnist)
        agreement = outlier_figures.agreement_figures(subject.outliers, folder, subject.images)
        return report | {"alibi_detect_agreement": agreement} | drift_part(subject)


def load_subject(folder: ModelFolder, bar: Progress) -> Subject:
    """Load what a folder holds, and classify the test images."""
    folder.verify()
    classifier, outliers, drift = Classifier(folder), OutlierDetector(folder), load_detectors(folder)
    images, labels = REPORT_SPLIT.load()
    subject = Subject(folder, classifier, outliers, drift, images, labels, np.empty(0, np.float32), bar)
    subject.probabilities = subject.track("Classifying test images", classifier.predict, load_cifar10().test_images)
    return subject


def identity(subject: Subject) -> Report:
    """Which model and detectors these figures are of, and on which images."""
    spec = subject.folder.spec
    return {
        "name": spec.name,
        "version": spec.version,
        "weights_sha256": subject.folder.weights_sha256,
        "parameters": subject.classifier.parameters,
        "detectors": {
            "outliers": subject.outliers.identity.model_dump(),
            **{name: detector.identity.model_dump() for name, detector in subject.drift.items()},
        },
        "report_images": str(REPORT_SPLIT),
    }


def classifier_part(subject: Subject) -> Report:
    """The classifier on all test images, and its calibration on those that its temperature was not fitted to."""
    data = load_cifar10()
    report = classifier_figures.accuracy_figures(subject.probabilities, data.test_labels, subject.folder.spec.labels)
    truck = subject.classifier.predict(data.train_images[TRUCK_INDEX : TRUCK_INDEX + 1])[0]
    report |= {"truck_class": int(truck.argmax()), "truck_probability": round(float(truck[9]), 5)}
    calibration = subject.folder.spec.calibration
    if calibration is not None:
        own = subject.probabilities[REPORT_SPLIT.start : REPORT_SPLIT.stop]
        report |= classifier_figures.calibration_figures(own, subject.labels, calibration.temperature)
    return report


def outlier_part(subject: Subject, fashion_mnist: bool, names: tuple[str, ...] | None = None) -> Report:
    """The outlier detector; `names` restricts the kinds of strange images."""
    data, detector = load_cifar10(), subject.outliers
    scores = subject.track("Scoring test images", lambda x: detector.score(x).scores, data.test_images)
    report = outlier_figures.truck_figures(detector, data.train_images[TRUCK_INDEX : TRUCK_INDEX + 1])
    report |= outlier_figures.clean_figures(detector, subject.folder, scores)
    own = scores[REPORT_SPLIT.start : REPORT_SPLIT.stop]
    contrasts: Report = {}
    kinds = outlier_figures.contrast_names(fashion_mnist) if names is None else names
    for name in subject.bar.track(kinds, description="Scoring strange images"):
        contrasts[name] = outlier_figures.contrast_figures(detector, own, subject.images, name)
    report["auroc"] = {name: figures["auroc"] for name, figures in contrasts.items()}
    report["flag_rate"] = {name: figures["flag_rate"] for name, figures in contrasts.items()}
    sizes = (size for size in outlier_figures.MASK_SIZES if f"mask_{size}" in contrasts)
    report["mask_flag_rate"] = {str(size): contrasts[f"mask_{size}"]["flag_rate"] for size in sizes}
    return report


def drift_part(subject: Subject) -> Report:
    """False alarms and power of every drift detector; the classifier's figures under corruption on the way."""
    size = subject.folder.spec.window.window_size
    clean, _ = subject.features("clean images", subject.images)
    result: Report = {"drift_window_size": size, **false_alarms(subject, clean, size)}
    power: Report = {name: {} for name in subject.drift}
    mixed: Report = {name: {} for name in subject.drift}
    result["corrupted"] = {}
    for corruption in drift_figures.DRIFT_CORRUPTIONS:
        for severity in SEVERITIES:
            title = f"{corruption} {severity}"
            corrupted, probabilities = subject.features(title, corrupt(subject.images, corruption, severity, seed=0))
            for name, detector in subject.drift.items():
                rate = drift_figures.detection_rate(detector, clean[name], corrupted[name], size, title)
                power[name].setdefault(corruption, {})[str(severity)] = rate
            if severity == drift_figures.MIXED_SEVERITY:
                result["corrupted"][corruption] = classifier_figures.corrupted_figures(probabilities, subject.labels)
                for name, detector in subject.drift.items():
                    mixed[name][corruption] = {
                        str(percent): drift_figures.detection_rate(
                            detector, clean[name], corrupted[name], size, title, percent
                        )
                        for percent in drift_figures.MIXED_PERCENT
                    }
    return result | {"drift_power": power, "drift_power_mixed": mixed}


def encoder_pool(subject: Subject, detector: DriftDetector) -> NDArray[np.float32]:
    """Features of many clean images, for a detector that looks at images only."""
    images = np.concatenate([split.load()[0] for split in ENCODER_POOL_SPLITS])
    return subject.track("Encoding clean images", partial(detector.features, probabilities=np.empty(0)), images)


def false_alarms(subject: Subject, clean: Features, size: int) -> Report:
    """False alarm rates by detector, in windows of clean images that are not in its reference."""
    pools = {
        name: encoder_pool(subject, detector) if detector.uses_images else clean[name]
        for name, detector in subject.drift.items()
    }
    figures = {
        name: drift_figures.false_alarm_figures(detector, pools[name], size) for name, detector in subject.drift.items()
    }
    references = {name: load_reference(subject.folder, spec) for name, spec in subject.folder.spec.drift.items()}
    return {
        "drift_nominal_false_alarm_rate": {name: detector.p_value for name, detector in subject.drift.items()},
        "drift_correction": {name: detector.correction for name, detector in subject.drift.items()},
        "drift_reference": {name: spec.source for name, spec in subject.folder.spec.drift.items()},
        "drift_pool_images": {name: len(pool) for name, pool in pools.items()},
        "drift_false_alarm_rate": {name: figure["rate"] for name, figure in figures.items()},
        "drift_false_alarm_interval": {name: figure["interval"] for name, figure in figures.items()},
        "drift_false_alarm_rate_by_correction": {name: figure["by_correction"] for name, figure in figures.items()},
        "drift_false_alarm_rate_resplit": {
            name: drift_figures.resplit_false_alarm_rate(detector, pools[name], references[name], size)
            for name, detector in subject.drift.items()
        },
    }

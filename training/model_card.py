"""A model card whose figures are measured, never typed: the measurement, and the page it goes into."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from training.datasets import LABELS

CARD_FILE = "MODEL_CARD.md"
CALIBRATION_BINS = 15
"""As in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""
FIRST = 2_000
"""A first part of the test images with a figure of its own, so that a quick test can check the card."""


@dataclass(frozen=True)
class Figures:
    """What was measured on the test images.

    Attributes:
        truck_probability: of class truck, for the article's truck.
        corrupted: accuracy and mean confidence by corruption, at severity 5 on the first 2,000 test images.
    """

    test_images: int
    test_accuracy: float
    first_2000_accuracy: float
    mean_confidence: float
    expected_calibration_error: float
    accuracy_by_class: dict[str, float]
    truck_probability: float
    corrupted: dict[str, tuple[float, float]]


def measure(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.uint8],
    truck: NDArray[np.float32],
    corrupted: dict[str, NDArray[np.float32]],
) -> Figures:
    """Figures of a model.

    Args:
        probabilities: (n, 10), the model's answers to the test images.
        labels: (n,), their true classes.
        truck: (10,), its answer to the article's truck.
        corrupted: (2000, 10) by corruption, its answers to the first test images corrupted.
    """
    right = probabilities.argmax(axis=1) == labels
    confidence = probabilities.max(axis=1)
    return Figures(
        test_images=len(labels),
        test_accuracy=float(right.mean()),
        first_2000_accuracy=float(right[:FIRST].mean()),
        mean_confidence=float(confidence.mean()),
        expected_calibration_error=calibration_error(confidence, right),
        accuracy_by_class={name: float(right[labels == i].mean()) for i, name in enumerate(LABELS)},
        truck_probability=float(truck[LABELS.index("truck")]),
        corrupted={
            name: (float((answers.argmax(axis=1) == labels[:FIRST]).mean()), float(answers.max(axis=1).mean()))
            for name, answers in corrupted.items()
        },
    )


def calibration_error(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Expected calibration error: |accuracy - mean confidence| by bin of confidence, weighted by the bin's share.

    Source: Guo et al. 2017, equation 3, with `CALIBRATION_BINS` bins of equal width, each open at its lower end.
    """
    bins = np.ceil(confidence.astype(np.float64) * CALIBRATION_BINS).astype(int)
    surplus = right.astype(np.float64) - confidence
    return float(sum(abs(surplus[bins == i].sum()) for i in np.unique(bins)) / len(confidence))


def render_card(figures: Figures, weights_sha256: str, parameters: int) -> str:
    """The card in Markdown, with the figures in its YAML front matter too."""
    front = yaml.safe_dump(_front_matter(figures, weights_sha256, parameters), sort_keys=False)
    classes = figures.accuracy_by_class
    page = PAGE.format(
        figures=figures,
        parameters=parameters,
        bins=CALIBRATION_BINS,
        margin=1.96 * (figures.test_accuracy * (1 - figures.test_accuracy) / figures.test_images) ** 0.5,
        hardest=min(classes, key=classes.__getitem__),
        classes="\n".join(f"| {name} | {share:.3f} |" for name, share in classes.items()),
        corruptions="\n".join(
            f"| {name} | {accuracy:.3f} | {confidence:.3f} |"
            for name, (accuracy, confidence) in figures.corrupted.items()
        ),
    )
    return f"---\n{front}---\n{page}"


def read_front_matter(card: str) -> dict[str, Any]:
    """The figures in a card's front matter.

    Raises:
        ValueError: the card does not begin with one.
    """
    _, front, _ = card.split("---\n", 2)
    figures: dict[str, Any] = yaml.safe_load(front)
    return figures


def _front_matter(figures: Figures, weights_sha256: str, parameters: int) -> dict[str, Any]:
    return {
        "name": "cifar10-resnet32",
        "version": "1",
        "weights_sha256": weights_sha256,
        "parameters": parameters,
        "test_images": figures.test_images,
        "test_accuracy": round(figures.test_accuracy, 4),
        "first_2000_accuracy": round(figures.first_2000_accuracy, 4),
        "mean_confidence": round(figures.mean_confidence, 4),
        "expected_calibration_error": round(figures.expected_calibration_error, 4),
        "calibration_bins": CALIBRATION_BINS,
        "truck_probability": round(figures.truck_probability, 5),
        "accuracy_by_class": {name: round(share, 3) for name, share in figures.accuracy_by_class.items()},
        "corrupted_accuracy": {name: round(accuracy, 3) for name, (accuracy, _) in figures.corrupted.items()},
    }


PAGE = """
# cifar10-resnet32, version 1

A small image classifier for trying out and testing the monitoring around it. It looks at a colour picture of
32×32 pixels and gives a probability to each of ten classes: airplane, automobile, bird, cat, deer, dog, frog, horse,
ship, truck. It is the kind of model that the article behind this project watches, trained anew.

| | |
|---|---|
| architecture | ResNet-32 (He et al. 2016, section 4.2), 5 blocks a stage, from `alibi_detect.models.tensorflow` |
| size | {parameters:,} numbers in float32, batch-normalisation statistics included |
| input | (n, 32, 32, 3) float32, red green blue, each pixel divided by 255 and nothing else |
| output | (n, 10) float32, probabilities that sum to 1, in the order of `labels` in `model.yaml` |
| file | `resnet32.keras`, Keras v3 format as tf-keras 2.18 writes it; loads in safe mode, with no custom class |

## Training

This section is the record kept at training; all other figures on this page were measured afterwards.

All 50,000 training images of CIFAR-10 were used; no test image was. The 22 epochs grow in resolution: 10 on pictures
reduced to 20×20 pixels, 8 on 24×24, 4 at full size, reduced with antialiasing. Each picture was padded by 4
reflected pixels, cropped at random, and mirrored half of the time. The loss is cross-entropy; the optimiser is SGD with
Nesterov momentum 0.9, batches of 128 and weight decay 5e-4 on the kernels. The learning rate rose in a straight line to
0.2 over the first 15 % of the steps and fell to 0 over the rest. Seed 0; about an hour and a half on two CPU cores.

The training ran in an equivalent network outside Keras, and the weights were then copied into this one without change.

## Figures

Measured on the {figures.test_images:,} test images of CIFAR-10, by TensorFlow in float32 on a CPU, from the file in
this folder as the inference worker loads it. `python -m training.reference_model` measures them again and writes this
page.

| figure | value |
|---|---|
| accuracy | {figures.test_accuracy:.4f} (95 % interval ± {margin:.4f}) |
| accuracy on the first 2,000 | {figures.first_2000_accuracy:.4f} |
| mean confidence | {figures.mean_confidence:.4f} |
| expected calibration error, {bins} bins of equal width | {figures.expected_calibration_error:.4f} |
| probability of `truck` for the article's truck | {figures.truck_probability:.5f} |

| class | share of its test images put right |
|---|---|
{classes}

Under the article's four corruptions, as `training/corruptions.py` makes them at severity 5 with seed 0, on the first
2,000 test images:

| corruption | accuracy | mean confidence |
|---|---|---|
{corruptions}

The article's truck is training image 1, so this model has seen it: its figure shows that the model is the one it should
be, and says nothing about unseen trucks.

## Limits

- It is a reference for tests and demonstrations. No decision about anything real should rest on it.
- It knows ten classes and always names one of them: a picture of something else gets a class too. That is what the
  outlier and drift detectors are for.
- Larger pictures have to be reduced to 32×32 pixels by the sender.
- Its confidence is about its accuracy on clean images only; under corruption it says too much, as the table shows.
- Classes differ: {hardest} is the hardest.

## Data and licence

CIFAR-10 was collected by Alex Krizhevsky, Vinod Nair and Geoffrey Hinton; the reference is Krizhevsky, "Learning
Multiple Layers of Features from Tiny Images", technical report, University of Toronto, 2009. Its authors ask to be
cited and state no licence; the pictures come from the web, and rights in them remain with whoever made them. No picture
is part of this folder. Check for yourself whether your use of weights trained on them needs more than that.
"""

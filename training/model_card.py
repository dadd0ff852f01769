"""A model card whose figures are measured, never typed: the report, in the words of a page."""

from typing import Any

import yaml

from training.card_tables import against_article, contrast_table, drift_tables, mask_table, row

CARD_FILE = "MODEL_CARD.md"
RECORD_FILE = "TRAINING.md"
"""What cannot be measured afterwards, written by whoever trained: how it was done, data, licence. Part of the card."""
FRONT = (
    "name",
    "version",
    "weights_sha256",
    "parameters",
    "test_images",
    "test_accuracy",
    "first_2000_accuracy",
    "mean_confidence",
    "expected_calibration_error",
    "truck_probability",
    "temperature",
    "calibration_error_before",
    "calibration_error_after",
    "outlier_threshold",
    "nominal_false_positive_rate",
    "clean_false_positive_rate",
    "drift_false_alarm_rate",
    "accuracy_by_class",
)
Report = dict[str, Any]


def render_card(report: Report, record: str) -> str:
    """The card in Markdown; its YAML front matter holds the chief figures.

    Args:
        report: as `training.report.measure` makes it.
        record: Markdown with headings of the third level.
    """
    front = {name: report[name] for name in FRONT if name in report}
    front["corrupted_accuracy"] = {name: figures["accuracy"] for name, figures in report["corrupted"].items()}
    parts = (_head(report), _classifier(report), _outliers(report), _drift(report), against_article(report), LIMITS)
    pages = "\n".join((*parts, f"## Record of the training\n\n{record}"))
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{pages}"


def read_front_matter(card: str) -> dict[str, Any]:
    """The figures in a card's front matter.

    Raises:
        ValueError: the card does not begin with one.
    """
    _, front, _ = card.split("---\n", 2)
    figures: dict[str, Any] = yaml.safe_load(front)
    return figures


def _head(report: Report) -> str:
    detectors = "\n".join(
        row(name, figures["version"], f"`{figures['sha256'][:16]}…`") for name, figures in report["detectors"].items()
    )
    return f"""
# {report["name"]}, version {report["version"]}

A small image classifier for trying out and testing the monitoring around it, with the detectors that watch it. It looks
at a colour picture of 32×32 pixels and gives a probability to each of ten classes. It is the kind of model that the
article behind this project watches, trained anew.

| | |
|---|---|
| architecture | ResNet-32 (He et al. 2016, section 4.2), 5 blocks a stage, from `alibi_detect.models.tensorflow` |
| size | {report["parameters"]:,} numbers in float32, batch-normalisation statistics included |
| input | (n, 32, 32, 3), red green blue; uint8, or float32 in 0..1 (each pixel divided by 255 and nothing else) |
| output | (n, 10) float32, probabilities that sum to 1, in the order of `labels` in `model.yaml` |
| files | Keras v3 format as tf-keras 2.18 writes it; the detectors are arrays (.npz) and JSON: nothing is unpickled |

| detector | version | hash of its files |
|---|---|---|
{detectors}

All figures on this page are measured from the files of this folder; `modelwatch train report` measures them again, and
writes this page and `report.json`, which holds more of them. "Report images" are {report["report_images"]}: nothing
was fitted to them.
"""


def _classifier(report: Report) -> str:
    low, high = report["test_accuracy_interval"]
    interval = f"{low:.4f} to {high:.4f}"
    classes = "\n".join(row(name, f"{share:.3f}") for name, share in report["accuracy_by_class"].items())
    corrupted = "\n".join(
        row(name, f"{figures['accuracy']:.3f}", f"{figures['mean_confidence']:.3f}")
        for name, figures in report["corrupted"].items()
    )
    return f"""## Classifier

| figure | value |
|---|---|
| accuracy on the {report["test_images"]:,} test images | {report["test_accuracy"]:.4f} (95 % interval {interval}) |
| accuracy on the first 2,000 | {report["first_2000_accuracy"]:.4f} |
| mean confidence | {report["mean_confidence"]:.4f} |
| expected calibration error, 15 bins of equal width, all test images | {report["expected_calibration_error"]:.4f} |
| probability of `truck` for the article's truck | {report["truck_probability"]:.5f} |

The article's truck is training image 1, so this model has seen it: its figure shows that the model is the one it should
be, and says nothing about unseen trucks.
{_calibration(report)}
| class | share of its test images put right |
|---|---|
{classes}

Under the article's four corruptions at severity 5 (`training/corruptions.py`, seed 0), on the first 2,000 test images:

| corruption | accuracy | mean confidence |
|---|---|---|
{corrupted}
"""


def _calibration(report: Report) -> str:
    if "temperature" not in report:
        return ""
    before, after = report["calibration_error_before"], report["calibration_error_after"]
    return f"""
**Temperature scaling** (Guo et al. 2017). The temperature {report["temperature"]} has the least log loss on the test images
that are not report images. On the {report["calibration_images"]:,} report images the expected calibration error is {before:.4f}
before and {after:.4f} after, the log loss {report["log_loss_before"]:.4f} before and {report["log_loss_after"]:.4f} after.
The temperature serves to estimate accuracy without labels; the answers that the worker publishes are not scaled.
"""


def _outliers(report: Report) -> str:
    agreement = report["alibi_detect_agreement"]
    return f"""## Outlier detector

The mean squared error with which a variational auto-encoder rebuilds an image. The latent vector is the encoder's mean,
not a draw, so a score depends on the image alone. alibi-detect's own `OutlierVAE.predict`, which draws, gives the same
verdict on {agreement["verdicts_equal"]:.2%} of {agreement["images"]:,} images, clean and masked; no score differs by more
than {agreement["largest_relative_difference"]:.2%}.

{_threshold(report)}

The article's truck, and the same under its masks of noise (`mask_noise`, seed 0); last column: share flagged of 500
different report images, each under a mask of its own:

{mask_table(report)}

Strange images against the clean report images. AUROC is the chance that a strange one scores higher than a clean one;
corruptions are at severity 5:

{contrast_table(report)}

**What this detector does not see.** A blurred image, or one with less contrast, is easier to rebuild than a sharp one, so
its score falls: an AUROC below 0.5. That is in the nature of reconstruction errors, and such changes are what the drift
detectors are for. A clean image of unusual texture scores higher than a plain one with a small mask, so small masks
pass.
"""


def _threshold(report: Report) -> str:
    low, high = report["clean_false_positive_interval"]
    nominal, images = report["nominal_false_positive_rate"], report["threshold_images"]
    origin = "and it is not recorded how it was set."
    if nominal is not None:
        error = 1.96 * (nominal * (1 - nominal) / images) ** 0.5
        origin = (
            f"set for {nominal:.1%} of clean images above it, from {images:,} images that the auto-encoder has not "
            f"learned. A threshold from so many has itself an error of ± {error:.2%} (95 %)."
        )
    return (
        f"The threshold is {report['outlier_threshold']:g}, {origin}\nOf the {report['clean_images']:,} test images "
        f"{report['clean_false_positive_rate']:.2%} are above it (95 % interval {low:.2%} to {high:.2%})."
    )


def _drift(report: Report) -> str:
    return f"""## Drift detectors

Kolmogorov-Smirnov tests of each feature of a window of {report["drift_window_size"]:,} images against the same feature of
the reference images, with a correction for testing many at once. `untrained_encoder`: 32 outputs of a network with random
weights (Rabanser et al. 2019); `probabilities`: the classifier's answers (black-box shift, Lipton et al. 2018).

{drift_tables(report)}
"""


LIMITS = """## Limits

- It is a reference for tests and demonstrations. No decision about anything real should rest on it.
- The classifier knows ten classes and always names one of them: a picture of something else gets a class too.
- Larger pictures have to be reduced to 32×32 pixels by the sender.
- Its confidence is about its accuracy on clean images only; under corruption it says too much, as the table shows.
- The last digits of scores differ between processors. On one machine a score is the same to the bit in any batch.
"""

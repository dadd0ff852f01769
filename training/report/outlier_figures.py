"""Figures of the outlier detector: the article's truck, false positives, and telling strange images apart."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.network import Images
from agents.outliers.detector import OutlierDetector
from runtime.model_folder import ModelFolder
from training.corruptions import CORRUPTIONS, corrupt, mask_noise
from training.fashion_mnist import load_fashion_mnist
from training.report.statistics import auroc, interval_95, share
from training.vae import import_vae

MASK_SIZES = tuple(range(2, 21, 2))
ARTICLE_SCORES = (0.0090, 0.0106, 0.0133, 0.0183, 0.0218, 0.0289, 0.0370, 0.0485, 0.0529, 0.0668)
ARTICLE_THRESHOLD = 0.015
MASKED_IMAGES = 500
CONTRAST_IMAGES = 1_000
CONTRAST_SEVERITY = 5
AGREEMENT_SIZES = (4, 8, 12)
Pixels = NDArray[np.uint8]
Figures = dict[str, Any]


def truck_figures(detector: OutlierDetector, truck: Pixels) -> Figures:
    """The truck (1, 32, 32, 3) and its ten masked versions, beside the article's.

    The mask of each size is `mask_noise` with seed 0.
    """
    masked = np.concatenate([mask_noise(truck, size, seed=0) for size in MASK_SIZES])
    scores = detector.score(masked).scores
    rows = zip(MASK_SIZES, scores.tolist(), ARTICLE_SCORES, strict=True)
    return {
        "truck_score": round(float(detector.score(truck).scores[0]), 6),
        "truck_masks": [
            {
                "size": size,
                "score": round(score, 6),
                "is_outlier": score > detector.threshold,
                "article_score": article,
                "article_is_outlier": article > ARTICLE_THRESHOLD,
            }
            for size, score, article in rows
        ],
    }


def clean_figures(detector: OutlierDetector, folder: ModelFolder, scores: NDArray[np.float64]) -> Figures:
    """False positives among the scores (n,) of clean images that neither network nor threshold was fitted to."""
    flags = scores > detector.threshold
    calibration = folder.spec.outliers.calibration if folder.spec.outliers else None
    return {
        "outlier_threshold": detector.threshold,
        "nominal_false_positive_rate": calibration.false_positive_rate if calibration else None,
        "threshold_images": calibration.images if calibration else None,
        "clean_images": len(flags),
        "clean_false_positive_rate": share(flags),
        "clean_false_positive_interval": interval_95(int(flags.sum()), len(flags)),
        "clean_score_mean": round(float(scores.mean()), 6),
    }


def contrast_images(name: str, images: Pixels) -> Images:
    """Strange images of one kind, made of the first clean ones or of nothing.

    `uniform_noise`, `mask_<size>` (each image its own mask, the seed is its index), `fashion_mnist`, or a corruption,
    at severity 5 with seed 0.
    """
    if name == "uniform_noise":
        return np.random.default_rng(0).integers(0, 256, (CONTRAST_IMAGES, 32, 32, 3), dtype=np.uint8)
    if name == "fashion_mnist":
        return load_fashion_mnist(CONTRAST_IMAGES)
    if name.startswith("mask_"):
        size = int(name.removeprefix("mask_"))
        return np.concatenate([mask_noise(images[i : i + 1], size, seed=i) for i in range(MASKED_IMAGES)])
    return corrupt(images[:CONTRAST_IMAGES], name, CONTRAST_SEVERITY, seed=0)


def contrast_names(fashion_mnist: bool) -> tuple[str, ...]:
    """Kinds that `contrast_images` makes."""
    masks = (f"mask_{size}" for size in MASK_SIZES)
    return ("uniform_noise", *masks, *CORRUPTIONS, *(("fashion_mnist",) if fashion_mnist else ()))


def contrast_figures(detector: OutlierDetector, clean: NDArray[np.float64], images: Pixels, name: str) -> Figures:
    """AUROC of one kind of strange images against the scores of clean ones, and the share flagged."""
    scores = detector.score(contrast_images(name, images)).scores
    return {"auroc": auroc(clean, scores), "flag_rate": share(scores > detector.threshold)}


def agreement_figures(detector: OutlierDetector, folder: ModelFolder, images: Pixels) -> Figures:
    """How the verdicts compare with those of alibi-detect's own `predict` (two draws) on the same weights.

    On the first 500 clean images, and on them under masks of three sizes.
    """
    import tensorflow as tf

    tf.random.set_seed(0)
    masked = [contrast_images(f"mask_{size}", images) for size in AGREEMENT_SIZES]
    shown = np.concatenate([images[:MASKED_IMAGES].astype(np.float32) / np.float32(255), *masked])
    alibi = import_vae(folder)
    theirs = alibi.predict(shown, batch_size=100, return_feature_score=False)["data"]
    ours = detector.score(shown).scores
    flagged = ours > detector.threshold
    return {
        "images": len(shown),
        "verdicts_equal": share(flagged == theirs["is_outlier"].astype(bool)),
        "largest_relative_difference": round(float(np.abs(theirs["instance_score"] / ours - 1).max()), 5),
    }

"""Training the reference classifier: ResNet-32 on CIFAR-10, hours on a CPU, minutes on a GPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets import load_split
from training.loop import Curve, Plan, run_steps
from training.reference_model import build_resnet32

PADDING = 4
"""Pixels of reflected border from which crops are taken (He et al. 2016, section 4.2, with zeros)."""
WARM_UP = 0.15
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class ResnetOptions:
    """SGD with Nesterov momentum, the learning rate rising in a straight line and falling in another to 0."""

    epochs: int = 22
    batch: int = 128
    learning_rate: float = 0.2
    momentum: float = 0.9
    seed: int = 0

    def steps(self, images: int) -> int:
        """Steps of the whole training on so many images."""
        return self.epochs * (images // self.batch)


def train_resnet32(options: ResnetOptions, work: Path, until: int | None = None) -> tuple[Any, Curve]:
    """A ResNet-32 trained on all 50,000 training images, from the last checkpoint if there is one.

    The network and its weight decay (2e-4 on kernels) are alibi-detect's. The learning curve's accuracy is that of the
    augmented batches trained on.

    Args:
        work: folder of the checkpoints.
        until: stop after this step, as if interrupted there.
    """
    import tf_keras

    tf_keras.utils.set_random_seed(options.seed)
    images, labels = load_split("train")
    plan = Plan(
        "Training ResNet-32",
        items=len(images),
        batch=options.batch,
        steps=options.steps(len(images)),
        seed=options.seed,
        checkpoints=work,
        every=100,
    )
    model = build_resnet32()
    optimizer = tf_keras.optimizers.SGD(0.0, momentum=options.momentum, nesterov=True)
    optimizer.build(model.trainable_weights)
    step = _step(model, optimizer)

    def run(chosen: NDArray[np.int64], number: int) -> dict[str, float]:
        rate = learning_rate(number, plan.steps, options.learning_rate)
        loss, right = step(
            augment(images[chosen], np.random.default_rng([options.seed, number, 1])), labels[chosen], rate
        )
        return {"loss": float(loss), "accuracy": float(right)}

    return model, run_steps(plan, run, model, optimizer, until)


def learning_rate(step: int, steps: int, highest: float) -> float:
    """The rate of a step: up to `highest` over the first `WARM_UP` of all steps, then down to 0."""
    peak = WARM_UP * steps
    return highest * min((step + 1) / peak, (steps - step) / (steps - peak))


def augment(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Images (n, h, w, 3), each cropped at random from its padded self and mirrored half of the time."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="reflect")
    rows = rng.integers(0, 2 * PADDING + 1, count)[:, None] + np.arange(height)
    columns = rng.integers(0, 2 * PADDING + 1, count)[:, None] + np.arange(width)
    mirrored = rng.random(count) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    cropped: NDArray[np.uint8] = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cropped


def _step(model: Any, optimizer: Any) -> Any:
    import tensorflow as tf

    entropy = tf.keras.losses.SparseCategoricalCrossentropy()

    @tf.function  # type: ignore[untyped-decorator]
    def compiled(pixels: Any, labels: Any, rate: Any) -> tuple[Any, Any]:
        optimizer.learning_rate.assign(rate)
        with tf.GradientTape() as tape:
            answers = model(tf.cast(pixels, tf.float32) / 255.0, training=True)
            loss = entropy(labels, answers)
            total = loss + tf.add_n(model.losses)
        gradients = tape.gradient(total, model.trainable_weights)
        optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
        return loss, tf.reduce_mean(tf.keras.metrics.sparse_categorical_accuracy(labels, answers))

    def step(pixels: NDArray[np.uint8], labels: NDArray[np.uint8], rate: float) -> tuple[Any, Any]:
        result: tuple[Any, Any] = compiled(
            tf.constant(pixels), tf.constant(labels.astype(np.int32)), tf.constant(rate, tf.float32)
        )
        return result

    return step

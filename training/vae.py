"""The outlier detector's auto-encoder: alibi-detect's `OutlierVAE`, in a training that can be stopped and resumed."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.checkpoints import Epochs, train_epochs
from training.network_export import export_network

ELBO_DEVIATION = 0.05
"""Standard deviation of a pixel about its reconstruction: the article's `cov_elbo=dict(sim=.05)`."""
PARTS = ("encoder", "mean", "log_variance", "decoder")


@dataclass(frozen=True)
class VaeOptions:
    """Architecture and training.

    The encoder has three convolutions (kernel 4, stride 2, `same`, relu), in the article of 64, 128 and 512 filters;
    the decoder a dense layer and three transposed convolutions, its inner ones relu, its last sigmoid.
    """

    encoder_filters: tuple[int, int, int] = (32, 64, 128)
    latent: int = 256
    decoder_filters: tuple[int, int, int] = (128, 128, 64)
    epochs: int = 12
    batch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0


def build_vae(options: VaeOptions) -> Any:
    """An untrained `alibi_detect.od.OutlierVAE` for images (32, 32, 3), its weights drawn from the seed."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    import tf_keras
    from alibi_detect.od import OutlierVAE

    tf_keras.utils.set_random_seed(options.seed)
    layers = tf_keras.layers
    kernel = {"strides": 2, "padding": "same"}
    base, *inner = options.decoder_filters
    encoder = [layers.Conv2D(n, 4, activation="relu", **kernel) for n in options.encoder_filters]
    decoder = [
        layers.Dense(4 * 4 * base),
        layers.Reshape((4, 4, base)),
        *(layers.Conv2DTranspose(n, 4, activation="relu", **kernel) for n in inner),
        layers.Conv2DTranspose(3, 4, activation="sigmoid", **kernel),
    ]
    vae = OutlierVAE(
        threshold=1.0,
        score_type="mse",
        encoder_net=tf_keras.Sequential([layers.InputLayer((32, 32, 3)), *encoder]),
        decoder_net=tf_keras.Sequential([layers.InputLayer((options.latent,)), *decoder]),
        latent_dim=options.latent,
        samples=2,
    )
    vae.vae(np.zeros((1, 32, 32, 3), np.float32))
    return vae


def train_vae(detector: Any, images: NDArray[np.uint8], options: VaeOptions, checkpoints: Path) -> list[float]:
    """Train in place, from the last checkpoint if there is one; returns the mean loss of each epoch.

    The loss is that of `OutlierVAE.fit`: negative evidence lower bound with a fixed pixel deviation, plus the mean
    Kullback-Leibler term (Kingma and Welling 2014). The latent draws come from the number of the step, so a training
    that was interrupted ends with the same weights as one that was not.

    Args:
        images: (n, 32, 32, 3) uint8.
        checkpoints: folder of the checkpoints.
    """
    import tf_keras

    steps = options.epochs * (len(images) // options.batch)
    schedule = tf_keras.optimizers.schedules.CosineDecay(options.learning_rate, steps, alpha=0.01)
    optimizer = tf_keras.optimizers.Adam(schedule)
    optimizer.build(detector.vae.trainable_weights)
    plan = Epochs("Training the auto-encoder", options.epochs, options.batch, options.seed, checkpoints)
    return train_epochs(plan, len(images), _step(detector.vae, optimizer, images, options), detector.vae, optimizer)


def _step(vae: Any, optimizer: Any, images: NDArray[np.uint8], options: VaeOptions) -> Any:
    import tensorflow as tf
    from alibi_detect.models.tensorflow.losses import elbo

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(pixels: Any, seed: Any) -> Any:
        x = tf.cast(pixels, tf.float32) / 255.0
        draw = tf.random.stateless_normal([tf.shape(x)[0], options.latent], seed)
        with tf.GradientTape() as tape:
            hidden = tf.reshape(vae.encoder.encoder_net(x), [tf.shape(x)[0], -1])
            mean, log_variance = vae.encoder.fc_mean(hidden), vae.encoder.fc_log_var(hidden)
            rebuilt = vae.decoder(mean + tf.exp(0.5 * log_variance) * draw)
            divergence = -0.5 * tf.reduce_mean(log_variance - mean**2 - tf.exp(log_variance) + 1)
            loss = elbo(x, rebuilt, sim=ELBO_DEVIATION) + vae.beta * divergence
        gradients = tape.gradient(loss, vae.trainable_weights)
        optimizer.apply_gradients(zip(gradients, vae.trainable_weights, strict=True))
        return loss

    def run(chosen: NDArray[np.int64], number: int) -> float:
        return float(step(tf.constant(images[chosen]), tf.constant([options.seed, number])))

    return run


def export_vae(detector: Any, folder: Path) -> None:
    """Write a trained `OutlierVAE` as `config.json` and `weights.npz`."""
    import tf_keras

    vae = detector.vae
    export_network(
        {
            "encoder": [*vae.encoder.encoder_net.layers, tf_keras.layers.Flatten()],
            "mean": [vae.encoder.fc_mean],
            "log_variance": [vae.encoder.fc_log_var],
            "decoder": vae.decoder.decoder_net.layers,
        },
        folder,
    )

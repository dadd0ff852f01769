"""The outlier detector's auto-encoder: alibi-detect's `OutlierVAE`, in a training that can be stopped and resumed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.network import load_arrays, network_files
from runtime.errors import ConfigurationError
from runtime.model_folder import ModelFolder
from training.loop import Curve, Plan, run_steps
from training.network_export import export_network

ELBO_DEVIATION = 0.05
"""Standard deviation of a pixel about its reconstruction: the article's `cov_elbo=dict(sim=.05)`."""


@dataclass(frozen=True)
class VaeOptions:
    """Architecture and training.

    The encoder has three convolutions (kernel 4, stride 2, `same`, relu), in the article of 64, 128 and 512 filters;
    the decoder a dense layer and three transposed convolutions, its inner ones relu, its last sigmoid.
    """

    encoder_filters: tuple[int, ...] = (32, 64, 128)
    latent: int = 512
    decoder_filters: tuple[int, ...] = (128, 128, 64)
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0


def build_vae(options: VaeOptions) -> Any:
    """An untrained `alibi_detect.od.OutlierVAE` for images (32, 32, 3), its weights drawn from the seed."""
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


def train_vae(detector: Any, images: NDArray[np.uint8], options: VaeOptions, work: Path) -> Curve:
    """Train in place, from the last checkpoint if there is one; returns the learning curve.

    The loss is that of `OutlierVAE.fit`: the negative evidence lower bound with a fixed pixel deviation, plus the mean
    Kullback-Leibler term (Kingma and Welling 2014). The latent draws come from the number of the step, so a training
    that was interrupted ends with the same weights as one that was not.

    Args:
        images: (n, 32, 32, 3) uint8.
        work: folder of the checkpoints.
    """
    import tf_keras

    steps = options.epochs * (len(images) // options.batch)
    plan = Plan("Training the auto-encoder", len(images), options.batch, steps, options.seed, work)
    schedule = tf_keras.optimizers.schedules.CosineDecay(options.learning_rate, steps, alpha=0.01)
    optimizer = tf_keras.optimizers.Adam(schedule)
    optimizer.build(detector.vae.trainable_weights)
    step = _step(detector.vae, optimizer, options.latent)

    def run(chosen: NDArray[np.int64], number: int) -> dict[str, float]:
        return {"loss": float(step(images[chosen], options.seed, number))}

    return run_steps(plan, run, detector.vae, optimizer)


def _step(vae: Any, optimizer: Any, latent: int) -> Any:
    import tensorflow as tf
    from alibi_detect.models.tensorflow.losses import elbo

    @tf.function  # type: ignore[untyped-decorator]
    def compiled(pixels: Any, seed: Any) -> Any:
        x = tf.cast(pixels, tf.float32) / 255.0
        draw = tf.random.stateless_normal([tf.shape(x)[0], latent], seed)
        with tf.GradientTape() as tape:
            hidden = tf.reshape(vae.encoder.encoder_net(x), [tf.shape(x)[0], -1])
            mean, log_variance = vae.encoder.fc_mean(hidden), vae.encoder.fc_log_var(hidden)
            rebuilt = vae.decoder(mean + tf.exp(0.5 * log_variance) * draw)
            divergence = -0.5 * tf.reduce_mean(log_variance - mean**2 - tf.exp(log_variance) + 1)
            loss = elbo(x, rebuilt, sim=ELBO_DEVIATION) + vae.beta * divergence
        gradients = tape.gradient(loss, vae.trainable_weights)
        optimizer.apply_gradients(zip(gradients, vae.trainable_weights, strict=True))
        return loss

    return lambda pixels, seed, number: compiled(tf.constant(pixels), tf.constant([seed, number]))


def export_vae(detector: Any, folder: Path) -> None:
    """Write a trained `OutlierVAE` as `config.json` and `weights.npz`."""
    export_network(vae_parts(detector.vae), folder)


def vae_parts(vae: Any) -> dict[str, list[Any]]:
    """The layers of an `alibi_detect.models.tensorflow.VAE` by part, in order."""
    import tf_keras

    return {
        "encoder": [*vae.encoder.encoder_net.layers, tf_keras.layers.Flatten()],
        "mean": [vae.encoder.fc_mean],
        "log_variance": [vae.encoder.fc_log_var],
        "decoder": list(vae.decoder.decoder_net.layers),
    }


def import_vae(folder: ModelFolder) -> Any:
    """alibi-detect's `OutlierVAE` with the weights and the threshold of a model folder's detector.

    Raises:
        ConfigurationError: the folder has no detector of this architecture.
    """
    spec = folder.spec.outliers
    if spec is None:
        raise ConfigurationError(f"{folder.path} has no outlier detector")
    arrays = load_arrays(folder.file(network_files(spec.files)[1]))
    try:
        kernels = [arrays[f"decoder/{index}/kernel"].shape[2] for index in (2, 3)]
        options = VaeOptions(
            encoder_filters=tuple(arrays[f"encoder/{index}/kernel"].shape[3] for index in range(3)),
            latent=arrays["mean/0/kernel"].shape[1],
            decoder_filters=(arrays["decoder/0/kernel"].shape[1] // 16, *kernels),
        )
        detector = build_vae(options)
        for part, layers in vae_parts(detector.vae).items():
            for index, layer in enumerate(layers):
                names = [f"{part}/{index}/{name}" for name in ("kernel", "bias")] if layer.weights else []
                layer.set_weights([arrays[name].astype(np.float32) for name in names])
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigurationError(f"{folder.file(spec.files)} is not an auto-encoder made here: {error}") from error
    detector.threshold = spec.threshold
    return detector

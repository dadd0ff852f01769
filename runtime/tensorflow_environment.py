"""What TensorFlow reads from the environment when it is first imported, for every process that uses it."""

import os

VARIABLES = {
    # alibi-detect's networks, and models saved by Keras 2, are built by that Keras.
    "TF_USE_LEGACY_KERAS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # oneDNN computes each image of a batch for itself. TensorFlow uses it by default on some processors only; on the
    # others an image's result changes in its last bits with its place in the batch.
    "TF_ENABLE_ONEDNN_OPTS": "1",
}


def prepare() -> None:
    """Set what is not set yet."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)

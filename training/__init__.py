"""Data sets, and the reference model and detectors, from raw data to a folder in models/."""

import os

# Read when TensorFlow is first imported, which happens later: alibi-detect needs this Keras.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

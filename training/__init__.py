"""Data sets, and the reference model and detectors, from raw data to a folder in models/."""

from runtime import tensorflow_environment

tensorflow_environment.prepare()  # TensorFlow is imported later

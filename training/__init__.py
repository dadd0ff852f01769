"""Data sets, and the reference model and detectors, from raw data to a folder in models/."""

"""How good a model folder's classifier and detectors are, measured anew from its files."""

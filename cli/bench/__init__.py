"""Benchmarks: our own cost beside the bare libraries doing the same work."""

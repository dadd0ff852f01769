"""The inference worker: images from a topic in, request/response pairs out, exactly once."""

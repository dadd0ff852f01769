"""The worker over HTTP: Open Inference Protocol V2 and TensorFlow Serving V1, in batches with Kafka's traffic."""

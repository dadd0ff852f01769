"""Why did the model answer that? Explains answers on request and by policy, asking the worker's own model."""

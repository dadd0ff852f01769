"""The monitoring agents, one process each, that subscribe to the pairs."""

"""The contracts: messages, topics, headers and payload codecs; imports nothing else of the project."""

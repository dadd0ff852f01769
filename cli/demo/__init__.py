"""The demo: the whole story on embedded servers and real images, and a verdict on it."""

"""Has the world changed? Tests windows of images against a reference."""

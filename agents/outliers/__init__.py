"""Is this image strange? Scores every image by how badly an auto-encoder of normal ones rebuilds it."""

"""From an image to an embedding on disk."""

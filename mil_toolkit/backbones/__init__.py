"""Pretrained networks that turn images into embeddings."""

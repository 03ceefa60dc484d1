"""Training of heads on embeddings, and fine-tuning of backbones together with their heads."""

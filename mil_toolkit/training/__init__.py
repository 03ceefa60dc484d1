"""How heads learn: inputs, losses, the training loop, and the fine-tuning of backbones."""

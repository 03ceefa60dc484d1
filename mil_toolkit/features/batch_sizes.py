"""`default_batch_size`: how many images a device embeds at once."""

import torch

CPU_BATCH = 8  # the fastest for ResNet34; each core embeds a batch of its own
_GIBIBYTE = 2**30
# Least memory of a card in GiB, and its batch: a literal table, because a batch that was chosen by timing or
# by the memory that is free would differ between runs, and with it the bits of the embeddings. Cards of 6, 12
# and 24 GB report a little less than that.
CUDA_BATCHES = ((23, 256), (11, 128), (5, 64), (0, 32))


def default_batch_size(device: torch.device) -> int:
    """Return the number of images that are embedded at once on this device."""
    if device.type == "cpu":
        return CPU_BATCH
    if device.type == "mps":
        return CUDA_BATCHES[-1][1]
    memory = torch.cuda.get_device_properties(device).total_memory
    return next(batch for least, batch in CUDA_BATCHES if memory >= least * _GIBIBYTE)

"""`process_count`: how many searches of a study run at once."""

import torch

from mil_toolkit.config import RunConfig
from mil_toolkit.core.cores import available_cores
from mil_toolkit.core.memory import available_memory
from mil_toolkit.features.bags import Bags
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.projection import MOST_COMPONENTS

# A rough model of the processor time of an epoch, in seconds. A study of less than _WORTHWHILE seconds runs
# in one process, because others would take as long to start.
_EPOCH, _EPOCH_PER_INSTANCE, _SHARE_OF_EPOCHS = 4e-3, 5e-7, 0.4
_WORTHWHILE = 20.0
_PROCESS_BYTES = 700 * 2**20  # of a process without embeddings


def process_count(how: RunConfig, workspace: Workspace, searches: int) -> int:
    """Return how many processes run so many searches at once; 1 is this process only.

    how: its `workers`, where they are given, are the processes; at most one is used for each search, unless
        processes share the trials of all searches on a shared storage

    On processors there are as many as the cores allow with the study's threads, and as memory allows; on CUDA
    devices, one for each device that may be used.
    """
    if how.storage is not None:
        return how.workers or 1
    most = max(1, searches)
    if how.workers is not None:
        return min(how.workers, most)
    if _expected_seconds(workspace, searches) < _WORTHWHILE:
        return 1
    if workspace.device.type == "cuda":
        return min(_devices(workspace.device), most)
    cores = available_cores() // workspace.config.threads
    memory = available_memory() // _bytes_of_search(workspace)
    return max(1, min(cores, memory, most))


def _expected_seconds(workspace: Workspace, searches: int) -> float:
    config, patients = workspace.config, workspace.patients
    instances = len(patients) if patients.bags is None else int(patients.bags.offsets[-1])
    epoch = _EPOCH + _EPOCH_PER_INSTANCE * config.folds * instances
    return searches * config.trials * _SHARE_OF_EPOCHS * max(config.epochs) * epoch


def _devices(device: torch.device) -> int:
    """Return the CUDA devices for workers: one that was chosen by its number is the only one."""
    return torch.cuda.device_count() if device.index == 0 else 1


def _bytes_of_search(workspace: Workspace) -> int:
    """Return an upper bound of the memory of a process that runs a search.

    It has two copies of its patients' embeddings, for the inner folds and for the refit, and projections of
    them for every fold: with and without standardisation, and those of the latest trial. Bags that are read
    from the cache when they are needed take no memory.
    """
    bags = workspace.patients.bags
    if type(bags) is not Bags:
        return _PROCESS_BYTES
    width = workspace.dtype.itemsize * min(MOST_COMPONENTS, bags.instances.shape[1])
    return (
        _PROCESS_BYTES + 2 * bags.instances.nbytes + 3 * workspace.config.folds * len(bags.instances) * width
    )

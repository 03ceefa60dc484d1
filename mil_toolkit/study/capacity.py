"""`process_count`: how many searches of a study run at once."""

import torch

from mil_toolkit.config.head import BY_GROUP
from mil_toolkit.config.run import RunConfig
from mil_toolkit.core.cores import available_cores
from mil_toolkit.core.memory import available_memory
from mil_toolkit.features.bags import Bags, is_streamed
from mil_toolkit.study.workspace import Workspace
from mil_toolkit.training.projection import MOST_COMPONENTS
from mil_toolkit.training.seen import Seen

# A rough model of the processor time of an epoch, in seconds. A study of less than _WORTHWHILE seconds runs
# in one process, because others would take as long to start.
_EPOCH, _EPOCH_PER_INSTANCE, _SHARE_OF_EPOCHS = 4e-3, 5e-7, 0.4
_WORTHWHILE = 20.0
# Rough bytes of a process without data, for each patient, and for each image in an epoch, with what each
# member draws for it.
_PROCESS_BYTES, _PATIENT_BYTES, _IMAGE_BYTES, _DRAWN_BYTES = 700 * 2**20, 100_000, 32, 1


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
        return min(_devices(workspace), most)
    cores = available_cores() // workspace.config.threads
    memory = available_memory() // _bytes_of_search(workspace)
    return max(1, min(cores, memory, most))


def _expected_seconds(workspace: Workspace, searches: int) -> float:
    config, patients = workspace.config, workspace.patients
    instances = len(patients) if patients.bags is None else int(patients.bags.offsets[-1])
    epoch = _EPOCH + _EPOCH_PER_INSTANCE * config.folds * instances
    return searches * config.trials * _SHARE_OF_EPOCHS * max(config.epochs) * epoch


def _devices(workspace: Workspace) -> int:
    """Return the number of CUDA devices for workers: one that was chosen by its number is the only one."""
    return 1 if workspace.numbered else torch.cuda.device_count()


def _bytes_of_search(workspace: Workspace) -> int:
    """Return a rough upper bound of the memory of a process that runs a search.

    It has two copies of its patients' embeddings, for the inner folds and for the refit, and projections of
    them for every fold: with and without standardisation, within groups where the study has that, and those
    of the latest trial. Bags that are read from the cache when they are needed, and their projections in a
    file, count as little. Of several views, the embeddings of one at a time are in memory, and the
    projections of all.
    """
    config, views = workspace.config, [*workspace.patients.views.values()]
    least = _PROCESS_BYTES + len(workspace.patients) * _PATIENT_BYTES
    if not views:
        return least
    images = int(views[0].offsets[-1])
    least += images * (_IMAGE_BYTES + _DRAWN_BYTES * config.folds * config.members)
    loaded = [bags for bags in views if _is_loaded(bags, alone=len(views) == 1)]
    embeddings = max((_bytes_of(bags) for bags in loaded), default=0)
    columns = sum(min(MOST_COMPONENTS, bags.width) * Seen(bags, bags.orientations).slots for bags in loaded)
    kinds = 4 if BY_GROUP in config.settings.get("standardise", ()) else 3
    return least + 2 * embeddings + kinds * config.folds * images * workspace.dtype.itemsize * columns


def _is_loaded(bags: Bags, alone: bool) -> bool:
    """Return whether a view's embeddings are in memory, all or while they are projected; see `ViewInputs`."""
    return type(bags) is Bags or not (alone or is_streamed(bags.embedding_count, bags.width))


def _bytes_of(bags: Bags) -> int:
    """Return the memory of a view's embeddings, which are float16 in a cache."""
    return bags.instances.nbytes if type(bags) is Bags else 2 * int(bags.offsets[-1]) * bags.width

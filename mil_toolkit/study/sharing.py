"""`SharedPatients`: patients whose embeddings several processes map instead of copying."""

import contextlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mil_toolkit.core.processes import anonymous_file
from mil_toolkit.core.system import POSIX
from mil_toolkit.features.bags import Bags
from mil_toolkit.training.patients import Patients


@dataclass(frozen=True)
class SharedPatients:
    """Patients for worker processes: pickled without their embeddings, which every process maps.

    patients: without instances, if these are in memory
    shape, dtype: of the instances, which fill a file in memory; None where there is nothing to map
    """

    patients: Patients
    shape: torch.Size | None = None
    dtype: torch.dtype = torch.float16

    def map(self, descriptor: int | None = None) -> Patients:
        """Return the patients; descriptor: of the file with their instances."""
        bags = self.patients.bags
        if bags is None or self.shape is None or descriptor is None:
            return self.patients
        instances = _mapped(descriptor, self.shape, self.dtype)
        return replace(self.patients, bags=replace(bags, instances=instances))


@contextlib.contextmanager
def shared_patients(patients: Patients) -> Iterator[tuple[SharedPatients, list[int]]]:
    """Copy the embeddings to a file in memory; yields what workers need: the patients and its descriptor.

    The file has no name: it needs no space in /dev/shm, which is small in containers, and vanishes with the
    last process that has it open, however that process ends. Bags that read their embeddings from a cache
    when they need them are pickled as they are. On Windows, every worker gets a copy of the embeddings.
    """
    bags = patients.bags
    if type(bags) is not Bags or not bags.instances.numel() or not POSIX:
        yield SharedPatients(patients), []
        return
    descriptor = anonymous_file("mil_toolkit embeddings")
    try:
        os.ftruncate(descriptor, bags.instances.nbytes)
        shape, dtype = bags.instances.shape, bags.instances.dtype
        _mapped(descriptor, shape, dtype, mmap.ACCESS_WRITE).copy_(bags.instances)
        none = bags.instances.new_empty(0, bags.instances.shape[1])  # a view would be pickled as a whole
        bare = replace(patients, bags=replace(bags, instances=none))
        yield SharedPatients(bare, shape, dtype), [descriptor]
    finally:
        os.close(descriptor)


def _mapped(descriptor: int, shape: torch.Size, dtype: torch.dtype, access: int = mmap.ACCESS_COPY) -> Tensor:
    """Map a tensor from a file; by default changes stay in this process (torch takes no read-only memory)."""
    mapping = mmap.mmap(descriptor, shape.numel() * dtype.itemsize, access=access)
    return torch.frombuffer(mapping, dtype=dtype).view(shape)

"""A fixed number of threads for all numerical libraries: results depend on it to the last bit."""

import contextlib
from collections.abc import Iterator

import torch
from threadpoolctl import threadpool_limits

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextlib.contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Let torch, BLAS, LAPACK and OpenMP use `count` threads within the block, whatever the environment says.

    Libraries that are loaded within the block follow the environment; workers get `thread_variables`. torch
    is set apart from the others, because threadpoolctl does not see the MKL that is linked into it.
    """
    before = torch.get_num_threads()
    with threadpool_limits(count):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def thread_variables(count: int) -> dict[str, str]:
    """Return the environment of a process whose libraries start with `count` threads."""
    return dict.fromkeys(VARIABLES, str(count))

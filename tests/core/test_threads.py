"""A fixed number of threads in torch, BLAS and OpenMP."""

import pytest
import scipy.linalg
import torch
from threadpoolctl import threadpool_info

from mil_toolkit.core.threads import fixed_threads, thread_variables


def threads() -> set[int]:
    """Return the numbers of threads of all libraries that are loaded."""
    return {torch.get_num_threads(), *(library["num_threads"] for library in threadpool_info())}


@pytest.mark.parametrize("count", [1, 2])
def test_all_libraries_have_the_same_number_of_threads(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert scipy.linalg.det([[1.0]]) == 1  # its BLAS is loaded
    torch.set_num_threads(3)
    with fixed_threads(count):
        assert threads() == {count}
        assert f"mkl_get_max_threads() : {count}" in torch.__config__.parallel_info() or (
            "mkl_get_max_threads" not in torch.__config__.parallel_info()
        )
        with fixed_threads(3 - count):
            assert threads() == {3 - count}
        assert threads() == {count}
    assert torch.get_num_threads() == 3


def test_an_error_restores_the_threads() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="stop"), fixed_threads(before + 1):
        raise ValueError("stop")
    assert torch.get_num_threads() == before


def test_the_variables_of_a_process_name_every_library() -> None:
    assert thread_variables(2) == {
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
    }

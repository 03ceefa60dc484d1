"""A network that is captured once, with a stand-in for CUDA's graphs that repeats the captured calls."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mil_toolkit.features.cuda_graph import captured

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SHAPE = (2, 4, 4, 3)


class _Stream:
    def __init__(self, *_: object) -> None:
        pass

    def wait_stream(self, other: object) -> None:
        pass


class _Graph:
    """Repeats what was called while it was captured, into the same tensors."""

    replay: Callable[[], object]


@pytest.fixture(name="graphs")
def _graphs(monkeypatch: pytest.MonkeyPatch) -> list[_Graph]:
    """Let the CPU take the place of a card; returns the graphs that are being captured."""
    capturing: list[_Graph] = []

    @contextlib.contextmanager
    def capture(graph: _Graph) -> Iterator[None]:
        capturing.append(graph)
        yield
        capturing.remove(graph)

    zeros = torch.zeros
    for name, replacement in {
        "CUDAGraph": _Graph,
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": lambda _: contextlib.nullcontext(),
        "device": lambda _: contextlib.nullcontext(),
        "graph": capture,
    }.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setattr(torch, "zeros", lambda *shape, dtype, device: zeros(*shape, dtype=dtype))
    return capturing


def test_a_captured_network_reads_each_batch_and_is_not_called_again(graphs: list[_Graph]) -> None:
    calls: list[Tensor] = []

    def network(pixels: Tensor) -> Tensor:
        calls.append(pixels)
        output = pixels.float().sum((1, 2, 3))
        for graph in graphs:
            graph.replay = lambda: output.copy_(pixels.float().sum((1, 2, 3)))
        return output

    graph = captured(network, SHAPE, CUDA)
    count = len(calls)
    assert count > 1 and all(pixels is calls[0] for pixels in calls)
    with torch.inference_mode():
        for value in (1, 2, 7):
            assert graph(torch.full(SHAPE, value, dtype=torch.uint8)).tolist() == [48 * value] * 2
    assert len(calls) == count


def test_a_network_that_cannot_be_captured_is_called_as_it_is(
    graphs: list[_Graph], caplog: pytest.LogCaptureFixture
) -> None:
    def network(pixels: Tensor) -> Tensor:
        if graphs:
            raise RuntimeError("operation not permitted when stream is capturing")
        return pixels

    with caplog.at_level("INFO", "mil_toolkit"):
        assert captured(network, SHAPE, CUDA) is network
    assert "not permitted when stream is capturing" in caplog.text


@pytest.mark.usefixtures("graphs")
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_missing_memory_is_an_error_of_its_own(error: RuntimeError) -> None:
    def network(_: Tensor) -> Tensor:
        raise error

    with pytest.raises(type(error), match=r"CUDA"):
        captured(network, SHAPE, CUDA)


def test_the_processor_has_no_graphs() -> None:
    assert captured(torch.relu, SHAPE, CPU) is torch.relu

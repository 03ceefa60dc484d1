"""Training by CUDA graphs, with a stand-in that repeats the captured computation on the CPU."""

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.training.graphs import Compute, Graphs
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.joint import JointPopulation, JointTrial
from mil_toolkit.training.packing import bucket
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import trial_members

MakePatients = Callable[..., Patients]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
TRAINS = [np.arange(0, 16), np.arange(4, 20)]


class _Graph:
    """Runs the captured computation again, into the tensor that it returned while it was captured."""

    replay: Callable[[], object]


@pytest.fixture(name="captured")
def _captured(monkeypatch: pytest.MonkeyPatch) -> list[_Graph]:
    """Let the CPU take the place of a card; returns all graphs, and `capturing` holds the current one."""
    graphs: list[_Graph] = []

    @contextlib.contextmanager
    def capture(graph: _Graph) -> Iterator[None]:
        graphs.append(graph)
        yield
        assert hasattr(graph, "replay")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    return graphs


def recorded(compute: Compute, graphs: Sequence[_Graph], members: int) -> Compute:
    """Return a computation that, as on a card, does nothing while it is captured but can be replayed."""

    def run(tensors: Sequence[Tensor]) -> Tensor:
        if not graphs or hasattr(graphs[-1], "replay"):
            return compute(tensors)
        patients = tensors[4].shape[1] if tensors else 20  # of the labels, or all in a prediction
        output = torch.full((members, patients), torch.nan)
        graphs[-1].replay = lambda: output.copy_(compute(tensors))
        return output

    return run


class RecordedGraphs(Graphs):
    """Graphs that are captured by the stand-in; keys: of all computations."""

    def __init__(self, graphs: Sequence[_Graph], members: int = 4):
        super().__init__(CUDA)
        self.graphs, self.members, self.keys = graphs, members, list[Hashable]()

    def run(self, key: Hashable, compute: Compute, tensors: Sequence[Tensor]) -> Tensor:
        self.keys.append(key)
        return super().run(key, recorded(compute, self.graphs, self.members), tensors)


def population(make_patients: MakePatients, **changes: object) -> JointPopulation:
    config = HeadConfig(hidden=8, batch_size=8, components=4, metadata_branch="mlp", **changes)  # type: ignore[arg-type]
    inputs = Inputs(make_patients(20), TRAINS)
    members = [trial_members(inputs, (0, number)) for number in range(2)]
    return JointPopulation(inputs, [JointTrial(inputs, config, each, each[0].seed) for each in members])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_graphs_give_the_bits_of_steps_run_one_by_one(
    optimizer: str, make_patients: MakePatients, captured: list[_Graph]
) -> None:
    """A shape is run as it is the first time, captured the second time, and then only replayed."""
    one, other = (population(make_patients, optimizer=optimizer) for _ in range(2))
    other._graphs = graphs = RecordedGraphs(captured)
    for expected, logits in zip(one.epochs(4), other.epochs(4), strict=True):
        assert torch.equal(expected, logits)
    counts = {key: graphs.keys.count(key) for key in graphs.keys}
    assert sum(counts.values()) == 4 * (3 + 1)  # three mini-batches and the prediction
    assert len(captured) == sum(count > 1 for count in counts.values())
    assert len(counts) == 3  # mini-batches of 8 and of 4 patients, and the prediction


def test_a_smaller_population_is_captured_anew(make_patients: MakePatients, captured: list[_Graph]) -> None:
    one, other = (population(make_patients) for _ in range(2))
    for each in (one, other):
        each._graphs = each._graphs if each is one else RecordedGraphs(captured)
        list(each.epochs(2))
        each.keep(each.trials[:1])
    count = len(captured)
    other._graphs = RecordedGraphs(captured, 2)
    for expected, logits in zip(one.epochs(2), other.epochs(2), strict=True):
        assert torch.equal(expected, logits)
    assert len(captured) > count


def test_every_call_reads_its_own_tensors_and_earlier_results_stay(captured: list[_Graph]) -> None:
    graphs, results = Graphs(CUDA), []

    def double(tensors: Sequence[Tensor]) -> Tensor:
        output = 2 * tensors[0]
        if captured and not hasattr(captured[-1], "replay"):
            captured[-1].replay = lambda: output.copy_(2 * tensors[0])
        return output

    for value in range(5):
        results.append(graphs.run("key", double, [torch.full((3,), float(value))]))
    assert [result.tolist() for result in results] == [[2.0 * value] * 3 for value in range(5)]
    assert len(captured) == 1


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_other_devices_have_no_graphs(device: str, captured: list[_Graph]) -> None:
    graphs, calls = Graphs(torch.device(device)), []
    for _ in range(3):
        graphs.run("key", lambda tensors: calls.append(1) or tensors[0], [torch.ones(1)])
    assert len(calls) == 3 and not captured


def test_the_numbers_of_rows_are_few() -> None:
    """A mini-batch has one of them, and less than half of its rows are padding."""
    sizes = sorted({bucket(rows) for rows in range(1, 5000)})
    assert sizes == [128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144]
    for rows in range(129, 5000):
        assert rows <= bucket(rows) < 2 * rows

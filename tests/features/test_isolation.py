"""Functions that crash, loop or ask for memory in a process of their own."""

import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.stored_bags import write_trident

from mil_toolkit.core.errors import DataError
from mil_toolkit.features import foreign_hdf5
from mil_toolkit.features.imports import import_features
from mil_toolkit.features.isolation import IsolatedError, IsolatedProcess, Limits, run_isolated
from mil_toolkit.features.layouts import Source

LIMITS = Limits(64 * 2**20, 1)


def _crash() -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def _exit() -> bytes:
    os._exit(0)


def _loop() -> bytes:
    while True:
        pass


def _fail() -> bytes:
    raise KeyError("embeddings")


def _refuse() -> bytes:
    raise DataError(["one", "two"])


def test_the_result_is_returned() -> None:
    for result in (b"", b"\0\1", bytes(10**6)):
        assert run_isolated(partial(bytes, result), LIMITS) == result


def test_crashes_and_errors_and_loops_are_reported() -> None:
    for function, reason in (
        (_crash, "makes the library that reads it crash"),
        (_exit, "makes the library that reads it crash"),
        (_loop, "takes more than 1 seconds"),
        (_fail, "^'embeddings'$"),
        (_refuse, "^one\ntwo$"),
        (partial(bytes, 2**32), "needs more than 64 MiB of memory"),
    ):
        with pytest.raises(IsolatedError, match=reason):
            run_isolated(function, LIMITS)


def children() -> list[str]:
    """Return the ids of this thread's child processes; other tests may have left some of them."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_no_process_is_left() -> None:
    before = children()
    with pytest.raises(IsolatedError):
        run_isolated(_crash, LIMITS)
    run_isolated(bytes, LIMITS)
    assert children() == before


def _process_id() -> bytes:
    return str(os.getpid()).encode()


def _allocate() -> bytes:
    """Use more than half of the memory of the limits."""
    return bytes(40 * 2**20)


def _dies_second(file: Path, number: signal.Signals) -> bytes:
    """Die unless this is the first function of its process."""
    if file.exists() and file.read_bytes() == _process_id():
        os.kill(os.getpid(), number)
    file.write_bytes(_process_id())
    return b"done"


def test_one_process_serves_many_functions() -> None:
    """And each has limits of its own, which do not count what functions before it used."""
    with IsolatedProcess() as process:
        assert len({process.call(_process_id, LIMITS) for _ in range(20)} - {_process_id()}) == 1
        first = process.call(_process_id, LIMITS)
        kept = [process.call(_allocate, LIMITS) for _ in range(5)]
        assert sum(map(len, kept)) > LIMITS.memory and process.call(_process_id, LIMITS) == first
        assert process.call(_a_second, Limits(LIMITS.memory, 3)) == first
        assert float(process.call(_seconds_left, LIMITS)) > LIMITS.seconds - 0.1


def _seconds_used() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _a_second() -> bytes:
    """Use a core for a second."""
    begin = _seconds_used()
    while _seconds_used() < begin + 1:
        pass
    return _process_id()


def _seconds_left() -> bytes:
    return str(resource.getrlimit(resource.RLIMIT_CPU)[0] - _seconds_used()).encode()


@pytest.mark.parametrize("fault", [_crash, _exit, _fail, partial(bytes, 2**32)])
def test_a_process_is_replaced_after_a_function_without_a_result(fault: Callable[[], bytes]) -> None:
    before = children()
    with IsolatedProcess() as process:
        first = process.call(_process_id, LIMITS)
        for _ in range(2):
            with pytest.raises(IsolatedError):
                process.call(fault, LIMITS)
        assert process.call(_process_id, LIMITS) != first
    assert children() == before


def test_a_process_that_was_killed_between_two_functions_is_replaced() -> None:
    with IsolatedProcess() as process:
        first = process.call(_process_id, LIMITS)
        os.kill(int(first), signal.SIGKILL)
        assert process.call(_process_id, LIMITS) != first


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU])
def test_a_function_is_not_blamed_for_what_an_earlier_one_left_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    with IsolatedProcess() as process:
        for _ in range(5):
            assert process.call(partial(_dies_second, tmp_path / "x", number), LIMITS) == b"done"


def test_a_process_ends_with_the_block_whatever_happens_in_it() -> None:
    before = children()
    with pytest.raises(KeyboardInterrupt), IsolatedProcess() as process:
        process.call(_process_id, LIMITS)
        raise KeyboardInterrupt
    assert children() == before


def _deadly(read: Callable[[h5py.File, Source], object], file: h5py.File, layout: Source) -> object:
    """Read a file as usual, and do what its encoder says."""
    fault = file["features"].attrs["encoder"]
    if fault in FAULTS:
        FAULTS[fault]()
    return read(file, layout)


FAULTS: dict[str, Callable[[], object]] = {
    "crash": _crash,
    "loop": lambda: os.kill(os.getpid(), signal.SIGXCPU),
    "memory": lambda: bytes(2**40),
}


def test_an_import_uses_one_process_and_names_the_files_that_kill_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process is added only for those files."""
    started = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: started.append(1) or fork())
    monkeypatch.setattr(foreign_hdf5, "_read_features", partial(_deadly, foreign_hdf5._read_features))
    for number in range(12):
        write_trident(tmp_path / f"f/good{number}.h5", np.full((2, 3), number, np.float32))
    cache = import_features(tmp_path / "f", "trident", tmp_path / "cache", "c")
    assert len(cache.patient_ids) == 12 and len(started) == 1
    for name in FAULTS:
        write_trident(tmp_path / f"f/good5{name}.h5", np.ones((2, 3), np.float32), encoder=name)
    with pytest.raises(DataError) as caught:
        import_features(tmp_path / "f", "trident", tmp_path / "cache", "c")
    assert [line.removeprefix(f"{tmp_path}/f/") for line in caught.value.problems] == [
        "good5crash.h5 cannot be read: its structure is broken, and makes the library that reads it crash.",
        "good5loop.h5 cannot be read: it takes more than 3 seconds to read.",
        "good5memory.h5 cannot be read: it needs more than 512 MiB of memory.",
    ]
    assert len(started) < 12

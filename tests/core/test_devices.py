"""The choice of device, precision and threads, on simulated hardware."""

import logging
import re
from collections.abc import Iterator

import pytest
import torch
from support.paths import ROOT

from mil_toolkit.config.extraction import PRECISION_NAMES
from mil_toolkit.core import devices
from mil_toolkit.core.devices import DTYPES, pick_device, pick_precision
from mil_toolkit.core.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore the flags of torch that `compute_exactly` sets."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = flags()
    yield
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark, cudnn.deterministic = before[:4]
    matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction = before[4:]


def flags() -> tuple[bool, ...]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return (
        cudnn.allow_tf32,
        matmul.allow_tf32,
        cudnn.benchmark,
        cudnn.deterministic,
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction,
    )


@pytest.fixture
def two_cuda_devices(monkeypatch: pytest.MonkeyPatch, exact: None) -> pytest.MonkeyPatch:
    """A machine with two CUDA devices, a Turing and an Ampere card, outside torchrun and Slurm."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    capabilities = [(7, 5), (8, 6)]
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: capabilities[torch.device(device).index]
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {torch.device(device).index}")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    for variable in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


def test_auto_picks_cuda_if_it_is_available(two_cuda_devices: pytest.MonkeyPatch) -> None:
    """And the CPU otherwise."""
    assert pick_device("auto") == torch.device("cuda", 0)
    assert pick_device("cpu") == CPU
    two_cuda_devices.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU


def test_local_rank_selects_the_cuda_device_unless_an_index_is_given(
    two_cuda_devices: pytest.MonkeyPatch,
) -> None:
    """Each process of torchrun gets a device of its own."""
    two_cuda_devices.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cuda:0") == torch.device("cuda", 0)


def test_tasks_of_srun_that_see_all_devices_use_one_each(two_cuda_devices: pytest.MonkeyPatch) -> None:
    two_cuda_devices.setenv("SLURM_LOCALID", "1")
    assert pick_device("auto") == torch.device("cuda", 1)
    two_cuda_devices.setenv("LOCAL_RANK", "0")  # torchrun within a task of srun
    assert pick_device("auto") == torch.device("cuda", 0)


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_a_process_that_sees_one_device_uses_it_and_says_so_once(
    two_cuda_devices: pytest.MonkeyPatch, variable: str, caplog: pytest.LogCaptureFixture
) -> None:
    devices._log_only_device.cache_clear()
    two_cuda_devices.setattr(torch.cuda, "device_count", lambda: 1)
    two_cuda_devices.setenv(variable, "3")
    with caplog.at_level(logging.INFO, "mil_toolkit"):
        assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 0)
    assert [record.getMessage()[: len(variable) + 5] for record in caplog.records] == [f"{variable} is 3"]


def test_more_processes_than_devices_are_refused_by_the_variable(
    two_cuda_devices: pytest.MonkeyPatch,
) -> None:
    two_cuda_devices.setenv("LOCAL_RANK", "3")
    with pytest.raises(UsageError, match=r"LOCAL_RANK is 3, .* 2 are usable\. Start at most 2 processes"):
        pick_device("auto")
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    two_cuda_devices.setenv("LOCAL_RANK", "first")
    with pytest.raises(UsageError, match="LOCAL_RANK is 'first'"):
        pick_device("auto")
    two_cuda_devices.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0"])
def test_a_device_without_kernels_is_refused_by_its_name(
    two_cuda_devices: pytest.MonkeyPatch, name: str
) -> None:
    """Also by `auto`: the CPU is not a silent substitute."""
    two_cuda_devices.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    with pytest.raises(
        UsageError, match=r"CUDA device 0 \(Card 0\) .* 7\.5, .* sm_80, sm_90\. Install"
    ) as error:
        pick_device(name)
    assert "--device cpu" in str(error.value)
    assert pick_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("capability", "kernels", "expected"),
    [
        ((7, 5), ["sm_75", "sm_80"], True),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((6, 1), ["compute_70"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), ["sm_120"], True),
        ((12, 0), ["sm_100", "sm_120a"], True),
        ((12, 1), ["sm_120a"], False),
        ((9, 0), ["gfx90a"], True),
        ((9, 0), [], True),
    ],
)
def test_kernels_run_on_later_minor_versions_and_ptx_on_all_later_ones(
    capability: tuple[int, int], kernels: list[str], expected: bool
) -> None:
    assert devices.has_kernels(capability, kernels) is expected


def test_picking_a_cuda_device_turns_inexact_and_random_kernels_off(
    two_cuda_devices: pytest.MonkeyPatch,
) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    pick_device("cpu")
    assert torch.backends.cudnn.allow_tf32
    pick_device("auto")
    assert flags() == (False, False, False, True, False, False)
    assert devices.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_the_flags_of_cuda_are_set_in_one_place() -> None:
    pattern = re.compile(r"allow_tf32|reduced_precision_reduction|cudnn\.(benchmark|deterministic)|CUBLAS")
    places = [path for path in (ROOT / "mil_toolkit").rglob("*.py") if pattern.search(path.read_text())]
    assert [path.name for path in places] == ["devices.py"]


def test_the_architecture_is_that_of_the_device(two_cuda_devices: pytest.MonkeyPatch) -> None:
    assert devices.architecture(CPU) == ""
    assert [devices.architecture(torch.device("cuda", i)) for i in (0, 1)] == ["sm_75", "sm_86"]


def test_a_missing_cuda_device_is_refused(two_cuda_devices: pytest.MonkeyPatch) -> None:
    """There is no silent fallback to the CPU."""
    with pytest.raises(UsageError, match=r"CUDA device 2 was requested, but 2 are usable"):
        pick_device("cuda:2")
    two_cuda_devices.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"CUDA device 0 was requested, but 0 are usable"):
        pick_device("cuda")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "cuda:1 ", "mps"])
def test_unknown_devices_are_refused(name: str) -> None:
    """The message lists the known names."""
    with pytest.raises(UsageError, match="not one of auto, cpu, cuda, cuda:i"):
        pick_device(name)


def test_mps_is_for_extraction_and_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test runs on it."""
    for name in ("mps", "mps:0"):
        with pytest.raises(UsageError, match="mps is for mil-extract"):
            pick_device(name)
    with pytest.raises(UsageError, match="has no MPS"):
        devices.pick_extraction_device("mps")
    assert devices.pick_extraction_device("cpu") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    place = devices.pick_extraction_device("mps")
    assert place.type == "mps" and devices.architecture(place) == "mps"


@pytest.mark.parametrize(
    ("name", "advice"),
    [("gpu", ""), ("mps:0", " Use mps, without a number."), ("xpu", " Accelerators of the kind xpu are")],
)
def test_the_devices_of_an_extraction_are_listed(name: str, advice: str) -> None:
    with pytest.raises(
        UsageError, match=rf"^--device '{name}' is not one of .*, cuda:i, mps\.{advice}"
    ) as error:
        devices.pick_extraction_device(name)
    assert advice or str(error.value).endswith("mps.")


def test_mps_computes_in_float32_only() -> None:
    place = torch.device("mps")
    assert pick_precision("auto", place) == pick_precision("float32", place) == "float32"
    with pytest.raises(UsageError, match="networks run in float32 on mps"):
        pick_precision("float16", place)


@pytest.mark.parametrize("name", ["xpu", "xpu:0"])
def test_accelerators_of_other_kinds_are_refused_with_advice(name: str) -> None:
    with pytest.raises(UsageError, match=f"kind {name[:3]} are not supported: use cpu"):
        pick_device(name)


@pytest.mark.parametrize(
    ("vector", "tile", "expected"),
    [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")],
)
def test_cpu_precision_depends_on_the_instruction_set(
    monkeypatch: pytest.MonkeyPatch, vector: bool, tile: bool, expected: str
) -> None:
    """Emulated bfloat16 is never chosen."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vector)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tile)
    assert pick_precision("auto", CPU) == expected


def test_cuda_precision_is_bfloat16_only_if_native(two_cuda_devices: pytest.MonkeyPatch) -> None:
    """A T4, which emulates it, gets float16; the device in question decides, not the current one."""
    assert pick_precision("auto", CUDA) == "float16"
    assert pick_precision("auto", torch.device("cuda", 1)) == "bfloat16"
    assert devices.training_dtype(CUDA) == torch.float32
    assert devices.training_dtype(torch.device("cuda", 1)) == torch.bfloat16


def test_a_named_precision_is_kept() -> None:
    """The names are the choices of the command's option."""
    assert [pick_precision(name, CPU) for name in DTYPES] == list(DTYPES)
    assert {"auto", *DTYPES} == set(PRECISION_NAMES)
    with pytest.raises(UsageError, match="'double' is not one of auto, float32"):
        pick_precision("double", CPU)


def test_threads_follow_the_cores_unless_omp_num_threads_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun sets OMP_NUM_THREADS."""
    requested: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", requested.append)
    monkeypatch.setattr(devices, "available_cores", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    devices.use_available_cores()
    monkeypatch.delenv("OMP_NUM_THREADS")
    devices.use_available_cores()
    assert requested == [7]

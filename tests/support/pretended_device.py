"""A pretended device: tensors on the CPU that, as on a card, may not be mixed with those of the CPU.

Used in a process of its own, since a backend cannot be unregistered. It rests on private parts of torch, all
of which are here.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "pretended"
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class MixedDevices(AssertionError):
    """An operation got tensors of the pretended device and others, which a card would refuse."""


class PretendedTensor(Tensor):
    """A tensor on the pretended device; host: its values, on the CPU."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> Self:
        layout = {"strides": host.stride(), "storage_offset": host.storage_offset()}
        made: Self = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, host.shape, dtype=host.dtype, device=f"{NAME}:0", **layout
        )
        made.host = host
        return made

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        assert isinstance(other, PretendedTensor)
        self.host = other.host
        torch._C.TensorBase.data.__set__(self, other)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> "PretendedTensor":
        copied = PretendedTensor(self.host.clone())
        copied.requires_grad_(self.requires_grad)
        copied._is_param = getattr(self, "_is_param", False)  # type: ignore[attr-defined]
        memo[id(self)] = copied
        return copied

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        to = torch.device(kwargs.get("device") or NAME)
        values, structure = tree_flatten((args, kwargs))
        if func not in _COPIES:
            check_devices(func, values)
        elif func is _COPIES[0] and not isinstance(args[0], PretendedTensor):
            return args[0].copy_(args[1].host)
        host_args, host_kwargs = tree_unflatten(map(_on_host, values), structure)
        result = func(*host_args, **host_kwargs)
        if to.type == "cpu":
            return result
        wrapped = PretendedTensor(result) if isinstance(result, Tensor) else tree_map(_on_device, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


def check_devices(func: object, values: Sequence[object]) -> None:
    """Raise MixedDevices for tensors of the CPU, which only as numbers may meet those of a card."""
    for value in values:
        if isinstance(value, Tensor) and not isinstance(value, PretendedTensor) and value.ndim:
            raise MixedDevices(f"{func} got a tensor {tuple(value.shape)} on {value.device}")


def _on_host(value: Any) -> Any:
    if isinstance(value, PretendedTensor):
        return value.host
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _on_device(value: Any) -> Any:
    return PretendedTensor(value) if isinstance(value, Tensor) else value


class _Module(_DummyBackendModule):
    """What torch asks of the module of a backend."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> torch.device:
    """Add the pretended device to torch, for the rest of the process; call it before the package is imported.

    Its tensors cannot be views in inference mode, which becomes `no_grad`.
    """
    torch.inference_mode = torch.no_grad  # type: ignore[assignment,misc]
    _setup_privateuseone_for_python_backend(NAME, _Module())
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")  # of torch.tensor
    _kept.append(library)
    return torch.device(NAME, 0)


_kept: list[torch.library.Library] = []  # an implementation goes with its library


def _empty(
    size: Sequence[int], *, dtype: torch.dtype | None = None, memory_format: Any = None, **_: Any
) -> Any:
    options = {} if memory_format is None else {"memory_format": memory_format}
    return PretendedTensor(torch.empty(size, dtype=dtype, **options))


def _empty_strided(
    size: Sequence[int], stride: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any
) -> Any:
    return PretendedTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: PretendedTensor, non_blocking: bool = False) -> Tensor:
    return target.host.copy_(source)

"""Fitted heads as named tensors, and back: what a file declares is compared with what it holds."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mil_toolkit.bundle.records import HeadRecord
from mil_toolkit.config.head import HeadConfig, view_names
from mil_toolkit.config.tunable import tunables
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.text import printable, some
from mil_toolkit.model.head import MILModel
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import generators
from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.fitted import FittedHead
from mil_toolkit.training.projection import Projection

Shapes = dict[str, tuple[int, ...]]
_MODEL, _PROJECTION, _DOMAIN = "model.", "projection.", "domain."  # prefixes of the tensors' names
_SHIFT, _SCALE, _COMPONENTS = (f"{_PROJECTION}{field.name}" for field in fields(Projection))
_SMALL = 512  # widths of layers, with which one member has at most some MiB
_LARGEST = 2**31  # of a number in the configuration of a head
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_WHOLE = (torch.int64, torch.int32, torch.uint8, torch.bool)  # counters and masks of backbones


class UnknownHead(ValueError):
    """The configuration of a head that this version does not know, or that no version can build."""


def head_record(head: FittedHead) -> HeadRecord:
    """Return how to build the heads before their tensors are loaded."""
    width = 0 if head.projection is None else head.projection.width
    widths = list(head.model.view_widths) if len(head.model.view_widths) > 1 else None
    encoder = dict(head.encoder.to_json())
    outputs = head.model.outputs if head.model.outputs > 1 else None
    return HeadRecord(asdict(head.model.config), head.member_count, width, encoder, widths, outputs)


def head_tensors(head: FittedHead) -> dict[str, Tensor]:
    """Return the tensors of the heads and of their projection, by name."""
    tensors = {f"{_MODEL}{name}": tensor for name, tensor in head.model.state_dict().items()}
    if head.projection is not None:
        parts = asdict(head.projection)
        tensors |= {f"{_PROJECTION}{name}": tensor for name, tensor in parts.items() if tensor is not None}
    return {name: tensor.contiguous().detach().clone().cpu() for name, tensor in tensors.items()}


def domain_tensors(projection: Projection | None) -> dict[str, Tensor]:
    """Return the tensors of the projection in which embeddings are compared, by name."""
    if projection is None:
        return {}
    parts = {"shift": projection.shift, "scale": projection.scale, "components": projection.components}
    return {f"{_DOMAIN}{name}": tensor.contiguous() for name, tensor in parts.items() if tensor is not None}


def take_domain_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the tensors of the domain's projection from those of a file, and return them."""
    return {name: tensors.pop(name) for name in list(tensors) if name.startswith(_DOMAIN)}


def build_domain_projection(
    own: dict[str, Tensor], width: int, columns: int, path: Path
) -> Projection | None:
    """Return the domain's projection from its tensors in the file `path`.

    width: of the embeddings of all views; columns: of the projection, 0 if there is none

    Raises DataError for tensors that are missing, unexpected or of other shapes or types.
    """
    shapes: Shapes = {"shift": (width,), "scale": (width,), "components": (width, columns)}
    expected = {f"{_DOMAIN}{name}": shape for name, shape in shapes.items()} if columns else {}
    if problems := list(_shape_problems(own, expected)):
        raise DataError([f"{printable(path)}: {problem}" for problem in problems])
    return Projection(**_with_prefix(own, _DOMAIN)) if own else None


def parse_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises DataError for other content, and for tensors that are not numbers or not finite.
    """
    try:
        tensors = load(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = printable(" ".join(str(error).split())[:200]).rstrip(".")
        raise DataError(f"{printable(path)} is not a safetensors file: {reason}.") from None
    if problems := list(_value_problems(tensors)):
        raise DataError([f"{printable(path)}: {problem}" for problem in problems])
    return tensors


def _value_problems(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    odd = [name for name, tensor in tensors.items() if tensor.dtype not in _FLOATS + _WHOLE]
    if odd:
        yield f"{_names(odd)}: expected real numbers, got {_type(tensors[odd[0]])}."
    infinite = [
        name
        for name, tensor in tensors.items()
        if tensor.dtype in _FLOATS and not bool(tensor.isfinite().all())
    ]
    if infinite:
        yield f"{_names(infinite)}: not all values are finite numbers."


def build_head(
    record: HeadRecord, views: Mapping[str, int], tensors: Mapping[str, Tensor], path: Path
) -> FittedHead:
    """Build the heads that `record` describes from the tensors of the file `path`.

    views: width of the embeddings in each view, by its name; empty for a model on metadata only

    Nothing large is allocated before the tensors have the declared shapes. Raises UnknownHead for a record
    that no head can be built from, and DataError for tensors that are missing, unexpected or of other shapes
    or types.
    """
    encoder = MetadataEncoder.from_json(record.encoder)
    config = _head_config(record.config)
    columns = len(encoder.columns)

    view_widths = _view_widths(record, config, views)

    def build(members: int) -> MILModel:
        seeds = generators([0]) * members
        return MILModel(config, record.embedding_width, columns, seeds, view_widths, record.outputs or 1)

    numbers = [value for value in record.config.values() if isinstance(value, int)]
    is_small = max(record.embedding_width, columns, *numbers) <= _SMALL
    expected = model_shapes(build, record.members, is_small) | _projection_shapes(
        record, sum(views.values()), tensors
    )
    if problems := list(_shape_problems(tensors, expected)):
        raise DataError([f"{printable(path)}: {problem}" for problem in problems])
    model = build(record.members)
    model.load_state_dict(_with_prefix(tensors, _MODEL))
    parts = _with_prefix(tensors, _PROJECTION)
    projection = Projection(parts["shift"], parts["scale"], parts.get("components")) if parts else None
    _try_out(model, record, columns)
    return FittedHead(model, projection, encoder)


def _view_widths(record: HeadRecord, config: HeadConfig, views: Mapping[str, int]) -> list[int]:
    """Return the columns of each view after the projection; raises UnknownHead for contradictions."""
    if not record.embedding_width:
        return []
    if not views:
        raise UnknownHead("head.embedding_width is not 0, but about.features is null")
    widths = record.view_widths or [record.embedding_width]
    if sum(widths) != record.embedding_width or 0 in widths or len(widths) != len(views):
        raise UnknownHead("head.view_widths do not fit head.embedding_width and about.features")
    if view_names(config.features) not in ([], list(views)):
        raise UnknownHead("head.config.features does not name the views of about.features")
    return widths


def _head_config(values: Mapping[str, Any]) -> HeadConfig:
    known = tunables(HeadConfig)
    if unknown := [name for name in values if name not in known]:
        raise UnknownHead(f"it does not know head.config {_names(unknown)}")
    problems = [
        f"head.config.{name} is {repr(value)[:80]}"
        for name, value in values.items()
        if not _allowed(name, value)
    ]
    if problems:
        raise UnknownHead("; ".join(map(printable, problems)))
    return HeadConfig(**values)


def _allowed(name: str, value: object) -> bool:
    """Return whether a field of HeadConfig may have this value: its type, its words or its range."""
    tunable, default = tunables(HeadConfig)[name], getattr(HeadConfig(), name)
    if isinstance(value, str) and value in tunable.choices:
        return True
    if isinstance(default, bool | str):
        return type(value) is type(default) and (not tunable.choices or value in tunable.choices)
    right = type(value) is int or (isinstance(default, float) and isinstance(value, float))
    return right and tunable.contains(value) and value <= _LARGEST  # type: ignore[arg-type,operator]


class _OnMeta(TorchFunctionMode):
    """Make tensors without memory, also where a device and a random generator are named."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if options.pop("generator", None) is not None or "device" in options:
            options["device"] = "meta"
        return func(*args, **options)


def model_shapes(build: Callable[[int], MILModel], members: int, is_small: bool = False) -> Shapes:
    """Return the shapes of a model's tensors without making them.

    is_small: make those of one member; to do without them takes as long as importing torch
    """
    try:
        with contextlib.nullcontext() if is_small else _OnMeta():
            state = build(1).state_dict()
    except (RuntimeError, UsageError, ValueError, ZeroDivisionError) as error:
        raise UnknownHead(printable(" ".join(str(error).split()))) from None
    return {f"{_MODEL}{name}": (members, *tensor.shape[1:]) for name, tensor in state.items()}


def _projection_shapes(record: HeadRecord, width: int, tensors: Collection[str]) -> Shapes:
    """Return the shapes of the projection from embeddings of `width` to the inputs of the head."""
    if not record.embedding_width:
        return {}
    shapes: Shapes = {_SHIFT: (width,), _SCALE: (width,)}
    if _COMPONENTS in tensors or record.embedding_width != width:
        shapes[_COMPONENTS] = (width, record.embedding_width)
    return shapes


def _shape_problems(tensors: Mapping[str, Tensor], expected: Shapes) -> Iterator[str]:
    if missing := sorted(expected.keys() - tensors.keys()):
        yield f"{_names(missing)} missing."
    if unexpected := sorted(tensors.keys() - expected.keys()):
        yield f"{_names(unexpected)} unexpected."
    for name in sorted(expected.keys() & tensors.keys()):
        tensor, shape = tensors[name], expected[name]
        if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape:
            yield f"{name} is {_type(tensor)} {tuple(tensor.shape)}, expected float32 {shape}."
        elif name in (_SCALE, f"{_DOMAIN}scale") and not bool((tensor > 0).all()):
            yield f"{name}: all values must be above 0, since they divide by standard deviations."


def _try_out(model: MILModel, record: HeadRecord, columns: int) -> None:
    """Raise UnknownHead for heads that have the right shapes and still cannot be applied."""
    zeros = torch.zeros(1, 1, record.embedding_width)
    bag = Instances.of(zeros, torch.tensor([1]), record.members) if record.embedding_width else None
    try:
        with torch.inference_mode():
            model(bag, torch.zeros(record.members, 1, columns))
    except RuntimeError as error:
        raise UnknownHead(printable(" ".join(str(error).split()))) from None


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _names(names: list[str]) -> str:
    return some([printable(name[:80]) for name in names])


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

"""`divide`: split a backbone in two at one of its parts, along the graph of its forward pass."""

from torch import fx, nn

from mil_toolkit.backbones.tracing import UNTRACEABLE, WholeLayers
from mil_toolkit.core.errors import UsageError

ALL = "all"
_DEPTH = 2  # components in the name of a part, as in layer4.0 and blocks.6


def divide(network: nn.Module, part: str) -> tuple[nn.Module, nn.Module]:
    """Return two networks: everything before `part`, and `part` with everything after it.

    Applied one after the other they compute what `network` computes, and they share its layers. With `all`
    the first one is the identity.

    Raises UsageError for a name that is not a part, listing the parts, and for a forward that cannot be
    traced.
    """
    if part == ALL:
        return nn.Identity(), network
    root = nn.Sequential(network)  # arguments beyond the images keep their defaults
    nodes = _trace(root)
    cuts = _cuts(network, nodes)
    if part not in cuts:
        raise UsageError(
            f"--unfreeze {part!r} is not one of the parts of this backbone: {ALL}, {', '.join(cuts)}."
        )
    cut = cuts[part]
    (boundary,) = _crossing(nodes, cut)
    before, after = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[:cut]:
        copies[node] = before.node_copy(node, copies.__getitem__)
    before.output(copies[boundary])
    copies = {boundary: after.placeholder("x")}
    for node in nodes[cut:]:
        copies[node] = after.node_copy(node, copies.__getitem__)
    return fx.GraphModule(root, before), fx.GraphModule(root, after)


def last_stage(network: nn.Module) -> str:
    """Return the part that is fine-tuned by default: layer4, or the last block if there is no layer4."""
    stages = {name: child for name, child in network.named_children() if isinstance(child, nn.Sequential)}
    if not stages or "layer4" in stages:
        return "layer4"
    name, stage = stages.popitem()
    return f"{name}.{len(stage) - 1}"


def _trace(root: nn.Module) -> list[fx.Node]:
    try:
        return list(WholeLayers().trace(root).nodes)
    except UNTRACEABLE as error:
        raise UsageError(
            f"This backbone cannot be divided ({error}). Train the whole network: --unfreeze {ALL}."
        ) from None


def _cuts(network: nn.Module, nodes: list[fx.Node]) -> dict[str, int]:
    """Return the parts' names in the order in which they run, each with the index of its first node.

    A part has parameters, and it and everything after it depend on exactly one tensor computed before it.
    """
    trainable = {name for name, module in network.named_modules() if any(True for _ in module.parameters())}
    begins: dict[str, int] = {}
    for index, node in enumerate(nodes):
        path = str(node.target).split(".")[1:] if node.op in ("call_module", "get_attr") else []
        for depth in range(1, min(len(path), _DEPTH) + 1):
            begins.setdefault(".".join(path[:depth]), index)
    return {
        name: index
        for name, index in begins.items()
        if name in trainable and len(_crossing(nodes, index)) == 1
    }


def _crossing(nodes: list[fx.Node], cut: int) -> set[fx.Node]:
    """Return the nodes before index `cut` whose values are used at or after it."""
    after = set(nodes[cut:])
    return {node for node in nodes[:cut] if not after.isdisjoint(node.users)}

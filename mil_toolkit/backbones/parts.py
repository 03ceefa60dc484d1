"""`divide` a backbone at one of its parts, along the graph of its forward."""

from torch import fx, nn

from mil_toolkit.backbones.embedder import UNTRACEABLE, WholeLayers
from mil_toolkit.core.errors import UsageError

ALL = "all"
_DEPTH = 2  # of the names of parts: layer4.0, blocks.6


def divide(network: nn.Module, part: str) -> tuple[nn.Module, nn.Module]:
    """What comes before `part`, and `part` with all that comes behind it; one after the other they are the network.

    Both share the network's layers. `all` leaves nothing before.
    Raises UsageError for a name that is no part, listing the parts, and for a network whose forward cannot be traced.
    """
    if part == ALL:
        return nn.Identity(), network
    root = nn.Sequential(network)  # arguments beyond the images keep their defaults
    nodes = _trace(root)
    cuts = _cuts(network, nodes)
    if part not in cuts:
        raise UsageError(
            f"--unfreeze {part!r} is none of the parts of this backbone: {ALL}, {', '.join(cuts)}."
        )
    place = cuts[part]
    (entering,) = _crossing(nodes, place)
    before, behind = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[:place]:
        copies[node] = before.node_copy(node, copies.__getitem__)
    before.output(copies[entering])
    copies = {entering: behind.placeholder("x")}
    for node in nodes[place:]:
        copies[node] = behind.node_copy(node, copies.__getitem__)
    return fx.GraphModule(root, before), fx.GraphModule(root, behind)


def last_stage(network: nn.Module) -> str:
    """What is trained unless told otherwise: layer4, or the last block of a network that has none."""
    stages = {name: each for name, each in network.named_children() if isinstance(each, nn.Sequential)}
    if not stages or "layer4" in stages:
        return "layer4"
    name, stage = stages.popitem()
    return f"{name}.{len(stage) - 1}"


def _trace(root: nn.Module) -> list[fx.Node]:
    try:
        return list(WholeLayers().trace(root).nodes)
    except UNTRACEABLE as error:
        raise UsageError(
            f"This backbone cannot be divided ({error}). Train all of it: --unfreeze {ALL}."
        ) from None


def _cuts(network: nn.Module, nodes: list[fx.Node]) -> dict[str, int]:
    """Names of the parts, in the order in which they run, and where in the graph each begins.

    A part has parameters, and one tensor alone goes into it and what comes behind it.
    """
    learning = {name for name, each in network.named_modules() if any(True for _ in each.parameters())}
    begins: dict[str, int] = {}
    for place, node in enumerate(nodes):
        path = str(node.target).split(".")[1:] if node.op in ("call_module", "get_attr") else []
        for depth in range(1, min(len(path), _DEPTH) + 1):
            begins.setdefault(".".join(path[:depth]), place)
    return {
        name: place
        for name, place in begins.items()
        if name in learning and len(_crossing(nodes, place)) == 1
    }


def _crossing(nodes: list[fx.Node], place: int) -> set[fx.Node]:
    """The values computed before `place` that are used from there on."""
    behind = set(nodes[place:])
    return {node for node in nodes[:place] if not behind.isdisjoint(node.users)}

"""`fit`: the tensors of a checkpoint under the names and in the shapes of a network.

Programs save the same network under other names: below a common prefix, beside heads that only training
needs, and with position embeddings for images of another size.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from mil_toolkit.backbones.architecture import StateDict
from mil_toolkit.backbones.reading import Reading
from mil_toolkit.backbones.transformers_names import with_timm_names
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import printable, some

HEADS = (
    "head",
    "heads",
    "head_dist",
    "fc",
    "classifier",
    "dino_head",
    "ibot_head",
    "proj_head",
    "projection_head",
    "projector",
    "predictor",
    "prototypes",
    "decoder",
    "mask_token",
)
"""First parts of the names of tensors that training adds to a network."""
_PREFERRED = ("teacher", "ema", "model_ema", "teacher_model")  # parts of prefixes: averages of the weights
_CANDIDATES = 8  # prefixes that are tried


class Fitted(NamedTuple):
    """Tensors for a network, and how they were found.

    unexpected: names of those that neither the network nor its heads have; they are among the tensors
    """

    tensors: StateDict
    reading: Reading
    unexpected: tuple[str, ...] = ()


def is_counter(name: str) -> bool:
    """Return whether a tensor counts the batches of training, which does not affect embeddings."""
    return name.endswith("num_batches_tracked")


def fit(
    state: StateDict,
    own: Mapping[str, Tensor],
    classifier: tuple[str, ...],
    adapted: Callable[[StateDict], StateDict],
    wrappers: tuple[str, ...] = (),
) -> Fitted:
    """Return the tensors of `state` that a network with the tensors `own` needs.

    One prefix is taken off the names if all tensors of the network are then there; of several such prefixes
    that of a teacher or of averaged weights counts. If none fits, the tensors are returned below the prefix
    where most are found, so that an error can compare them.

    classifier: beginnings of the names of its tensors
    adapted: renames and resamples tensors for the network
    wrappers: recorded in the reading

    Raises DataError if several prefixes fit.
    """
    given = with_timm_names({name: tensor for name, tensor in state.items() if not is_counter(name)})
    prefixes = _prefixes(given, own)
    tried = {prefix: _below(prefix, given, own, classifier, adapted, wrappers) for prefix in prefixes}
    fitting = [prefix for prefix in prefixes if own.keys() <= tried[prefix].tensors.keys()]
    if "" in fitting:
        return tried[""]
    return tried[_chosen(fitting) if fitting else prefixes[0]]


def _chosen(fitting: list[str]) -> str:
    preferred = [prefix for prefix in fitting if not {*_PREFERRED}.isdisjoint(prefix.split("."))]
    best = preferred or fitting
    if len(best) > 1:
        raise DataError(
            "The checkpoint holds this network several times, with the prefixes"
            f" {some([*map(printable, best)])}. Save the tensors of one of them."
        )
    return best[0]


def _prefixes(given: Iterable[str], own: Mapping[str, Tensor]) -> list[str]:
    """Return the beginnings of names before names of the network; the most frequent ones first."""
    counts = Counter(prefix for name in given for prefix in _splits(name) if name[len(prefix) :] in own)
    ranked = sorted(counts, key=lambda prefix: (-counts[prefix], len(prefix)))[:_CANDIDATES]
    return [*ranked, *([] if "" in ranked else [""])]


def _splits(name: str) -> Iterable[str]:
    """Yield each beginning of a name that ends with a dot, and the empty one."""
    yield ""
    for place, character in enumerate(name):
        if character == ".":
            yield name[: place + 1]


def _below(
    prefix: str,
    given: StateDict,
    own: Mapping[str, Tensor],
    classifier: tuple[str, ...],
    adapted: Callable[[StateDict], StateDict],
    wrappers: tuple[str, ...],
) -> Fitted:
    """Return the tensors below a prefix as those of the network."""
    inside = {name[len(prefix) :]: tensor for name, tensor in given.items() if name.startswith(prefix)}
    outside = [name for name in given if not name.startswith(prefix)]
    tensors = adapted(inside)

    def is_head(name: str) -> bool:
        return name not in own and (name.startswith(classifier) or name.split(".")[0] in HEADS)

    dropped = Counter(name.split(".")[0] for name in [*outside, *filter(is_head, inside)])
    resampled = tuple(name for name in own if _is_resampled(name, inside, tensors))
    return Fitted(
        {name: tensor for name, tensor in tensors.items() if not is_head(name)},
        Reading(wrappers, prefix, dict(sorted(dropped.items())), resampled),
        tuple(name for name in tensors if name not in own and not is_head(name)),
    )


def _is_resampled(name: str, before: StateDict, after: StateDict) -> bool:
    """Return whether a tensor has another number of values now; a position that became a token's does not."""
    if name not in before or name not in after:
        return False
    former = before[name]
    if name == "pos_embed" and "register_tokens" in before and former.ndim == 3:
        former = former[:, 1:]  # timm adds that of the class token to the token
    return former.numel() != after[name].numel()

"""`MILModel`: the head, which computes logits from bags of embeddings and rows of metadata."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mil_toolkit.config.head import CLASSWISE_POOLINGS, HeadConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import Dropout, Linear, keep_all
from mil_toolkit.model.network import InstanceNetwork
from mil_toolkit.model.poolings import pool
from mil_toolkit.model.supervised import Terms
from mil_toolkit.model.views import pooling_of


class Logits(NamedTuple):
    """Outputs of the head, (K, B) each, or (K, B, C) if it has several; branches only with late fusion.

    losses: (K, B, classes), the loss of the pooling's predictions of instances, see `Terms`; None for none
    """

    total: Tensor
    image: Tensor | None = None
    metadata: Tensor | None = None
    losses: Tensor | None = None


class MetadataMLP(nn.Sequential):
    """A metadata branch of three linear layers, each followed by ReLU and dropout: (K, B, M) -> (K, B, H)."""

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        hidden = config.metadata_hidden
        super().__init__(*(Linear(width, hidden, generators) for width in (inputs, hidden, hidden)))
        self.width, self.rate = hidden, config.metadata_dropout
        self.dropouts = [(hidden, self.rate)] * len(self)

    def forward(self, x: Tensor, dropout: Dropout = keep_all) -> Tensor:
        """Apply the three layers: (K, B, M) -> (K, B, H)."""
        for layer in self:
            x = dropout(torch.relu(layer(x)), self.rate)
        return x


class MetadataDirect(nn.Identity):
    """A metadata branch without layers: the classifier sees the metadata themselves, (K, B, M)."""

    def __init__(self, inputs: int, config: HeadConfig, generators: Sequence[torch.Generator]):
        super().__init__()
        self.width = inputs
        self.dropouts: list[tuple[int, float]] = []

    def forward(self, x: Tensor, dropout: Dropout = keep_all) -> Tensor:
        """Return `x` unchanged."""
        return x


METADATA_BRANCHES = {"mlp": MetadataMLP, "direct": MetadataDirect, "none": None}


def attention_heads(config: HeadConfig, outputs: int) -> int:
    """Return the number of attention heads of a model: one, or one for each of its outputs."""
    is_classwise = config.attention_heads == "classes" and config.pooling in CLASSWISE_POOLINGS
    return outputs if is_classwise else 1


class MILModel(nn.Module):
    """K heads side by side, one per member; a single model has K = 1.

    With class-wise attention (`HeadConfig.attention_heads`), each output is a linear function of what its own
    attention pools, and of the metadata, as in CLAM-MB (Lu et al. 2021) and SCEMILA (Hehr et al. 2023).

    embedding_width: D of the projected embeddings, 0 without images
    metadata_width: M encoded columns, 0 without metadata
    generators: K, one per member, which draw the initial weights
    view_widths: of several views, the columns of each, D in total
    outputs: C, the number of outputs for each patient

    Raises UsageError if the model has neither images nor metadata.
    """

    def __init__(
        self,
        config: HeadConfig,
        embedding_width: int,
        metadata_width: int,
        generators: Sequence[torch.Generator],
        view_widths: Sequence[int] = (),
        outputs: int = 1,
    ):
        super().__init__()
        self.config, self.view_widths, self.outputs = config, tuple(view_widths), outputs
        images = config.image_branch and embedding_width > 0
        branch = METADATA_BRANCHES[config.metadata_branch] if metadata_width > 0 else None
        if not images and branch is None:
            raise UsageError(
                "the model has neither images nor metadata: set image_branch or metadata_branch."
            )
        widths = view_widths if config.view_fusion == "late" and len(view_widths) > 1 else [embedding_width]
        has_layers = images and config.instance_layers > 0
        self.network = InstanceNetwork(widths, config, generators) if has_layers else None
        widths = widths if self.network is None else self.network.output_widths
        self.attention_heads = attention_heads(config, outputs) if images else 1
        self.pooling = pooling_of(widths, config, generators, self.attention_heads) if images else None
        self.branch = branch(metadata_width, config, generators) if branch else None
        image_width = self.pooling.width if self.pooling else 0
        branch_width = self.branch.width if self.branch else 0
        self.late = config.fusion == "late" and images and branch is not None
        if self.late:
            self.image_classifier = Linear(image_width, outputs, generators, zero=config.zero_start)
            self.metadata_classifier = Linear(branch_width, outputs, generators, zero=config.zero_start)
        else:
            width = image_width + branch_width
            self.classifier = Linear(width, outputs, generators, zero=config.zero_start)

    def dropouts(self, instances: int, bags: int) -> list[tuple[int, int, float]]:
        """Return rows, columns and rate of each dropout of a forward pass, in order, without those of rate 0.

        instances, bags: their numbers in the forward pass
        """
        of_instances = [] if self.network is None else self.network.dropouts
        shapes = [(instances, *dropout) for dropout in of_instances]
        shapes += [(bags, *dropout) for dropout in self.bag_dropouts]
        return [shape for shape in shapes if shape[-1]]

    @property
    def bag_dropouts(self) -> list[tuple[int, float]]:
        """Number of columns and rate of each dropout of the bags and their metadata, in order."""
        rate, of_bags = self.config.embedding_dropout, list[tuple[int, float]]()
        if self.pooling is not None:
            of_bags = [(self.attention_heads * self.pooling.width, rate)]
        of_metadata = [] if self.branch is None else self.branch.dropouts
        return [*of_bags, *of_metadata]

    @torch.no_grad()
    def start_at(self, linear: Tensor) -> None:
        """Initialise the metadata's weights in the classifier with those of linear models.

        linear: (K, M + 1, C), the intercepts last; the metadata branch has to be `MetadataDirect`
        """
        classifier = self.metadata_classifier if self.late else self.classifier
        classifier.weight[:, 1 - linear.shape[1] :] = linear[:, :-1]
        classifier.bias[:, 0] = linear[:, -1]

    def forward(self, bags: Instances | None, metadata: Tensor, dropout: Dropout = keep_all) -> Logits:
        """Compute the logits of B bags.

        bags: their instances, None without images
        Shapes: metadata (K, B, M) -> (K, B), or (K, B, C) if the head has several outputs
        Bags beyond the B rows of metadata are dropped: they only pad the instances to a round number.
        """
        parts, terms = [], Terms()
        if self.pooling is not None:
            assert bags is not None
            pooled, terms = self._pool(bags, metadata.shape[1], dropout)
            columns = dropout(pooled.flatten(2), self.config.embedding_dropout)
            parts.append(columns.view(pooled.shape))
        if self.branch is not None:
            parts.append(self.branch(metadata, dropout))
        if not self.late:
            total = self._shaped(_classified(self.classifier, _joined(*parts)))
            return Logits(_added(total, terms), losses=terms.losses)
        image = _added(self._shaped(_classified(self.image_classifier, parts[0])), terms)
        clinical = self._shaped(self.metadata_classifier(parts[1]))
        return Logits(image + clinical, image, clinical, terms.losses)

    def attention(self, bags: Instances) -> Tensor:
        """Return each instance's share in its pooled bag: (K, n), or (K, n, C) if each class has its own.

        The shares sum to one within each bag.
        """
        assert self.pooling is not None
        return self.pooling.attention(bags if self.network is None else self.network(bags))

    def _shaped(self, outputs: Tensor) -> Tensor:
        """Return a single output without its axis: (K, B, 1) -> (K, B)."""
        return outputs.squeeze(-1) if self.outputs == 1 else outputs

    def _pool(self, bags: Instances, count: int, dropout: Dropout) -> tuple[Tensor, Terms]:
        """Return the first `count` bags as pooled, and what the pooling predicts.

        Shapes: (K, count, width), or (K, count, C, width) with class-wise attention
        """
        assert self.pooling is not None
        pooled, terms = pool(self.pooling, bags if self.network is None else self.network(bags, dropout))
        kept = (None if term is None else term[:, :count] for term in terms)
        return pooled[:, :count], Terms(*kept)


def _joined(first: Tensor, metadata: Tensor | None = None) -> Tensor:
    """Return pooled bags with the metadata's columns behind their own, behind those of each class.

    Shapes: first (K, B, W) or (K, B, C, W), metadata (K, B, M)
    """
    if metadata is None:
        return first
    if first.ndim > metadata.ndim:
        metadata = metadata[:, :, None].expand(-1, -1, first.shape[2], -1)
    return torch.cat([first, metadata], -1)


def _classified(classifier: Linear, x: Tensor) -> Tensor:
    """Return the outputs (K, B, C) for x (K, B, W), or for x (K, B, C, W) with each output's own columns."""
    if x.ndim == 3:
        outputs: Tensor = classifier(x)
        return outputs
    return (x * classifier.weight.transpose(1, 2)[:, None]).sum(-1) + classifier.bias


def _added(logits: Tensor, terms: Terms) -> Tensor:
    """Return the logits (K, B) with what the pooling adds to them."""
    return logits if terms.logits is None else logits + terms.logits

"""The instance network: against torch's own layers, and the contract of poolings behind it."""

import dataclasses
from collections.abc import Sequence
from typing import cast

import pytest
import torch
from support.small_bags import CONFIG, SEEDS, SIZES, WIDTH, embeddings, instances, some_kept
from torch import Tensor, nn

from mil_toolkit.config.head import ACTIVATION_NAMES, POOLING_NAMES, HeadConfig
from mil_toolkit.model.head import MILModel
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import Linear, dropout_of, generators
from mil_toolkit.model.network import ACTIVATIONS, InstanceNetwork

NETWORK = dataclasses.replace(CONFIG, instance_layers=2, instance_width=8)
every_pooling = pytest.mark.parametrize("pooling", POOLING_NAMES)


def network(config: HeadConfig = NETWORK, widths: Sequence[int] = (WIDTH,)) -> InstanceNetwork:
    return InstanceNetwork(widths, config, generators(SEEDS))


def model(
    pooling: str, seeds: Sequence[int] = SEEDS, views: Sequence[int] = (), **changes: object
) -> MILModel:
    config = dataclasses.replace(NETWORK, pooling=pooling, **changes)  # type: ignore[arg-type]
    return MILModel(config, WIDTH, 0, generators(seeds), views)


def logits(head: MILModel, bags: Instances) -> Tensor:
    return head(bags, torch.zeros(bags.member_count, len(bags.sizes), 0)).total


def test_the_table_holds_the_names_of_the_settings() -> None:
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_each_instance_passes_the_layers_of_its_member(activation: type[nn.Module], layers: int) -> None:
    name = activation.__name__.lower()
    net = network(dataclasses.replace(NETWORK, instance_layers=layers, instance_activation=name))
    found, x = net(instances(embeddings())).x, embeddings()
    for k in range(len(SEEDS)):
        parts = []
        for layer in cast(nn.ModuleList, net.views[0]):
            assert isinstance(layer, Linear)
            own = nn.Linear(*layer.weight.shape[1:])
            own.load_state_dict({"weight": layer.weight[k].T, "bias": layer.bias[k, 0]})
            parts += [own, activation()]
        torch.testing.assert_close(found[k], nn.Sequential(*parts)(x[k]))


def test_without_layers_a_head_is_what_it_was_before() -> None:
    """The same parameters from the same draws, whatever the other settings of the layers."""
    plain = MILModel(CONFIG, WIDTH, 0, generators(SEEDS))
    other = MILModel(dataclasses.replace(NETWORK, instance_layers=0), WIDTH, 0, generators(SEEDS))
    pooling = ["pooling.hidden.weight", "pooling.hidden.bias", "pooling.score.weight"]
    assert list(plain.state_dict()) == [*pooling, "classifier.weight", "classifier.bias"]
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in plain.state_dict().items())


def test_views_that_are_fused_late_have_layers_of_their_own() -> None:
    net = network(widths=(2, 3))
    x = embeddings()
    changed = x.clone()
    changed[..., 2:] += 1
    before, after = net(instances(x)).x, net(instances(changed)).x
    assert net.output_widths == (8, 8) and before.shape[-1] == 16
    assert torch.equal(before[..., :8], after[..., :8])
    assert not torch.equal(before[..., 8:], after[..., 8:])


@every_pooling
@pytest.mark.parametrize(("views", "fusion"), [((), "late"), ((2, 3), "late"), ((2, 3), "early")], ids=str)
def test_a_member_is_the_same_alone_and_with_others(
    pooling: str, views: tuple[int, ...], fusion: str
) -> None:
    x = embeddings()
    together = model(pooling, views=views, view_fusion=fusion)
    for k, seed in enumerate(SEEDS):
        alone = model(pooling, [seed], views, view_fusion=fusion)
        own = instances(x[k : k + 1])
        torch.testing.assert_close(logits(alone, own)[0], logits(together, instances(x))[k])
        torch.testing.assert_close(alone.attention(own)[0], together.attention(instances(x))[k])


@every_pooling
def test_the_order_within_a_bag_does_not_matter(pooling: str) -> None:
    head, x = model(pooling), embeddings()
    order = torch.cat([part.flip(0) for part in torch.arange(sum(SIZES)).split(SIZES)])
    torch.testing.assert_close(logits(head, instances(x[:, order])), logits(head, instances(x)))
    attention = head.attention(instances(x))
    torch.testing.assert_close(head.attention(instances(x[:, order])), attention[:, order])
    sums = torch.stack([part.sum(1) for part in attention.split(SIZES, 1)], 1)
    torch.testing.assert_close(sums, torch.ones(len(SEEDS), len(SIZES)))


@every_pooling
def test_masking_instances_equals_removing_them(pooling: str) -> None:
    head, x, kept = model(pooling), embeddings(), some_kept()
    masked = logits(head, instances(x, kept=kept))
    for k, seed in enumerate(SEEDS):
        sizes = [int(part.sum()) for part in kept[k].split(SIZES)]
        removed = instances(x[k : k + 1, kept[k]], sizes)
        torch.testing.assert_close(masked[k], logits(model(pooling, [seed]), removed)[0])


@every_pooling
def test_merging_the_standardisation_equals_standardising_copies(pooling: str) -> None:
    head, x = model(pooling), embeddings(groups=1)
    shift, scale = torch.randn(len(SEEDS), 1, WIDTH), torch.rand(len(SEEDS), 1, WIDTH) + 0.5
    merged = dataclasses.replace(instances(x, member_count=len(SEEDS)), shift=shift, scale=scale)
    copies = instances((x - shift) * scale)
    torch.testing.assert_close(logits(head, merged), logits(head, copies), rtol=1e-4, atol=1e-5)


@every_pooling
def test_bfloat16_is_close_to_float32(pooling: str) -> None:
    head, x = model(pooling), embeddings().bfloat16()
    assert head.network is not None
    half = head.network(instances(x), dropout_of(generators(SEEDS))).x
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        logits(head, instances(x)), logits(head, instances(x.float())), rtol=0.05, atol=0.05
    )


@every_pooling
def test_a_gradient_reaches_each_layer_and_stays_with_its_member(pooling: str) -> None:
    head = model(pooling)
    logits(head, instances(embeddings(), kept=some_kept()))[1].square().sum().backward()
    assert head.network is not None
    for name, parameter in head.network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
        assert parameter.grad[[0, 2]].count_nonzero() == 0
        assert parameter.grad[1].count_nonzero() > 0, name


@pytest.mark.parametrize("views", [(WIDTH,), (2, 3)], ids=str)
def test_the_dropouts_of_a_network_are_those_of_its_forward_pass(views: tuple[int, ...]) -> None:
    config = dataclasses.replace(NETWORK, instance_layer_dropout=0.4)
    applied = []

    def dropout(x: Tensor, rate: float) -> Tensor:
        applied.append((x.shape[-1], rate))
        return x

    net = network(config, views)
    net(instances(embeddings()), dropout)
    assert net.dropouts == applied == [(8, 0.4)] * 2 * len(views)

"""Attention of each class against the shared attention with that class's scores, and the logits from it."""

import dataclasses

import pytest
import torch
from support.small_bags import CONFIG, SEEDS, SIZES, WIDTH, embeddings, instances, pooling, some_kept
from torch import Tensor, nn

from mil_toolkit.config.head import (
    CLASSWISE_POOLINGS,
    FUSION_NAMES,
    POOLING_NAMES,
    VIEW_FUSION_NAMES,
    HeadConfig,
)
from mil_toolkit.model import instances as instances_module
from mil_toolkit.model.head import MILModel
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import Linear, dropout_of, generators
from mil_toolkit.model.poolings import Pooling, build_pooling

CLASSES, COLUMNS = 3, 2
CLASSWISE = dataclasses.replace(CONFIG, attention_heads="classes")
every_pooling = pytest.mark.parametrize("name", CLASSWISE_POOLINGS)


def classwise(name: str, seeds: tuple[int, ...] = SEEDS) -> Pooling:
    return build_pooling(WIDTH, dataclasses.replace(CLASSWISE, pooling=name), generators(seeds), CLASSES)


def of_class(pool: Pooling, name: str, number: int, members: int = len(SEEDS)) -> nn.Module:
    """Return the pooling with one attention, whose scores are those of a class."""
    assert isinstance(pool, nn.Module)
    shared = pooling(name, range(members))
    state = dict(pool.state_dict())
    state["score.weight"] = state["score.weight"][..., number : number + 1]
    shared.load_state_dict(state)
    return shared


def model(config: HeadConfig = CLASSWISE, seeds: tuple[int, ...] = SEEDS, outputs: int = CLASSES) -> MILModel:
    views = [2, WIDTH - 2] if config.features else []
    return MILModel(config, WIDTH, COLUMNS, generators(seeds), views, outputs)


def metadata() -> Tensor:
    return torch.randn(len(SEEDS), len(SIZES), COLUMNS, generator=torch.Generator().manual_seed(2))


def changed(layer: Linear, number: int) -> None:
    """Change the weights of one output of a layer."""
    with torch.no_grad():
        layer.weight[..., number] += torch.randn(layer.weight.shape[:-1])


@every_pooling
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_each_class_is_pooled_by_its_own_attention(name: str, dropped: bool, groups: int) -> None:
    pool, kept = classwise(name), some_kept() if dropped else None
    bags = instances(embeddings(groups=groups), kept=kept, member_count=len(SEEDS))
    if groups == 1:
        shift, scale = torch.randn(len(SEEDS), 1, WIDTH), torch.rand(len(SEEDS), 1, WIDTH) + 0.5
        bags = dataclasses.replace(bags, shift=shift, scale=scale)
    pooled, attention = pool(bags), pool.attention(bags)
    assert pooled.shape == (len(SEEDS), len(SIZES), CLASSES, pool.width)
    assert attention.shape == (len(SEEDS), sum(SIZES), CLASSES)
    for number in range(CLASSES):
        alone = of_class(pool, name, number)
        torch.testing.assert_close(pooled[:, :, number], alone(bags))
        torch.testing.assert_close(attention[:, :, number], alone.attention(bags))


@every_pooling
def test_blocks_of_bags_give_what_all_bags_at_once_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, bags = classwise(name), instances(embeddings())
    expected = pool(bags), pool.attention(bags)
    monkeypatch.setattr(instances_module, "WHOLE", 0)
    monkeypatch.setattr(instances_module, "BLOCK", 8)
    bags = instances(embeddings())
    assert len(bags.blocks) > 1
    torch.testing.assert_close((pool(bags), pool.attention(bags)), expected)


@every_pooling
def test_the_logit_of_a_class_depends_on_no_other_attention(name: str) -> None:
    head, bags = model(dataclasses.replace(CLASSWISE, pooling=name)), instances(embeddings())
    before = head(bags, metadata()).total
    changed(head.pooling.score, 1)  # type: ignore[union-attr,arg-type]
    difference = (head(bags, metadata()).total - before).abs().amax((0, 1))
    assert difference[1] > 0 and difference[[0, 2]].count_nonzero() == 0


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_the_logit_of_a_class_is_a_linear_function_of_what_it_pools(fusion: str) -> None:
    head, bags = model(dataclasses.replace(CLASSWISE, fusion=fusion)), instances(embeddings())
    assert head.pooling is not None
    pooled, rows = head.pooling(bags), metadata()
    logits = head(bags, rows)
    for number in range(CLASSES):
        if fusion == "concat":
            weight, bias = head.classifier.weight[..., number, None], head.classifier.bias[..., number, None]
            expected = torch.cat([pooled[:, :, number], rows], -1) @ weight + bias
        else:
            image, other = head.image_classifier, head.metadata_classifier
            expected = pooled[:, :, number] @ image.weight[..., number, None] + image.bias[..., number, None]
            expected = expected + rows @ other.weight[..., number, None] + other.bias[..., number, None]
        torch.testing.assert_close(logits.total[..., number], expected[..., 0])


@pytest.mark.parametrize("name", POOLING_NAMES)
def test_one_output_and_poolings_without_attention_have_the_model_of_shared_attention(name: str) -> None:
    """To the bit, for one output of any pooling and several outputs of a pooling without attention."""
    outputs = 1 if name in CLASSWISE_POOLINGS else CLASSES
    if name in ("dsmil", "clam"):
        outputs = 1
    one, other = (
        model(dataclasses.replace(CONFIG, pooling=name, attention_heads=heads), outputs=outputs)
        for heads in ("shared", "classes")
    )
    assert other.attention_heads == 1
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    bags = instances(embeddings())
    assert torch.equal(one(bags, metadata()).total, other(bags, metadata()).total)
    assert torch.equal(one.attention(bags), other.attention(bags))


def test_a_model_on_metadata_has_no_attention_of_classes() -> None:
    head = model(dataclasses.replace(CLASSWISE, image_branch=False))
    assert head.attention_heads == 1 and head(None, metadata()).total.shape[-1] == CLASSES


@pytest.mark.parametrize("fusion", FUSION_NAMES)
@pytest.mark.parametrize("view_fusion", VIEW_FUSION_NAMES)
@pytest.mark.parametrize("features", ["", "a+b"])
@pytest.mark.parametrize("layers", [0, 1])
@every_pooling
def test_a_member_is_the_same_alone_and_with_others(
    name: str, layers: int, features: str, view_fusion: str, fusion: str
) -> None:
    """Its logits, its attention and its gradients, with dropout."""
    config = dataclasses.replace(
        CLASSWISE,
        pooling=name,
        instance_layers=layers,
        features=features,
        view_fusion=view_fusion,
        fusion=fusion,
    )
    x, rows, weights = embeddings(), metadata(), torch.randn(len(SIZES), CLASSES)

    def results(seeds: tuple[int, ...], members: slice) -> list[Tensor]:
        head = model(config, seeds)
        bags = instances(x[members], kept=some_kept()[members])
        logits = head(bags, rows[members], dropout_of(generators(seeds))).total
        gradients = torch.autograd.grad((logits * weights).sum(), [*head.parameters()], allow_unused=True)
        used = [gradient for gradient in gradients if gradient is not None]
        assert len(used) == len(gradients)
        return [logits, head.attention(bags), *used]

    together = results(SEEDS, slice(None))
    for number, seed in enumerate(SEEDS):
        members = slice(number, number + 1)
        alone = results((seed,), members)
        torch.testing.assert_close(alone, [part[members] for part in together], rtol=1e-4, atol=1e-5)


@every_pooling
def test_with_zero_start_all_classes_begin_with_the_same_attention(name: str) -> None:
    head = model(dataclasses.replace(CLASSWISE, pooling=name, zero_start=True))
    head.start_at(torch.randn(len(SEEDS), COLUMNS + 1, CLASSES))
    bags, shared = instances(embeddings()), model(dataclasses.replace(CONFIG, pooling=name, zero_start=True))
    shared.load_state_dict(
        {key: value for key, value in head.state_dict().items() if "score" not in key}, strict=False
    )
    torch.testing.assert_close(head(bags, metadata()).total, shared(bags, metadata()).total)
    if name != "top-k":  # whose scores are random, since zeros would keep any instances
        attention = head.attention(bags)
        torch.testing.assert_close(attention, attention[..., :1].expand_as(attention))


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_the_dropouts_of_a_model_are_those_of_its_forward_pass(fusion: str) -> None:
    head, applied = model(dataclasses.replace(CLASSWISE, fusion=fusion, embedding_dropout=0.3)), []

    def dropout(x: Tensor, rate: float) -> Tensor:
        applied.append((*x.shape[1:], rate))
        return x

    bags: Instances = instances(embeddings())
    head(bags, metadata(), dropout)
    assert head.dropouts(sum(SIZES), len(SIZES)) == applied == [(len(SIZES), CLASSES * WIDTH, 0.3)]

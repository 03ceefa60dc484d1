"""The head: fusion, metadata branches, and models without one of the two branches."""

import pytest
import torch
from torch import Tensor

from mil_toolkit.config.head import FUSION_NAMES, METADATA_BRANCH_NAMES, HeadConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.model.head import METADATA_BRANCHES, MILModel
from mil_toolkit.model.instances import Instances
from mil_toolkit.model.layers import generators

SEEDS = (7, 8)
SIZES = torch.tensor([3, 1, 2])


def model(
    embeddings: int = 5, metadata: int = 4, seeds: tuple[int, ...] = SEEDS, **config: object
) -> MILModel:
    values = {"hidden": 8, "metadata_hidden": 6, "metadata_branch": "mlp", "zero_start": False, **config}
    return MILModel(HeadConfig(**values), embeddings, metadata, generators(seeds))


def bags() -> Instances:
    return Instances.of(torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1)), SIZES, 2)


def metadata() -> Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))


def test_the_table_holds_the_names_of_the_settings() -> None:
    assert tuple(METADATA_BRANCHES) == METADATA_BRANCH_NAMES


@pytest.mark.parametrize("fusion", FUSION_NAMES)
@pytest.mark.parametrize("branch", METADATA_BRANCH_NAMES)
def test_a_member_is_the_same_alone_and_with_others(fusion: str, branch: str) -> None:
    together = model(fusion=fusion, metadata_branch=branch)(bags(), metadata()).total
    assert together.shape == (2, 3)
    for k, seed in enumerate(SEEDS):
        alone = model(fusion=fusion, metadata_branch=branch, seeds=(seed,))
        own = Instances.of(bags().x[k : k + 1], SIZES, 1)
        torch.testing.assert_close(alone(own, metadata()[k : k + 1]).total[0], together[k])


def test_late_fusion_is_the_sum_of_the_branches_own_logits() -> None:
    logits = model(fusion="late")(bags(), metadata())
    assert logits.image is not None and logits.metadata is not None
    torch.testing.assert_close(logits.total, logits.image + logits.metadata)


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_only_the_image_logit_of_late_fusion_ignores_metadata(fusion: str) -> None:
    head = model(fusion=fusion)
    one, other = head(bags(), metadata()), head(bags(), metadata() + 1)
    assert not torch.equal(one.total, other.total)
    if one.image is not None and other.image is not None:
        assert torch.equal(one.image, other.image)
    else:
        assert fusion == "concat"


def test_concat_is_one_classifier_on_both_branches() -> None:
    head = model(fusion="concat", metadata_branch="direct", pooling="mean")
    together = torch.cat([head.pooling(bags()), metadata()], -1)  # type: ignore[misc]
    torch.testing.assert_close(head(bags(), metadata()).total, head.classifier(together)[..., 0])


def test_without_images_the_model_uses_only_metadata() -> None:
    for head in (model(embeddings=0), model(image_branch=False)):
        assert head.pooling is None and not head.late
        assert head(None, metadata()).total.shape == (2, 3)


def test_without_metadata_the_model_uses_only_images() -> None:
    for head in (model(metadata=0), model(metadata_branch="none")):
        assert head.branch is None and not head.late
        assert torch.equal(head(bags(), metadata()).total, head(bags(), metadata() + 1).total)


def test_a_model_without_images_and_metadata_is_refused() -> None:
    with pytest.raises(UsageError, match="neither images nor metadata"):
        model(embeddings=0, metadata_branch="none")


def test_dropout_is_applied_to_the_pooled_bag_and_to_each_metadata_layer() -> None:
    seen: list[tuple[tuple[int, ...], float]] = []

    def record(x: Tensor, rate: float) -> Tensor:
        seen.append((tuple(x.shape), rate))
        return x

    model(embedding_dropout=0.3, metadata_dropout=0.1)(bags(), metadata(), record)
    assert seen == [((2, 3, 5), 0.3), *[((2, 3, 6), 0.1)] * 3]


@pytest.mark.parametrize("fusion", FUSION_NAMES)
def test_a_model_can_start_at_logistic_regressions_of_the_metadata(fusion: str) -> None:
    head, logistic = model(fusion=fusion, metadata_branch="direct", zero_start=True), torch.randn(2, 5)
    head.start_at(logistic[:, :, None])
    expected = metadata() @ logistic[:, :-1, None] + logistic[:, None, -1:]
    torch.testing.assert_close(head(bags(), metadata()).total, expected.squeeze(-1))


@pytest.mark.parametrize("fusion", FUSION_NAMES)
@pytest.mark.parametrize("branch", METADATA_BRANCH_NAMES)
@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("rates", [(0.1, 0.2), (0.0, 0.2), (0.1, 0.0)], ids=str)
def test_the_dropouts_of_a_model_are_those_of_its_forward_pass(
    fusion: str, branch: str, rates: tuple[float, float], layers: int
) -> None:
    """In their order, so that they can be drawn before."""
    settings = {"embedding_dropout": rates[0], "metadata_dropout": rates[1], "instance_layers": layers}
    head = model(fusion=fusion, metadata_branch=branch, **settings)
    applied = []

    def dropout(x: Tensor, rate: float) -> Tensor:
        applied.append((*x.shape[1:], rate))
        return x

    head(bags(), metadata(), dropout)
    assert head.dropouts(instances=6, bags=3) == [shape for shape in applied if shape[-1]]
    assert [rows for rows, _, _ in applied].count(6) == layers

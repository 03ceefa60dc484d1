"""DSMIL and CLAM against straightforward versions, one bag at a time."""

import dataclasses

import pytest
import torch
from support.small_bags import CONFIG, SEEDS, SIZES, WIDTH, embeddings, instances, outputs, pooling
from torch import Tensor
from torch.nn import functional

from mil_toolkit.model.head import MILModel
from mil_toolkit.model.layers import generators
from mil_toolkit.model.poolings import POOLINGS, pool
from mil_toolkit.model.supervised import Clam, Dsmil, Terms
from mil_toolkit.model.views import ViewPoolings
from mil_toolkit.model.weighted import GatedAttention

NO_METADATA = torch.zeros(len(SEEDS), len(SIZES), 0)


def dual_stream(pool: Dsmil, k: int, bag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Member k's critical logit (), bag embedding (D,) and attention (n,) for a bag (n, D)."""
    logits = bag @ pool.instance.weight[k] + pool.instance.bias[k]  # (n, 1)
    queries = bag @ pool.query.weight[k] + pool.query.bias[k]
    critical = queries[logits[:, 0].argmax()]
    attention = torch.stack([query @ critical / len(critical) ** 0.5 for query in queries]).softmax(0)
    embedding = torch.stack([share * instance for share, instance in zip(attention, bag, strict=True)]).sum(0)
    return logits.max(), embedding, attention


def test_dsmil_is_the_formula_of_li() -> None:
    """The logit of a bag is the mean of those of both streams, and the loss that of the critical instance."""
    model = MILModel(dataclasses.replace(CONFIG, pooling="dsmil"), WIDTH, 0, generators(SEEDS))
    dsmil, bags = model.pooling, instances(embeddings())
    assert isinstance(dsmil, Dsmil)
    found, attention = model(bags, NO_METADATA), model.attention(bags)
    assert found.losses is not None
    for k in range(len(SEEDS)):
        for b, bag in enumerate(embeddings()[k].split(SIZES)):
            critical, embedding, shares = dual_stream(dsmil, k, bag)
            second = embedding @ model.classifier.weight[k, :, 0] / 2 + model.classifier.bias[k, 0, 0]
            torch.testing.assert_close(found.total[k, b], critical / 2 + second)
            torch.testing.assert_close(attention[k].split(SIZES)[b], shares)
            for label in (0, 1):
                expected = functional.binary_cross_entropy_with_logits(critical, torch.tensor(float(label)))
                torch.testing.assert_close(found.losses[k, b, label], expected)


def test_instances_of_equal_scores_share_the_role_of_the_critical_one() -> None:
    """As at a zero start, where all scores are equal, whatever the order of the instances."""
    zero = dataclasses.replace(CONFIG, zero_start=True)
    dsmil = POOLINGS["dsmil"](WIDTH, zero, generators(SEEDS))
    assert isinstance(dsmil, Dsmil)
    x = embeddings()
    queries = instances(x).linear(dsmil.query)
    for b, (bag, query) in enumerate(zip(x.split(SIZES, 1), queries.split(SIZES, 1), strict=True)):
        shares = (query @ query.mean(1, keepdim=True).mT / CONFIG.hidden**0.5).softmax(1)
        torch.testing.assert_close(dsmil(instances(x))[:, b], (shares * bag).sum(1) / 2)


def clustering_loss(pool: Clam, k: int, bag: Tensor, label: int, most: int) -> Tensor:
    """Member k's loss for a bag (n, D) of this class: a loop over classes and instances."""
    hidden = torch.tanh(bag @ pool.hidden.weight[k] + pool.hidden.bias[k])
    gate = torch.sigmoid(bag @ pool.gate.weight[k] + pool.gate.bias[k])
    order = ((hidden * gate) @ pool.score.weight[k])[:, 0].argsort(descending=True).tolist()
    count = max(1, min(most, len(bag) // 2))
    losses = []
    for label_of_classifier in range(2):
        scores = (bag @ pool.evidence.weight[k] + pool.evidence.bias[k])[:, label_of_classifier]
        targets = [(place, 1.0) for place in order[:count]] + [(place, -1.0) for place in order[-count:]]
        if label_of_classifier != label:
            targets = [(place, -1.0) for place in order[:count]]
        # Smooth top-1 SVM: log-sum-exp of both scores with their margins, minus the score of the right class
        own = [
            torch.stack([sign * scores[place] / 2, 1 - sign * scores[place] / 2]) for place, sign in targets
        ]
        losses.append(torch.stack([pair.logsumexp(0) - pair[0] for pair in own]).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("most", [1, 2, 8])
def test_clam_is_a_loop_over_classes_and_the_highest_and_lowest_attention(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clam, "MOST", most)
    clam, bags = pooling("clam"), instances(embeddings())
    assert isinstance(clam, Clam)
    _, terms = pool(clam, bags)
    assert terms.losses is not None and terms.logits is None
    for k in range(len(SEEDS)):
        for b, bag in enumerate(embeddings()[k].split(SIZES)):
            for label in (0, 1):
                expected = clustering_loss(clam, k, bag, label, most)
                torch.testing.assert_close(terms.losses[k, b, label], expected)


def test_clam_pools_as_gated_attention_and_has_no_loss_in_prediction() -> None:
    clam, bags = pooling("clam"), instances(embeddings())
    gated = pooling("gated-attention")
    assert isinstance(clam, Clam) and isinstance(gated, GatedAttention)
    gated.load_state_dict({name: clam.state_dict()[name] for name in gated.state_dict()})
    assert torch.equal(clam(bags), gated(bags))
    with torch.inference_mode():
        assert pool(clam, bags)[1] == Terms()


def test_the_attention_of_clam_has_no_gradient_from_the_clusters() -> None:
    clam = pooling("clam")
    losses = pool(clam, instances(embeddings()))[1].losses
    assert losses is not None
    losses.sum().backward()
    reached = {name for name, parameter in clam.named_parameters() if parameter.grad is not None}
    assert reached == {"evidence.weight", "evidence.bias"}


def test_the_terms_of_several_views_are_their_mean() -> None:
    config = dataclasses.replace(CONFIG, pooling="dsmil", view_fusion="late")
    model = MILModel(config, 2 * WIDTH, 0, generators(SEEDS), [WIDTH, WIDTH])
    assert isinstance(model.pooling, ViewPoolings)
    x = torch.cat([embeddings(), embeddings().flip(1)], -1)
    _, *terms = outputs(model.pooling, instances(x))
    halves = instances(x).columns([WIDTH, WIDTH])
    parts = [outputs(view, half) for view, half in zip(model.pooling._poolings, halves, strict=True)]
    expected = [torch.stack([part[number] for part in parts]).mean(0) for number in (1, 2)]
    torch.testing.assert_close(terms, expected)
    logits = model(instances(x), NO_METADATA)
    pooled = torch.cat([part[0] for part in parts], -1)
    torch.testing.assert_close(logits.total, model.classifier(pooled)[..., 0] + expected[0])

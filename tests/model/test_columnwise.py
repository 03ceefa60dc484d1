"""The poolings that work column by column against their formulas, bag by bag."""

import pytest
import torch
from support.small_bags import SEEDS, SIZES, WIDTH, embeddings, instances, pooling

from mil_toolkit.model.columnwise import LogSumExp, Max, MeanStd, NoisyAnd


def test_max_is_the_highest_of_each_column() -> None:
    pool, x = pooling("max"), embeddings()
    assert isinstance(pool, Max)
    expected = torch.stack([part.amax(1) for part in x.split(SIZES, 1)], 1)
    assert torch.equal(pool(instances(x)), expected)
    bag = x[0, : SIZES[0]]
    shares = torch.bincount(bag.argmax(0), minlength=SIZES[0]) / WIDTH
    torch.testing.assert_close(pool.attention(instances(x))[0, : SIZES[0]], shares)


def test_noisy_and_is_the_formula_of_kraus() -> None:
    pool, x = pooling("noisy-and"), embeddings()
    assert isinstance(pool, NoisyAnd)
    with torch.no_grad():
        pool.threshold += torch.linspace(-0.3, 0.3, pool.threshold.numel()).view_as(pool.threshold)
    for k in range(len(SEEDS)):
        for b, bag in enumerate(x[k].split(SIZES)):
            p = torch.sigmoid(bag @ pool.detect.weight[k] + pool.detect.bias[k]).mean(0)
            low, high = -10 * pool.threshold[k, 0], 10 * (1 - pool.threshold[k, 0])
            top = torch.sigmoid(10 * (p - pool.threshold[k, 0])) - torch.sigmoid(low)
            expected = top / (torch.sigmoid(high) - torch.sigmoid(low))
            torch.testing.assert_close(pool(instances(x))[k, b], expected)


def test_mean_std_is_the_mean_and_the_standard_deviation_of_each_column() -> None:
    pool, x = pooling("mean-std"), embeddings()
    assert isinstance(pool, MeanStd) and pool.width == 2 * WIDTH
    for k in range(len(SEEDS)):
        for b, bag in enumerate(x[k].split(SIZES)):
            expected = torch.cat([bag.mean(0), bag.std(0, correction=0)])
            torch.testing.assert_close(pool(instances(x))[k, b], expected)


def test_the_deviation_of_equal_instances_is_zero_and_of_close_ones_is_not() -> None:
    """Far from zero, where the difference of two large moments would be lost in rounding."""
    pool, x = pooling("mean-std"), embeddings()
    x[:, :4] = 100.0
    x[:, 5:11] = 100 + 0.01 * torch.arange(6)[:, None]
    deviation = pool(instances(x))[..., WIDTH:]
    assert deviation[:, 0].count_nonzero() == 0
    torch.testing.assert_close(deviation[:, 2], x[:, 5:11].double().std(1, correction=0).float())


def test_log_sum_exp_is_the_formula_of_ramon() -> None:
    pool, x = pooling("log-sum-exp"), embeddings()
    assert isinstance(pool, LogSumExp)
    with torch.no_grad():
        pool.log_sharpness += torch.linspace(-2, 2, pool.log_sharpness.numel()).view_as(pool.log_sharpness)
    for k in range(len(SEEDS)):
        r = pool.log_sharpness[k, 0].exp()
        for b, bag in enumerate(x[k].split(SIZES)):
            d = bag @ pool.detect.weight[k] + pool.detect.bias[k]
            torch.testing.assert_close(pool(instances(x))[k, b], torch.log(torch.exp(r * d).mean(0)) / r)
            share = torch.exp(r * d) / torch.exp(r * d).sum(0)
            own = pool.attention(instances(x))[k].split(SIZES)[b]
            torch.testing.assert_close(own, share.mean(1))


@pytest.mark.parametrize(("log_sharpness", "tolerance"), [(-9.0, 1e-3), (9.0, 1e-3)])
def test_log_sum_exp_lies_between_mean_and_maximum(log_sharpness: float, tolerance: float) -> None:
    pool, x = pooling("log-sum-exp"), embeddings()
    assert isinstance(pool, LogSumExp)
    with torch.no_grad():
        pool.log_sharpness.fill_(log_sharpness)
    detected = instances(x).linear(pool.detect).split(SIZES, 1)
    limit = torch.stack([d.mean(1) if log_sharpness < 0 else d.amax(1) for d in detected], 1)
    torch.testing.assert_close(pool(instances(x)), limit, rtol=0, atol=tolerance)

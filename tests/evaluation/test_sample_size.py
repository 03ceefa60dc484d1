"""Sample size by Riley et al., against the figures that they published."""

import math

import pytest

from mil_toolkit.evaluation.sample_size import sample_size


def null_loss(prevalence: float) -> float:
    return -prevalence * math.log(prevalence) - (1 - prevalence) * math.log(1 - prevalence)


def test_the_published_example_of_24_parameters_needs_662_patients() -> None:
    # Riley et al. 2020: Cox-Snell R2 of 0.288, an outcome proportion of 0.174.
    size = sample_size(24, 0.174, null_loss(0.174) + math.log(1 - 0.288) / 2)
    assert size.r2 == pytest.approx(0.288) and not size.assumed
    assert (size.overall_risk, size.shrinkage) == (221, 623)
    assert size.optimism == size.patients == 662


@pytest.mark.parametrize("log_loss", [None, 0.9])
def test_without_a_useful_regression_15_percent_of_the_largest_r2_are_assumed(log_loss: float | None) -> None:
    size = sample_size(3, 0.5, log_loss)
    assert size.assumed and size.r2 == pytest.approx(0.15 * 0.75)


def test_more_parameters_need_more_patients() -> None:
    few, many = (sample_size(count, 0.7, 0.5).patients for count in (3, 30))
    assert many > few

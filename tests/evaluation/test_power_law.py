"""Learning curves: exact recovery of power laws, and their bounds."""

import numpy as np
import pytest

from mil_toolkit.evaluation.power_law import EXPONENTS, fit_power_law

PATIENTS = np.array([30.0, 45, 60, 75])


@pytest.mark.parametrize("place", [0, 12, 24])
@pytest.mark.parametrize(("sign", "limit"), [(-1, 0.9), (1, 0.3)])
def test_a_power_law_is_recovered(place: int, sign: int, limit: float) -> None:
    scores = limit + sign * 0.8 * PATIENTS ** -EXPONENTS[place]
    law = fit_power_law(PATIENTS, scores[None], 1.0 if sign < 0 else 0.0, sign < 0)
    assert (law.limit[0], law.size[0], law.exponent[0]) == pytest.approx((limit, 0.8, EXPONENTS[place]))
    assert law.at(PATIENTS)[0] == pytest.approx(scores)


def test_scores_that_fall_with_more_patients_give_a_flat_curve() -> None:
    law = fit_power_law(PATIENTS, np.array([[0.9, 0.85, 0.8, 0.75]]))
    assert law.at(PATIENTS)[0] == pytest.approx([0.825] * 4)


def test_no_limit_is_better_than_a_perfect_score() -> None:
    law = fit_power_law(PATIENTS, np.array([[0.5, 0.7, 0.85, 0.99], [0.6, 0.6, 0.6, 0.6]]))
    assert law.limit[0] <= 1 and law.at(np.array([1e6]))[0, 0] <= 1
    assert law.at(PATIENTS)[1] == pytest.approx([0.6] * 4)


def test_rows_are_fitted_independently() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(0.6, 0.9, (5, 4))
    together = fit_power_law(PATIENTS, scores).at(np.array([200.0]))
    alone = [fit_power_law(PATIENTS, row[None]).at(np.array([200.0]))[0] for row in scores]
    np.testing.assert_allclose(together, alone)

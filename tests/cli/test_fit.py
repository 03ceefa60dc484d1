"""What mil-fit prints about a comparison of the fine-tuned and the frozen backbone."""

from types import SimpleNamespace

import pytest

from mil_toolkit.cli.fit import _kept_words
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.evaluation.records import Comparison, Difference
from mil_toolkit.study.finetuning import is_better
from mil_toolkit.study.records import ComparedOn, FinetuningScores


@pytest.mark.parametrize(
    ("high", "p_value", "words"),
    [
        (0.1, 0.01, "log-loss does not lie below zero: the backbone stays frozen."),
        (None, None, "log-loss does not lie below zero: the backbone stays frozen."),
        (
            -0.01,
            0.0612,
            "permutation test does not reject equality (p = 0.061, above 0.05): the backbone stays frozen.",
        ),
        (-0.01, 0.04, "log-loss lies below zero: the model is fine-tuned from layer4 on, for 3 epochs."),
    ],
)
def test_the_reason_for_the_model_that_is_kept_is_the_one_that_decided(
    high: float | None, p_value: float | None, words: str
) -> None:
    comparison = Comparison(0.0, {"log_loss": Difference(-0.2, -0.4, high, p_value)})
    kept = is_better(comparison)
    settings = FinetuneConfig(unfreeze="layer4")
    scores = FinetuningScores(settings, ComparedOn(12, True), comparison, kept, "not evaluated")
    about = SimpleNamespace(finetuned=SimpleNamespace(epochs=3) if kept else None)
    assert _kept_words(scores, about, "log_loss").endswith(words)  # type: ignore[arg-type]

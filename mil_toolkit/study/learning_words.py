"""`learning_words`: what a learning curve says, in words."""

from mil_toolkit.evaluation.words import metric_words, with_interval
from mil_toolkit.outcomes.kinds import metric_of
from mil_toolkit.study.records import LearningCurve

WORTH_COLLECTING = 0.02  # gain in a score that a clinic would collect twice as many patients for


def learning_words(curve: LearningCurve) -> list[str]:
    """Return what a learning curve says: what more patients would bring, and how many an interval needs."""
    name, now = metric_words(curve.metric), curve.points[-1]
    more = f"{2 * now.patients:.0f} instead of {now.patients:.0f}"
    change = f"change the {name} by {with_interval(curve.doubled, '+')}"
    sentences = [f"Twice as many training patients ({more}) are expected to {change}. {_advice(curve)}"]
    if curve.patients_for_width is not None:
        sentences.append(
            f"A 95 % interval of width {curve.width:g} around the {name} needs about"
            f" {curve.patients_for_width} patients; with {now.score.patients}, the interval is"
            f" {with_interval(now.score)}."
        )
    return sentences + [f"{share} of the training patients: {why}" for share, why in curve.left_out.items()]


def _advice(curve: LearningCurve) -> str:
    """Return whether more patients would help; a gain is counted as positive, of losses too."""
    low, high = curve.doubled.low, curve.doubled.high
    if low is None or high is None:
        return "The curve cannot be fitted."
    if not metric_of(curve.metric).higher_is_better:
        low, high = -high, -low
    if high < WORTH_COLLECTING:
        return (
            "More patients of the same kind would help little: better images, other features or further"
            " clinical values may help more."
        )
    if low >= WORTH_COLLECTING:
        return "More patients would help."
    return "The study is too small to tell whether more patients or better images would help more."

"""The verdict of a study, by its primary metric and against the stronger of the baselines on the metadata."""

from mil_toolkit.evaluation.records import Comparison
from mil_toolkit.evaluation.words import FEW, metric_words, with_interval
from mil_toolkit.outcomes.kinds import metric_of
from mil_toolkit.study.by_outcome import ALL_RIVALS, OUTCOME_STUDIES, metadata_rivals
from mil_toolkit.study.records import StudyScores


def verdict(scores: StudyScores, primary_metric: str) -> str:
    """Return what the study shows, in a sentence or two."""
    if scores.outer is None:
        return (
            "This study has no score on held-out patients: all patients helped to choose the configuration,"
            " so the performance on new patients is unknown."
        )
    words = metric_words(primary_metric)
    article = "an" if words[0] in "aAiU" or (words.isupper() and words[0] in "MRN") else "a"
    first = (
        f"On held-out patients (nested cross-validation), the procedure reaches {article}"
        f" {metric_words(primary_metric)} of {with_interval(scores.outer[primary_metric])}."
    )
    name = stronger_metadata_baseline(scores, primary_metric)
    gain = (scores.gains or {}).get(name or "")
    if gain is None:
        return first
    both = len(_metadata_baselines(scores)) > 1
    version = f" (the stronger of two {ALL_RIVALS[name].version})" if name and both else ""
    return f"{first} {_gain_words(gain, primary_metric, version)}"


def stronger_metadata_baseline(scores: StudyScores, metric: str) -> str | None:
    """Return the metadata baseline with the better outer score, the first of equals; None without any."""
    values = {name: (scores.rivals or {})[name][metric].value for name in _metadata_baselines(scores)}
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return next(iter(values), None)
    return (max if metric_of(metric).higher_is_better else min)(known, key=lambda name: known[name])


def _metadata_baselines(scores: StudyScores) -> list[str]:
    on_metadata = (name for kind in OUTCOME_STUDIES for name in metadata_rivals(kind))
    return [name for name in dict.fromkeys(on_metadata) if name in (scores.rivals or {})]


def _gain_words(gain: Comparison, metric: str, version: str) -> str:
    difference, higher = gain.differences[metric], metric_of(metric).higher_is_better
    value = with_interval(difference, "+") + ("" if higher else " (lower is better)")
    above = difference.low is not None and difference.low > 0
    below = difference.high is not None and difference.high < 0
    if above if higher else below:
        side = "above" if higher else "below"
        few = ""
        if gain.discordant is not None and gain.discordant < FEW:
            few = ", but few patients are decided differently"
        return f"The gain over metadata only{version} is {value}; the interval lies {side} zero{few}."
    conclusion = "this study does not show that the images help"
    if below if higher else above:
        conclusion = "the metadata alone predict better"
    return f"The difference from metadata only{version} is {value}: {conclusion}."

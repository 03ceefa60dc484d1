"""Checks of stored scores (scores.json) against those that the predictions give."""

import math
import re
from collections.abc import Iterator, Mapping

from mil_toolkit.core.records import Json, to_json
from mil_toolkit.core.text import SOME, count_of, printable
from mil_toolkit.evaluation.records import Comparison, Scores
from mil_toolkit.study.prediction_checks import TOLERANCE
from mil_toolkit.study.records import AblationScores, StudyScores
from mil_toolkit.study.variants import FULL, METADATA_ONLY

VARIANT_NAME = re.compile(r"[^./\\\0][^/\\\0]*")  # names a file
_NOT_COMPARED = ("low", "high", "p_value", "passed_over")  # another version may compute intervals differently


def score_problems(stored: StudyScores, again: StudyScores) -> list[str]:
    """Return which stored figures the predictions do not give, a sentence each.

    Intervals and p-values are not compared, since other versions compute them by other methods, nor is what
    older versions did not store.
    """
    missing = again.outer is not None and (stored.outer is None or stored.optimism is None)
    if missing or (again.outer is None) != (stored.outer is None):
        return ["outer, optimism: the study has outer folds if and only if there are such scores."]
    if (again.rivals or {}).keys() != (stored.rivals or {}).keys():
        return ["rivals: it does not name the baselines of rivals.csv."]
    return _shown(list(_differences(to_json(stored), to_json(again))))


def _differences(stored: Json, again: Json, name: str = "") -> Iterator[str]:
    """Yield every figure that differs, under the dotted path of keys that leads to it."""
    if isinstance(again, dict) and isinstance(stored, dict):
        for key in again.keys() & stored.keys() - set(_NOT_COMPARED):
            yield from _differences(stored[key], again[key], f"{name}.{key}" if name else key)
    elif isinstance(again, list) and isinstance(stored, list) and len(again) == len(stored):
        for place, (one, other) in enumerate(zip(stored, again, strict=True)):
            yield from _differences(one, other, f"{name}[{place}]")
    elif stored is not None and not _equal(stored, again):
        yield f"{name} is {_figure(stored)}; the predictions give {_figure(again)}."


def _equal(one: Json, other: Json) -> bool:
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return _close(one, other) if numbers else one == other  # type: ignore[arg-type]


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _figure(value: Json) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, int) or value is None else f"something with {len(value)} parts"


def _shown(problems: list[str]) -> list[str]:
    """Return the first of many problems, in order, and the number of the others."""
    problems = sorted(problems)
    rest = len(problems) - SOME
    return problems[:SOME] + ([f"{count_of(rest, 'other figure')} differ as well."] if rest > 0 else [])


def gain_problems(scores: StudyScores) -> list[str]:
    """Return which stored gains are not the model's score minus that of the baseline, a sentence each."""
    rivals, gains, outer = scores.rivals or {}, scores.gains or {}, scores.outer
    if rivals.keys() != gains.keys() or (rivals and outer is None):
        return ["rivals and gains: they do not name the same baselines."]
    problems: list[str] = []
    for name, rival in rivals.items():
        assert outer is not None
        problems += difference_problems(f"gains.{name}", gains[name], outer, rival)
    return _shown(problems)


def difference_problems(name: str, comparison: Comparison, one: Scores, other: Scores) -> Iterator[str]:
    """Yield which differences of a comparison are missing, or not those of two methods' scores."""
    if comparison.differences.keys() != one.keys():
        yield f"{name} has other metrics than the scores."
    for metric, difference in comparison.differences.items():
        first, second = (scores[metric].value if metric in scores else None for scores in (one, other))
        expected = None if first is None or second is None else first - second
        if difference.value is not None and (expected is None or not _close(difference.value, expected)):
            yield f"{name}.{metric} is {_figure(difference.value)}; the scores give {_figure(expected)}."


def variant_problems(stored: AblationScores) -> Iterator[str]:
    """Yield whether the scores of an ablation do not belong together, or a name does not fit a file."""
    full = stored.variants.get(FULL)
    if full is None or full.difference is not None:
        yield f"variants: there is no `{FULL}` without a difference."
        return
    for name, variant in stored.variants.items():
        if not VARIANT_NAME.fullmatch(name):
            yield f"variants: {printable(name)[:100]!r} is not the name of a variant."
        elif variant.difference is None and name != FULL:
            yield f"variants.{name}.difference is missing."
        elif len(variant.folds) != len(full.folds) or variant.scores.keys() != full.scores.keys():
            yield f"variants.{name} has other folds or metrics than `{FULL}`."
        elif variant.difference is not None:
            place = f"variants.{name}.difference"
            yield from difference_problems(place, variant.difference, variant.scores, full.scores)
    metadata = stored.variants.get(METADATA_ONLY)
    for name, gain in stored.gains.items():
        if metadata is None or name not in stored.variants:
            yield f"gains: {printable(name)[:100]!r} and `{METADATA_ONLY}` are not both among the variants."
        else:
            scores = stored.variants[name].scores
            yield from difference_problems(f"gains.{name}", gain, scores, metadata.scores)


def ablation_problems(stored: AblationScores, again: Mapping[str, Scores]) -> list[str]:
    """Return which figures of an ablation its predictions do not give.

    again: the scores of each variant's predictions
    """
    problems: list[str] = []
    for name, variant in stored.variants.items():
        scores = {metric: to_json(score) for metric, score in again[name].items()}
        mine: dict[str, Json] = {metric: to_json(score) for metric, score in variant.scores.items()}
        problems += _differences(mine, scores, f"variants.{name}.scores")
    return _shown(problems)

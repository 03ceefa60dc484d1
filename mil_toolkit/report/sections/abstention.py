"""What a report says about abstention (`mil-predict --abstain`): its coverage on held-out patients."""

from mil_toolkit.evaluation.words import with_interval
from mil_toolkit.outcomes.sets import PredictionSets
from mil_toolkit.report.contents import Contents
from mil_toolkit.study.abstention import Coverage, coverage

LEVELS = (0.05, 0.1, 0.2)


def abstention_notes(contents: Contents) -> list[str]:
    """Return a sentence for each error rate; none without outer folds, or for an outcome without sets."""
    outcome, sets = contents.study.outcome, contents.study.outcome.sets
    if not contents.nested or sets is None:
        return []
    names = sets.names if outcome.fixed_classes else tuple(f"of {name}:" for name in sets.names)
    measured = [coverage(sets, contents.table, alpha) for alpha in LEVELS]
    return [_intro(sets), *(_words(names, one) for one in measured)]


def _intro(sets: PredictionSets) -> str:
    return (
        f"Abstention (mil-predict --abstain ALPHA) answers with {sets.answer}, by cross-conformal prediction"
        " (Vovk 2015; CV+, Barber et al. 2021). At an error rate alpha the nominal coverage is 1 - alpha. For"
        " sets by the models of the folds, theory bounds the coverage of exchangeable patients from below, by"
        " 1 - 2 alpha less a term that shrinks with larger folds (Barber et al. 2021, Theorem 4); the bound"
        f" below is that {sets.bounded}. The bundle predicts with one model of all patients instead, to which"
        " the bound does not apply unless predictions hardly change when a fold is left out. The coverage"
        " below is measured on each outer fold, with the calibration of the others."
    )


def _words(names: tuple[str, ...], one: Coverage) -> str:
    parts = [f"measured coverage {with_interval(one.covered)}"]
    if len(one.classes) == len(names):
        parts += [f"{name} {with_interval(share)}" for name, share in zip(names, one.classes, strict=True)]
    undecided = "" if one.undecided is None else f"; {one.undecided:.1%} of the patients left undecided"
    return (
        f"Error rate {one.alpha:g}: nominal coverage {1 - one.alpha:g}, bound of CV+ {one.bound:.3g},"
        f" {', '.join(parts)}{undecided}."
    )

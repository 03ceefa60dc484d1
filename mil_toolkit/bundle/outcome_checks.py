"""`outcome_problems`: whether the outcome that a cohort declares is the one that a model predicts."""

import json
from collections.abc import Iterator

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.records import Json
from mil_toolkit.core.text import printable
from mil_toolkit.outcomes.outcome import Outcome


def outcome_problems(bundle: ModelBundle, cohort: Cohort) -> list[str]:
    """Return how the declared outcome of a cohort differs from that of a model; the words may differ.

    A cohort that declares no outcome fits every model. Positive and negative may have any words, as long as
    these are not exchanged. One common word is not enough for that: a table with 1 and 2 may well have the
    classes of one with 0 and 1.
    """
    model, here = bundle.about.predicted, cohort.outcome
    if not here.table_columns:
        return []
    source = printable(cohort.source)
    if here.kind != model.kind:
        problem = f"{source} declares the outcome {here.kind}; the model predicts the outcome {model.kind}."
        return [f"{problem} Declare that, or leave the outcome out."]
    if model.fixed_classes:
        return list(_exchanged(here.class_names, bundle.about.class_names, source))
    return [*_class_problems(here, model, source), *_key_problems(here, model, source)]


def _exchanged(here: tuple[str, ...], model: tuple[str, ...], source: str) -> Iterator[str]:
    """Yield that positive and negative both have the words of the other class."""
    if here == (model[1], model[0]) and here != model:
        negative, positive = here
        yield (
            f"{source}: positive is {printable(repr(positive))} and negative {printable(repr(negative))}; the"
            f" model was fitted with positive {printable(repr(model[1]))} and negative"
            f" {printable(repr(model[0]))}. Exchange them."
        )


def _class_problems(here: Outcome, model: Outcome, source: str) -> Iterator[str]:
    """Yield which classes are not those of the model, or that their order is another one."""
    if here.class_names == model.class_names:
        return
    unknown = [printable(repr(name)) for name in here.class_names if name not in model.class_names]
    known = ", ".join(printable(repr(name)) for name in model.class_names)
    if not unknown:
        yield f"{source}: classes must be those of the model, in its order: {known}."
        return
    problem = f"{source}: the model was never trained on the class {' or '.join(unknown)}."
    advice = "Exclude these patients, or merge the class with one of them."
    yield f"{problem} It distinguishes {known}. {advice}"


def _key_problems(here: Outcome, model: Outcome, source: str) -> Iterator[str]:
    """Yield which keys of the outcome have other values than those of the model."""
    for key in model.fixed_keys:
        given, fitted = getattr(here, key), getattr(model, key)
        if given != fitted:
            yield (
                f"{source}: {key} is {_written(given)} under [cohort]; the model was fitted"
                f" {'without one' if fitted is None else f'with {_written(fitted)}'}. {_advice(key, fitted)},"
                " or leave the outcome out to predict without scores."
            )


def _written(value: Json) -> str:
    return "not given" if value is None else printable(json.dumps(value, ensure_ascii=False))


def _advice(key: str, fitted: Json) -> str:
    if fitted is None:
        return f"Remove {key}"
    return f"Declare {key} = {_written(fitted)}" + (", with numbers in this unit" if key == "unit" else "")

"""`outcome_problems`: whether the outcome that a cohort declares is the one that a model predicts."""

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.text import printable
from mil_toolkit.outcomes.kinds import DEFAULT


def outcome_problems(bundle: ModelBundle, cohort: Cohort) -> list[str]:
    """Return how the declared outcome of a cohort differs from that of a model; the words may differ.

    A cohort that declares no outcome fits every model. Two classes are compared by nothing else than that
    there are two: they are positive and negative, whatever their words.
    """
    model, here = bundle.about.predicted, cohort.outcome
    if not here.table_columns:
        return []
    source = printable(cohort.source)
    if here.kind != model.kind:
        problem = f"{source} declares the outcome {here.kind}; the model predicts the outcome {model.kind}."
        return [f"{problem} Declare that, or leave the outcome out."]
    if model.kind == DEFAULT or here.class_names == model.class_names:
        return []
    unknown = [printable(repr(name)) for name in here.class_names if name not in model.class_names]
    known = ", ".join(printable(repr(name)) for name in model.class_names)
    if not unknown:
        return [f"{source}: classes must be those of the model, in its order: {known}."]
    problem = f"{source}: the model was never trained on the class {' or '.join(unknown)}."
    advice = "Exclude these patients, or merge the class with one of them."
    return [f"{problem} It distinguishes {known}. {advice}"]

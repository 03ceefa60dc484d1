"""The parameters of the estimators: their defaults and checks."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from inspect import Parameter, Signature
from numbers import Integral, Real
from typing import TypeAlias

from mil_toolkit.config.head import BY_GROUP, HeadConfig
from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.config.settings import head_config
from mil_toolkit.config.study import StudyConfig, for_outcome
from mil_toolkit.config.tunable import Settings, tunables
from mil_toolkit.core.errors import UsageError
from mil_toolkit.training.arrays import BagError

ParameterValue: TypeAlias = bool | int | float | str | Sequence[str | int | float] | None
Parameters: TypeAlias = Mapping[str, ParameterValue]
_SHARED = ("folds", "members", "seed")  # fields of StudyConfig that concern a single configuration
_SHARES = ("sensitivity", "sensitivity_confidence")
DECISION = ("threshold", *_SHARES)  # fields of StudyConfig that concern the decision between two classes
HEAD_PARAMETERS = "".join(f"\n    - {name}: {setting.help}" for name, setting in tunables(HeadConfig).items())


def defaults_for(
    kind: str, procedure: Sequence[str] = (), **own: ParameterValue
) -> dict[str, ParameterValue]:
    """Return the parameters of an estimator with their defaults.

    They are the fields of HeadConfig, the fields of StudyConfig that concern a single configuration, and
    those that only the estimator has.

    kind: of the outcome whose objective is the default; procedure: more fields of StudyConfig
    """
    study = {name: getattr(StudyConfig(), name) for name in (*_SHARED, *procedure)}
    objective = OUTCOME_METRICS[kind].objective
    return {**asdict(HeadConfig()), **study, "objective": objective, **own, "device": "auto"}


def keyword_init(owner: str, defaults: Parameters) -> Callable[..., None]:
    """Return an `__init__` with these keyword parameters, which sets them as attributes.

    scikit-learn, and the help of a notebook, read the parameters from its signature.
    """

    def __init__(self: object, **parameters: ParameterValue) -> None:
        unknown = parameters.keys() - defaults.keys()
        if unknown:
            raise TypeError(f"{owner} has no parameter {', '.join(sorted(unknown))}.")
        for name, value in {**defaults, **parameters}.items():
            setattr(self, name, value)

    keywords = [Parameter(name, Parameter.KEYWORD_ONLY, default=value) for name, value in defaults.items()]
    signature = Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *keywords])
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


def read_parameters(values: Parameters) -> tuple[HeadConfig, StudyConfig]:
    """Return the configurations of head and procedure; raises BagError that lists every invalid parameter."""
    problems = _procedure_problems(values)
    if values["features"] != HeadConfig().features:
        problems.append(
            f"features={values['features']!r}: there is one view, the bags of X. Put the columns of several"
            " views side by side."
        )
    if values["standardise"] == BY_GROUP:
        problems.append(
            f"standardise={BY_GROUP!r}: predict is given no groups. Use standardise=True, or mil-tune with"
            " the groups of a cohort."
        )
    try:
        config = head_config({field.name: values[field.name] for field in fields(HeadConfig)})  # type: ignore[misc]
    except UsageError as error:
        problems.append(str(error))
    if problems:
        raise BagError(problems)
    return config, _study_config(values)


def _study_config(values: Parameters) -> StudyConfig:
    known = {field.name for field in fields(StudyConfig)}
    return StudyConfig(**{name: value for name, value in values.items() if name in known})  # type: ignore[arg-type]


def _procedure_problems(values: Parameters) -> list[str]:
    """Return a message for every invalid parameter of the procedure."""
    problems = [
        f"{name}={values[name]!r} is not an integer."
        for name in _SHARED
        if not isinstance(values[name], Integral)
    ]
    problems += [
        f"{name}={values[name]!r} is not a number."
        for name in _SHARES
        if not isinstance(values.get(name), Real | None)
    ]
    try:
        if not problems:
            _study_config(values)
    except UsageError as error:
        problems.append(_as_parameters(str(error)))
    return problems


def check_for_outcome(config: HeadConfig, study: StudyConfig, kind: str) -> None:
    """Raise BagError for parameters that do not fit this kind of outcome, all of them."""
    known, problems = OUTCOME_METRICS[kind].names, list[str]()
    settings: Settings = {"pooling": (config.pooling,), "attention_heads": (config.attention_heads,)}
    if study.objective not in known:
        problems.append(f"objective={study.objective!r} is not one of {', '.join(known)}.")
    try:
        for_outcome(replace(study, objective=known[0], settings=settings), kind)
    except UsageError as error:
        problems.append(_as_parameters(str(error)))
    if problems:
        raise BagError(problems)


def _as_parameters(message: str) -> str:
    """Return a message about options of mil-tune as one about parameters.

    >>> _as_parameters("--set pooling: no. --sensitivity-confidence needs --sensitivity.")
    'pooling: no. sensitivity_confidence needs sensitivity.'
    """
    options = re.compile(r"--(?:set )?([a-z-]+)")
    return options.sub(lambda option: option[1].replace("-", "_"), message)

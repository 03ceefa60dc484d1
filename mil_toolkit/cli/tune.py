"""mil-tune: search the hyperparameters of the head, and score the procedure by nested cross-validation."""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.cli.command import (
    Outcome,
    add_device,
    add_features,
    command_parser,
    run,
    with_report,
)
from mil_toolkit.config.head import HeadConfig, view_names
from mil_toolkit.config.metrics import METRIC_NAMES, PRIMARY_NAMES
from mil_toolkit.config.presets import PRESETS
from mil_toolkit.config.run import RunConfig
from mil_toolkit.config.settings import option_words, parse_settings, setting_words
from mil_toolkit.config.study import (
    GROUPS,
    OFFICIAL,
    PRUNER_NAMES,
    SAMPLER_NAMES,
    THRESHOLD_NAMES,
    TRACKER_NAMES,
    StudyConfig,
    for_outcome,
)
from mil_toolkit.config.tunable import Value, tunables
from mil_toolkit.core.completion import suggest
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.records import Json, to_json
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.records import Scores
from mil_toolkit.evaluation.words import (
    comparison_words,
    fitted_word,
    in_use,
    metric_title,
    metric_with_direction,
    metric_words,
    number,
    passed_over_words,
    spread_words,
    table_metrics,
    with_interval,
)

if TYPE_CHECKING:
    from mil_toolkit.cohort.cohort import Cohort
    from mil_toolkit.study.records import StudyScores
    from mil_toolkit.study.tune import Tuned
    from mil_toolkit.training.patients import Features

logger = logging.getLogger(__name__)
QUICK = {"trials": 10, "outer_folds": 0, "members": 1}
FOUNDING = {"objective": "balanced_accuracy"}
_DEFAULT = StudyConfig()


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-tune."""
    return run(_parser(), _tune, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "mil-tune",
        "Search the head's hyperparameters, and score the procedure on held-out patients by nested"
        " cross-validation. Results go to a study folder.",
    )
    settings = "; ".join(f"{name} ({field.help})" for name, field in tunables(HeadConfig).items())
    parser.epilog = f"--set names: {settings}"
    parser.add_argument("cohort", type=Path, metavar="COHORT.toml", help="the cohort")
    add_features(parser, several="or several that each search chooses among")
    views = parser.add_argument(
        "--views",
        nargs="+",
        default=[],
        metavar="CACHE_FOLDER",
        help="cache folders of the same images that are used together; with --features, the search also"
        " chooses between them and single folders",
    )
    suggest(views, (), files=True)
    parser.add_argument(
        "--study", type=Path, required=True, metavar="studies/NAME", help="folder of the study"
    )
    _add_design(parser.add_argument_group("study design"))
    _add_decision(parser.add_argument_group("objective and decision"))
    _add_search(parser.add_argument_group("search"))
    _add_running(parser.add_argument_group("running"))
    add_device(parser)
    return parser


def _add_design(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--folds", type=int, default=_DEFAULT.folds, help="inner folds; 1: a single 80/20 split")
    outer = add(
        "--outer-folds",
        type=_outer_folds,
        metavar="N|groups|official",
        help="outer folds, whose patients are held out; 0: none; groups: one for each declared group;"
        " official: those that the cohort.toml names, which then are the default"
        f" (default: {_DEFAULT.outer_folds})",
    )
    suggest(outer, (GROUPS, OFFICIAL))
    add(
        "--repeats",
        type=int,
        help="repeats of the outer folds with other splits; official folds have their own"
        f" (default: {_DEFAULT.repeats})",
    )
    add(
        "--members",
        type=int,
        help="members of a fitted model, which differ in their seed and are averaged"
        f" (default: {_DEFAULT.members})",
    )
    add("--seed", type=int, default=_DEFAULT.seed, help="seed that all randomness derives from")
    add(
        "--canary",
        action="store_true",
        help="first tune 20 small studies on shuffled labels; exit with 3 if their AUC differs from 0.5",
    )
    add(
        "--learning-curve",
        action="store_true",
        help="afterwards run the outer folds on 40, 60 and 80 %% of their training patients, to see what more"
        " patients would bring (about twice the time of the study)",
    )
    add(
        "--interval-width",
        type=float,
        default=0.1,
        metavar="W",
        help="with --learning-curve, say how many patients a 95 %% interval of this width needs",
    )


def _add_decision(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--objective",
        choices=METRIC_NAMES,
        help=f"metric that the search improves (default: {_DEFAULT.objective}; with --preset founding:"
        f" {FOUNDING['objective']})",
    )
    add(
        "--primary-metric",
        choices=PRIMARY_NAMES,
        default=_DEFAULT.primary_metric,
        help="metric that the verdict rests on, fixed when the study begins; all others are secondary"
        " (default: %(default)s)",
    )
    add(
        "--threshold",
        choices=THRESHOLD_NAMES,
        default=_DEFAULT.threshold,
        help="share: the share of positives, optimal for balanced accuracy if probabilities are calibrated;"
        " balanced: the highest balanced accuracy in inner cross-validation; half: 0.5",
    )
    add(
        "--sensitivity",
        type=float,
        metavar="X",
        help="choose the threshold for this sensitivity in inner cross-validation instead; on new patients it"
        " is missed about half of the time, unless --sensitivity-confidence is given",
    )
    add(
        "--sensitivity-confidence",
        type=float,
        metavar="C",
        help="choose the threshold so that the one-sided lower confidence bound of the sensitivity reaches"
        " --sensitivity, for example 0.95 (needs 59 positive patients for a sensitivity of 0.95)",
    )
    add(
        "--prevalence",
        type=float,
        metavar="X",
        help="share of positives where the model will be used, for PPV and NPV (default: the cohort's)",
    )


def _add_search(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--trials", type=int, help=f"trials of each search (default: {_DEFAULT.trials})")
    add("--epochs", type=int, default=HeadConfig().epochs, help="maximum number of epochs")
    add("--sampler", choices=SAMPLER_NAMES, default=_DEFAULT.sampler, help="how trials are proposed")
    add("--pruner", choices=PRUNER_NAMES, default=_DEFAULT.pruner, help="how poor trials are stopped early")
    add(
        "--preset",
        choices=PRESETS,
        default="default",
        help="search space; founding: the plain head on raw embeddings; wide: also whole embeddings, an"
        " instance network, more poolings and other initialisations, for bags that one image decides",
    )
    add(
        "--together",
        type=int,
        default=_DEFAULT.together,
        metavar="N",
        help="propose N trials at once; on a CUDA card, those of equal shape are trained in one population"
        " (default: %(default)s, each trial from the results of all before it)",
    )
    add("--quick", action="store_true", help=f"a first look: {' '.join(option_words(QUICK))} unless given")
    setting = add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE[,VALUE...]",
        help="fix a hyperparameter, or list the values to try; may be repeated",
    )
    suggest(setting, setting_words)


def _add_running(group: argparse._ArgumentGroup) -> None:
    add, default = group.add_argument, RunConfig()
    add(
        "--storage",
        metavar="URL",
        help="database for processes on several machines, postgresql://USER@HOST/DATABASE (default: a file in"
        " the study folder)",
    )
    add(
        "--workers",
        type=int,
        help="searches that run at once on this machine, each in a process of its own; 1: one after the other"
        " (default: as many as there are searches, cores and memory for). With --storage: processes that"
        " share the trials of all searches (default: 1)",
    )
    add(
        "--threads",
        type=int,
        help="threads of each search, on which the last bits of its results depend (default: those that the"
        f" study was begun with, else {_DEFAULT.threads})",
    )
    add(
        "--timeout",
        type=float,
        metavar="S",
        help="start no trials of a search later than S seconds after its first, and choose among those run",
    )
    add(
        "--tracker", choices=TRACKER_NAMES, default=default.tracker, help="service that also gets the metrics"
    )


def _outer_folds(text: str) -> int | str:
    try:
        return text if text in (GROUPS, OFFICIAL) else int(text)
    except ValueError:
        expected = f"expected a whole number, {GROUPS} or {OFFICIAL}"
        raise argparse.ArgumentTypeError(f"{expected}, not {text!r}") from None


def _tune(arguments: argparse.Namespace) -> Outcome:
    config = _config(arguments)
    _check_learning_curve(arguments, config)
    how = RunConfig(arguments.storage, arguments.workers, arguments.timeout, arguments.tracker)
    from mil_toolkit.cohort.cohort import read_cohort
    from mil_toolkit.cohort.image_places import check_outside_images, image_folders
    from mil_toolkit.core.devices import pick_device
    from mil_toolkit.core.own_folders import check_outside_own_folders
    from mil_toolkit.study.canary import NoShuffle, run_canary
    from mil_toolkit.study.learning import run_learning_curve
    from mil_toolkit.study.learning_words import learning_words
    from mil_toolkit.study.tune import check_run, recorded_threads, tune
    from mil_toolkit.study.views import with_features

    pick_device(arguments.device)  # before the data are read
    cohort = read_cohort(arguments.cohort, images=False)
    config = _with_official_folds(config, cohort, arguments)
    features = _features(arguments, cohort.name)
    config = for_outcome(_choosing(config, arguments), cohort.outcome.kind)
    config = with_features(config, features)
    study, device = arguments.study, arguments.device
    check_outside_images(image_folders(arguments.cohort), {"--study": study})
    check_outside_own_folders(study)
    if arguments.threads is None:
        config = replace(config, threads=recorded_threads(study) or config.threads)
    canary = None
    if arguments.canary:
        check_run(study, device, config, how)  # `tune` checks too, but only after the canary
        try:
            canary = run_canary(cohort, features, study, config, device, how=how)
        except NoShuffle as error:
            logger.warning("%s", error)
    tuned = tune(cohort, features, study, config, device, how)
    curve = None
    if arguments.learning_curve:
        width = arguments.interval_width
        curve = run_learning_curve(cohort, features, study, width, device, how)
    lines = [summary(tuned, arguments.quick), *(learning_words(curve) if curve else [])]
    lines += [_next(tuned), *([str(canary)] if canary else [])]
    data = {
        **_data(tuned),
        "canary": to_json(canary) if canary else None,
        "learning_curve": to_json(curve) if curve else None,
    }
    code = DataError.exit_code if canary is not None and not canary.passed else 0
    return with_report(Outcome("\n".join(lines), data, code), study)


def _features(arguments: argparse.Namespace, cohort_name: str) -> "Features":
    """Open the folders that --features and --views name, each once; by default the cohort's only cache."""
    from mil_toolkit.features.cache import open_features
    from mil_toolkit.study.sources import open_folders

    folders = {Path(folder): folder for folder in (*(arguments.features or []), *arguments.views)}
    return open_folders([*folders.values()], cohort_name) if folders else open_features(None, cohort_name)


def _choosing(config: StudyConfig, arguments: argparse.Namespace) -> StudyConfig:
    """Return the options with the features that each search chooses among; raises UsageError."""
    from mil_toolkit.study.views import features_setting

    if "features" in config.settings:
        raise UsageError("--set features: name the folders with --features and --views.")
    single, together = (
        [Path(path).name for path in paths or []] for paths in (arguments.features, arguments.views)
    )
    for option, names in (("--features", single), ("--views", together)):
        if len(set(names)) < len(names):
            raise UsageError(f"{option}: name each folder once; their names must differ.")
    if len(together) == 1:
        raise UsageError(
            "--views needs two folders or more. For one, or to choose among several, use --features."
        )
    if len(single) + len(together) < 2:
        return config
    return replace(config, settings={**config.settings, "features": features_setting(single, together)})


def _config(arguments: argparse.Namespace) -> StudyConfig:
    names = [field.name for field in fields(StudyConfig) if field.name != "settings"]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.epochs < 1:
        raise UsageError(f"--epochs must be at least 1, not {arguments.epochs}.")
    usual = (FOUNDING if arguments.preset == "founding" else {}) | (QUICK if arguments.quick else {})
    settings = {**PRESETS[arguments.preset], **parse_settings([f"epochs={arguments.epochs}", *arguments.set])}
    return StudyConfig(**(usual | given), settings=settings)


def _with_official_folds(config: StudyConfig, cohort: "Cohort", arguments: argparse.Namespace) -> StudyConfig:
    """Return the options with the official folds and repeats of the cohort, unless others were given."""
    unless = arguments.quick if arguments.outer_folds is None else arguments.outer_folds != OFFICIAL
    if cohort.folds is None or unless:
        return config
    repeats = config.repeats if arguments.repeats is not None else len(cohort.folds.repeats)
    return replace(config, outer_folds=OFFICIAL, repeats=repeats)


def _check_learning_curve(arguments: argparse.Namespace, config: StudyConfig) -> None:
    """Raise UsageError for options of the learning curve that cannot work."""
    if arguments.learning_curve and not config.outer_folds:
        raise UsageError("--learning-curve needs outer folds, whose held-out patients it is scored on.")
    if not 0 < arguments.interval_width < 1:
        raise UsageError(
            f"--interval-width must lie between 0 and 1, not {arguments.interval_width:g}: it is the width of"
            " an interval of a score."
        )


def summary(tuned: "Tuned", quick: bool = False) -> str:
    """Return the scores as a table, what they mean, what was chosen, and the audit's main findings."""
    config = tuned.study.config
    lines = score_lines(tuned.scores, config.primary_metric)
    if tuned.scores.outer is None:
        lines.append(_no_outer_words(quick, tuned.scores.inner))
    else:
        lines += _outer_lines(tuned.scores, tuned.scores.outer, config)
    return "\n".join([*lines, *_choice_lines(tuned), *_audit_lines(tuned)])


def score_lines(scores: "StudyScores", primary_metric: str) -> list[str]:
    """Return the table of scores: a row for each kind, the baselines below the outer scores."""
    training, metrics = scores.training or {}, table_metrics(primary_metric, scores.inner)
    rows = {"": metrics, "training": [number(training.get(metric)) for metric in metrics]}
    kinds = {"validation (inner folds)": scores.inner}
    if scores.outer is not None:
        kinds["outer (held-out patients)"] = scores.outer
    kinds |= {f"  baseline {name}": baseline for name, baseline in (scores.rivals or {}).items()}
    rows |= {name: [with_interval(kind[metric]) for metric in metrics] for name, kind in kinds.items()}
    width, wide = max(map(len, rows)), max(24, *(2 + len(cell) for cells in rows.values() for cell in cells))
    return [
        f"{name:{width}s}" + "".join(f"{cell:>{wide}s}" for cell in cells) for name, cells in rows.items()
    ]


def _no_outer_words(quick: bool, inner: Scores) -> str:
    first_look = " --quick is only a first look." if quick else ""
    return (
        "The validation scores are optimistic: they chose the configuration, the number of epochs and the"
        f" {fitted_word(inner)}. Without outer folds, this study has no score on held-out patients."
        f"{first_look}"
    )


def _outer_lines(scores: "StudyScores", outer: Scores, config: StudyConfig) -> Iterator[str]:
    """Yield the verdict, which rests on the primary metric, and what belongs to it."""
    from mil_toolkit.study.verdict import verdict

    metric = config.primary_metric
    score, name = outer[metric], metric_words(metric)
    yield f"{metric_title(metric)} on held-out patients (nested cross-validation): {with_interval(score)}."
    yield (
        f"{count_of(score.patients, 'patient')}, {count_of(score.repeats, 'repeat')}, 95 % intervals over"
        " patients. The validation scores chose the configuration and are optimistic."
    )
    for words in (in_use(outer, config.prevalence), spread_words(scores.spread)):
        if words:
            yield words
    if scores.optimism:
        yield f"Optimism (validation minus outer {name}): {with_interval(scores.optimism[metric])}."
    for baseline, gain in (scores.gains or {}).items():
        yield f"Gain over {baseline} in {metric_with_direction(metric)}: {comparison_words(gain, metric)}"
    yield (f"Verdict, by the primary metric ({name}; all others are secondary): {verdict(scores, metric)}")


def _choice_lines(tuned: "Tuned") -> list[str]:
    from mil_toolkit.study.methods import transductive_words

    best, other = tuned.best, tuned.best.passed_over
    chosen = f"{_settings(best.parameters)}, {count_of(best.epoch, 'epoch')}"
    lines = [f"{count_of(tuned.trials, 'trial')}. Chosen: {chosen}."]
    if other is not None:
        objective = tuned.study.config.objective
        lines.append(passed_over_words(other, objective))
    if words := transductive_words(tuned.study.config, tuned.study.description.features):
        lines.append(words)
    return lines


def _next(tuned: "Tuned") -> str:
    return f"Study: {tuned.study.folder}. Next: mil-fit COHORT.toml --study {tuned.study.folder}"


def _audit_lines(tuned: "Tuned") -> list[str]:
    from mil_toolkit.study.audit import worth_telling

    lines = worth_telling(tuned.findings)
    return [f"Audit ({tuned.study.audit_path}):", *(f"  {line}" for line in lines)] if lines else []


def _settings(parameters: Mapping[str, Value]) -> str:
    """Return the features in words, and the options that fix the other hyperparameters."""
    options = [f"--set {name}={_short(value)}" for name, value in parameters.items() if name != "features"]
    chosen = view_names(str(parameters["features"])) if "features" in parameters else []
    features = [f"features {' and '.join(chosen)}{' together' if len(chosen) > 1 else ''}"] if chosen else []
    return ", ".join([*features, *([" ".join(options)] if options else [])]) or "the defaults"


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _data(tuned: "Tuned") -> dict[str, Json]:
    scores = to_json(tuned.scores)
    assert isinstance(scores, dict)
    return {
        "study": str(tuned.study.folder),
        **scores,
        "best": dict(tuned.best.parameters),
        "trials": tuned.trials,
        "audit": [to_json(finding) for finding in tuned.findings],
        "seconds_per_trial": tuned.seconds_per_trial,
    }

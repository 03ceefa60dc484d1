"""The overview: the main score, its meaning, the study in short, and the next steps."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from markupsafe import Markup

from mil_toolkit.config.head import view_names
from mil_toolkit.config.options import study_options
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.text import by_name, count_of, printable
from mil_toolkit.evaluation.words import (
    comparison_words,
    in_use,
    metric_with_direction,
    metric_words,
    number,
    with_interval,
)
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.figures.scores import chance_of, comparison_figure
from mil_toolkit.report.names import baseline_words, metric_name
from mil_toolkit.report.sections.tables import Cell, cell
from mil_toolkit.study.records import StudyScores
from mil_toolkit.study.verdict import verdict

BESIDE = (  # the primary metric
    *("balanced_accuracy", "auc", "sensitivity", "specificity"),
    *("macro_auc", "macro_f1", "kappa", "quadratic_kappa", "rank_error"),
    *("rmse", "r2", "spearman"),
    *("concordance_harrell", "concordance_uno", "integrated_brier"),
)
_BRANCHES = {"mlp": "metadata through an MLP", "direct": "metadata used directly", "none": "no metadata"}
_FUSIONS = {"early": "image by image", "late": "after a pooling for each"}


@dataclass(frozen=True)
class Step:
    """A command to run next, and what it gives."""

    purpose: str
    command: str


@dataclass(frozen=True)
class Overview:
    """The first screen.

    verdict: what the study shows, in a sentence or two
    metric: name of the primary metric; score: that score; beside: other scores, by name
    chance: whether the figure has a line at the score of chance
    optimism, in_use: sentences, None without outer folds; comparison: figure of the model and the baselines
    gains: over each baseline, a line each; facts: about the study, by name
    """

    verdict: str
    metric: str
    score: Cell
    beside: dict[str, Cell]
    optimism: str | None
    in_use: str | None
    comparison: Markup
    chance: bool
    gains: list[str]
    facts: dict[str, str]
    steps: list[Step]


def overview(contents: Contents, anonymise: bool, own_facts: Mapping[str, str]) -> Overview:
    """Return the first screen of a study's report; own_facts: of the kind of outcome, by name."""
    scores, primary = contents.own_scores, contents.primary_metric
    return Overview(
        verdict=verdict(contents.scores, primary),
        metric=metric_name(primary),
        score=cell(scores[primary]),
        beside={
            metric_name(name): cell(scores[name]) for name in BESIDE if name in scores and name != primary
        },
        optimism=_optimism(contents.scores, primary),
        in_use=in_use(scores, contents.study.config.prevalence) if contents.nested else None,
        comparison=comparison_figure(contents),
        chance=chance_of(contents, primary) is not None,
        gains=[
            f"Gain over {baseline_words(name)} in {metric_with_direction(primary)}:"
            f" {comparison_words(gain, primary)}"
            for name, gain in (contents.scores.gains or {}).items()
        ],
        facts={**own_facts, **dict(_facts(contents))},
        steps=list(steps(contents, anonymise)),
    )


def _optimism(scores: StudyScores, metric: str) -> str | None:
    if not scores.optimism:
        return None
    inner, gap = number(scores.inner[metric].value), with_interval(scores.optimism[metric], "+")
    return f"Validation (inner folds), which chose the configuration, gave {inner}: an optimism of {gap}."


def _facts(contents: Contents) -> Iterator[tuple[str, str]]:
    """Yield name and text of each fact about the patients, the procedure and the chosen model."""
    config = contents.study.config
    yield from _patient_facts(contents)
    folds = f"{config.outer_folds} outer" if contents.nested else "no outer"
    yield "Folds", f"{folds}, {config.folds} inner; {count_of(config.repeats, 'repeat')}"
    searches = count_of(len(contents.curves), "search", "searches")
    yield "Trials", f"{config.trials} in each of {searches}, by {metric_words(config.objective)}"
    names = ", ".join(printable(features.name) for features in contents.study.description.all_features)
    yield "Primary metric", f"{metric_name(contents.primary_metric)}, declared before the study began"
    yield "Features", names or "none (metadata only)"
    yield "Chosen model", _model_words(contents)
    yield "Seed", f"{config.seed}"


def _patient_facts(contents: Contents) -> Iterator[tuple[str, str]]:
    labels, patients = contents.table.labels, contents.patients
    names = contents.class_names
    counts = [int((labels == number).sum()) for number in range(len(names))]
    words = by_name(names, counts)
    if len(names) == 2:
        words = f"{counts[1]} {names[1]}, {counts[0]} {names[0]}"
    yield "Patients", f"{len(labels)}: {words}" if words else f"{len(labels)}"
    if patients is None:
        return
    if patients.unlabelled:
        yield "Unlabelled", f"{patients.unlabelled}, not used"
    sizes = [patient.images for patient in patients.patients if patient.images is not None]
    if sizes and len(sizes) == len(patients.patients):
        median = f"{np.median(sizes):g} ({min(sizes)} to {max(sizes)})"
        yield "Images", f"{sum(sizes)}; median per patient {median}"


def _model_words(contents: Contents) -> str:
    head, members = contents.best.config, contents.study.config.members
    layers = f" after {count_of(head.instance_layers, 'layer')}" if head.instance_layers else ""
    images = f"{head.pooling} pooling of the images{layers}" if head.image_branch else "no images"
    views = view_names(head.features) if head.image_branch else []
    if views:
        fused = f", joined {_FUSIONS[head.view_fusion]}" if len(views) > 1 else ""
        images = f"{images} ({' and '.join(map(printable, views))}{fused})"
    parts = [
        images,
        _BRANCHES[head.metadata_branch],
        count_of(contents.best.epoch, "epoch"),
        count_of(members, "member"),
    ]
    return ", ".join(parts)


def _feature_options(config: StudyConfig, folders: Sequence[str]) -> list[str]:
    """Return the options of mil-tune that name the features and say how they are used."""
    options = [view_names(str(value)) for value in config.settings.get("features", ())]
    if len(folders) < 2 or not options:
        return ["--features", *folders]
    by_name = {Path(folder).name: folder for folder in folders}
    single = [by_name.get(names[0], names[0]) for names in options if len(names) == 1]
    together = [by_name.get(name, name) for name in max(options, key=len)]
    words = ["--features", *single] if single else []
    return [*words, "--views", *together] if len(together) > 1 else words


def steps(contents: Contents, anonymise: bool) -> Iterator[Step]:
    """Yield the commands to run next, as far as the folder tells."""
    config, sources = contents.study.config, None if anonymise else contents.sources
    study = sources.study if sources else "studies/NAME"
    cohort = sources.cohort if sources else "COHORT.toml"
    folders = (sources.feature_folders or ["none"]) if sources else ["CACHE_FOLDER"]
    data = [cohort, "--features", *folders, "--study"]
    tuned = [cohort, *_feature_options(config, folders), "--study"]
    if not contents.nested:
        nested = study_options(replace(config, outer_folds=StudyConfig().outer_folds))
        command = shlex.join(["mil-tune", *tuned, f"{study}-nested", *nested])
        yield Step("A score on held-out patients, by nested cross-validation.", command)
    if contents.fitted:
        command = shlex.join(["mil-predict", f"{study}/model", "NEW_COHORT.toml"])
        yield Step("Predictions for other patients.", command)
    else:
        command = shlex.join(["mil-fit", *data, study])
        yield Step("The model itself, fitted on all labelled patients.", command)
    if contents.nested and contents.ablation is None:
        yield Step("The contribution of each part of the model.", shlex.join(["mil-ablate", *data, study]))
    if contents.nested and config.repeats == 1 and isinstance(config.outer_folds, int):
        repeated = study_options(replace(config, repeats=3))
        command = shlex.join(["mil-tune", *tuned, f"{study}-repeats", *repeated])
        yield Step("The same study on more splits, to see how much the score depends on them.", command)

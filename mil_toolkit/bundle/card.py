"""`model_card`: the README.md of a bundle, which describes its origin, scores, intended use and limits.

The sections follow Mitchell et al. 2019, Model Cards for Model Reporting. Names come from the user's files
and may hold any text; `plain` escapes them so that they are shown as text and never act as markup.
"""

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from mil_toolkit.bundle.records import About, BundleFeatures
from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.config.study import GROUPS, OFFICIAL, StudyConfig
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.words import (
    DEFAULTS_NOTE,
    comparison_words,
    fitted_word,
    loss_words,
    metric_title,
    metric_words,
    number,
    passed_over_words,
    with_interval,
)
from mil_toolkit.features.spec import augmented
from mil_toolkit.study.records import StudyScores
from mil_toolkit.training.group_checks import LEAST_PATIENTS

_MARKUP = re.compile(r"[\\`*\[\]|~@$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.", re.IGNORECASE)

_GROUP_LINES = (
    (
        "**It predicts groups of patients, never one patient alone.** The embeddings of each group, such as"
        " the patients of a hospital, are standardised by the group's own moments, without labels"
        f" (`standardise` is `group`). new_cohort.toml must declare `group`, with at least {LEAST_PATIENTS}"
        " patients of each; a prediction depends on the other patients of its group. The scores below were"
        " obtained in the same way, with the embeddings of the held-out patients (a transductive step)."
    ),
    (
        "This removes differences between groups, those of disease too: in a group of other patients, such"
        " as one with far more disease, predictions are shifted. `in_domain` does not notice a shift that it"
        " removes."
    ),
)

# Metrics of the baselines beside the primary one.
_BESIDE = (
    *("balanced_accuracy", "auc", "macro_auc", "quadratic_kappa", "rmse", "r2"),
    *("concordance_harrell", "integrated_brier"),
)


def plain(value: object) -> str:
    """Return a value as one line of Markdown that shows its text; not for the beginning of a line."""
    printable = "".join(character if character.isprintable() else " " for character in str(value))
    return _MARKUP.sub(r"\\\g<0>", html.escape(" ".join(printable.split()), quote=False))


def model_card(about: About, scores: StudyScores, members: int, by_group: bool = False) -> str:
    """Return the card of a model with this number of members, in Markdown.

    by_group: whether it standardises embeddings within groups of patients
    """
    paragraphs = [
        *_summary(about, members),
        *_application(about),
        *(_GROUP_LINES if by_group else ()),
        *_data(about),
        *_disclosure(about),
        *_making(about, scores, members),
        *_recalibrations(about),
        *_evaluation(about, scores),
        *_intended_use(about),
        *_limits(about, scores),
        *_reporting(about),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _summary(about: About, members: int) -> Iterator[str]:
    yield f"# Model card: {plain(about.study)}"
    inputs = [plain(column.name) for column in about.columns]
    inputs += ["the images of a blood smear"] if about.features else []
    averaged = f"It averages {members} members, which were trained from different seeds."
    if members == 1:
        averaged = "It has a single member."
    yield (
        f"This model {about.predicted.text.task(_names(about))}."
        f" Inputs: {', '.join(inputs)}. It was fitted by `mil-fit` of mil_toolkit"
        f" {plain(about.versions['mil_toolkit'])}. {averaged}"
    )
    yield "**A research tool, not a medical device. Do not base decisions on a patient's care on it.**"


def _names(about: About) -> list[str]:
    """Return the names of the classes, emphasised."""
    return [f"*{plain(name)}*" for name in about.class_names]


def _application(about: About) -> Iterator[str]:
    yield "## How to apply it"
    yield "```sh\nmil-predict FOLDER_OF_THIS_CARD new_cohort.toml\n```"
    columns = about.predicted.text.columns(_names(about), about.decision.constants)
    yield f"`predictions.csv` then holds, for each patient, {columns}."
    if about.columns:
        yield "new_cohort.toml must declare these metadata columns; the headings in its table may differ:"
        rows = [
            [column.name, column.kind, column.transform or "", column.unit or ""] for column in about.columns
        ]
        yield _table(("name", "kind", "transform", "unit"), rows)
    yield from _features(about)


def _features(about: About) -> Iterator[str]:
    if not about.views:
        yield "It does not look at images: use `--features none`."
        return
    if len(about.views) > 1:
        names = ", ".join(plain(view.name) for view in about.views)
        yield f"It uses {len(about.views)} views of each image together, in this order: {names}."
    for view in about.views:
        yield from _view(view, about)


def _view(features: BundleFeatures, about: About) -> Iterator[str]:
    yield (
        "`mil-predict` embeds the images exactly as the training images were, and refuses embeddings of"
        " another spec:"
    )
    yield _table(("spec", ""), [[name, value] for name, value in features.spec.items() if value is not None])
    if count := augmented(features.spec):
        yield (
            f"Each image is also embedded in {count_of(count, 'other orientation')}, turned by quarter turns"
            " and flipped. Where `augment` is true in `config.json`, predictions use the mean of its"
            " embeddings."
        )
    yield (
        f"The training images were embedded in {plain(', '.join(features.recorded))}. Another precision or"
        f" decoder changes {'probabilities' if about.class_names else 'predictions'} slightly, and"
        " `mil-predict` warns of it."
    )
    if features.spec["weights"] == "file" and about.finetuned is None:
        yield (
            "The backbone's weights came from a file that is not part of this folder. Hand it over too, and"
            " name it with `--weights PATH`: `mil-predict` verifies its weight digest."
        )


def _data(about: About) -> Iterator[str]:
    yield "## Data"
    distribution = about.predicted.text.data(_names(about), about.class_counts)
    images = f" with {about.images} images" if about.features else ""
    yield (f"Cohort {plain(about.cohort)}: {about.patients} labelled patients{images}{distribution}.")


def _disclosure(about: About) -> Iterator[str]:
    """Say what the folder tells about the training patients, for those who decide whom to give it to."""
    yield "## What this folder tells about the patients"
    yield "\n".join(f"- {line}" for line in _disclosed(about))


def _disclosed(about: About) -> Iterator[str]:
    marks = about.marks
    yield "It holds no id, label, metadata row or image of a patient."
    if marks is not None:
        cost = f"scrypt, n = {marks.scrypt.n}, r = {marks.scrypt.r}, p = {marks.scrypt.p}"
        images = " and of each image" if marks.images else ""
        yield (
            f"`config.json`, `fitted_on`, holds a key of each patient's id{images}, by which `mil-predict`"
            " recognises training patients. Whoever has an image or knows an id can find out whether it"
            " belongs to a training patient. Ids can be found by trying: each trial costs a slow hash"
            f" ({cost})."
        )
    if about.recalibrations and marks is not None:
        yield "`config.json`, `recalibrations`, holds such keys of the patients of recalibrations, too."
    if about.ranges:
        yield (
            "`config.json`, `ranges`, holds the lowest and the highest value of each number; each belongs to"
            " a single patient."
        )
    if about.calibration is not None:
        yield (
            "`config.json`, `calibration`, holds a number for each prediction of a held-out labelled patient,"
            f" {'by class, ' * (len(about.calibration.classes) > 1)}without id: how badly the outcome fitted"
            " the prediction."
        )
    if marks is not None:
        yield "`mil-fit --anonymous` leaves all of this out."
    elif isinstance(about.fitted_on, list):
        yield "It was made by an older version; its `fitted_on` allows ids, labels and values to be guessed."
    else:
        yield "It stores nothing by which single patients could be recognised (`mil-fit --anonymous`)."
    yield (
        "As in any fitted model, quantiles, means, deviations and categories of the metadata and the tensors"
        " derive from the patients, and a small cohort may be partly inferred from them."
    )


def _making(about: About, scores: StudyScores, members: int) -> Iterator[str]:
    procedure, kept = about.procedure, scores.passed_over
    yield "## How it was made"
    folds = "a single 80/20 split" if procedure.folds == 1 else f"{procedure.folds} folds"
    reason = ""
    if kept:
        reason = f" {passed_over_words(kept, procedure.objective)}"
    yield (
        f"The search tried {count_of(procedure.trials, 'configuration')} of the head on {folds} of the"
        f" training patients and compared them by {metric_words(procedure.objective)}.{reason}"
        f" {about.predicted.text.fitted(procedure.threshold_rule)} were"
        f" fitted on the out-of-fold predictions of {_chosen(procedure, bool(kept))}."
        f" {'The member was' if members == 1 else f'The {members} members were'} then fitted on all labelled"
        f" patients for {count_of(about.epoch, 'epoch')}. `config.json` holds the complete configuration."
    )
    if about.finetuned is not None:
        loss = loss_words(OUTCOME_METRICS[about.predicted.kind].loss)
        threshold = "threshold" in about.decision.constants
        chosen = ", calibration and threshold" if threshold else " and calibration"
        yield (
            f"Then the backbone, from {plain(about.finetuned.unfreeze)} on, was trained together with all"
            f" members on the images for {count_of(about.finetuned.epochs, 'epoch')}. Inner folds chose the"
            f" number of epochs{chosen}. On a separate split it had a lower {loss} than"
            " the frozen backbone: `scores.json`, `finetuned`, holds the comparison."
        )


def _recalibrations(about: About) -> Iterator[str]:
    """Say what was refitted elsewhere, and that the scores of the study were measured before that."""
    if not about.recalibrations:
        return
    yield "## Recalibration"
    for step in about.recalibrations:
        stated = "" if step.prevalence is None else f" (stated prevalence: {step.prevalence:g})"
        yield (
            f"`mil-validate` refitted this model, which was fitted on cohort {plain(about.cohort)}, on"
            f" {count_of(step.patients, 'patient')} of cohort {plain(step.cohort)}: {step.words}{stated}."
            " Everything else is as `mil-fit` left it. Scores on these patients, by cross-fitting:"
        )
        yield _table(
            ("", "recalibrated"), [[name, with_interval(score)] for name, score in step.scores.items()]
        )
    yield (
        "The scores of the study below are those before any recalibration. `config.json`, `recalibrations`,"
        " holds calibration and decision rule as they were. To validate the recalibrated model, use patients"
        " of neither cohort."
    )


def _chosen(procedure: StudyConfig, defaults_kept: bool) -> str:
    """Return which configuration the search chose, in words."""
    if defaults_kept:
        return "the defaults"
    if procedure.sampler == "grid":
        return "the best configuration"
    return "the best configuration (or of the defaults, unless it was better by more than chance)"


def _evaluation(about: About, scores: StudyScores) -> Iterator[str]:
    yield "## Scores"
    outer = scores.outer
    if not outer:
        yield from _validation_only(about, scores)
        return
    procedure, metric = about.procedure, about.procedure.primary_metric
    score, name = outer[metric], metric_words(metric)
    yield (
        f"**{metric_title(metric)} on held-out patients (nested cross-validation): {with_interval(score)}**."
        " This is the score to quote: the primary metric, declared before the study began. All other metrics"
        " are secondary."
    )
    yield (
        f"Outer: each patient was predicted by a model that was tuned, calibrated and fitted without them"
        f" ({_outer_folds(procedure)}, {count_of(score.patients, 'patient')},"
        f" {count_of(score.repeats, 'repeat')}). Validation: scores on the inner folds, which chose the"
        " configuration and are optimistic. Optimism: validation minus outer. All intervals are 95 %"
        " intervals over patients."
    )
    parts = (outer, scores.inner, scores.optimism or {})
    rows = [[name, *(with_interval(part[name]) for part in parts if part)] for name in scores.inner]
    yield _table(("", "outer", "validation", "optimism"), rows)
    yield f"Baselines on the same outer folds, and the model minus each baseline in {name}:"
    metrics = list(dict.fromkeys([metric, *(name for name in _BESIDE if name in scores.inner)]))
    rows = [_baseline(scores, baseline, metrics) for baseline in scores.rivals or {}]
    yield _table(("", *map(metric_words, metrics), "difference"), rows)


def _validation_only(about: About, scores: StudyScores) -> Iterator[str]:
    reason = "The study had no outer folds."
    if about.finetuned is not None:
        reason = "The backbone was not fine-tuned in the outer folds."
    yield (
        f"**{metric_title(about.procedure.primary_metric)} on held-out patients: not evaluated.** {reason}"
        " The validation scores chose the configuration, the number of epochs and the"
        f" {fitted_word(scores.inner)}, and are therefore optimistic:"
    )
    yield _table(("", "validation"), [[name, with_interval(score)] for name, score in scores.inner.items()])


def _outer_folds(procedure: StudyConfig) -> str:
    folds = procedure.outer_folds
    words = {GROUPS: "one declared group left out at a time", OFFICIAL: "the official folds of the cohort"}
    return words[folds] if isinstance(folds, str) else f"{folds} folds"


def _baseline(scores: StudyScores, name: str, metrics: Sequence[str]) -> list[str]:
    baseline, gain = (scores.rivals or {})[name], (scores.gains or {}).get(name)
    cells = [with_interval(baseline[metric]) for metric in metrics]
    return [name, *cells, comparison_words(gain, metrics[0]) if gain else ""]


def _intended_use(about: About) -> Iterator[str]:
    yield "## Intended use"
    yield (
        f"Research on patients like those of cohort {plain(about.cohort)}, whose images and values were"
        " acquired in the same way. For other patients, validate it first with `mil-validate`, on a cohort"
        f" with {'labels' if about.class_names else 'known outcomes'}. Do not use it for diagnosis, triage or"
        " decisions on care."
    )


def _reporting(about: About) -> Iterator[str]:
    if about.items is None:
        return
    yield "## Items of TRIPOD+AI"
    yield "Numbered as in the checklist (Collins et al. 2024), without items that no study folder can answer:"
    yield _table(("item", "topic", "this study"), about.items)


def _limits(about: About, scores: StudyScores) -> Iterator[str]:
    yield "## Limits"
    yield "\n".join(f"- {line}" for line in _limit_lines(about, scores))


def _limit_lines(about: About, scores: StudyScores) -> Iterator[str]:
    yield "It was trained on the staining, camera and patients of a single cohort."
    yield DEFAULTS_NOTE
    yield from about.predicted.text.limits(about.class_counts)
    yield "The spread measures the disagreement of the members, which is only a part of the uncertainty."
    yield (
        "A missing number counts as the training median, a missing or unknown category as the average"
        " patient."
    )
    yield "Where training patients had missing values too, the model also sees that a value is missing."
    if about.features:
        yield (
            "Attention shows which images weighed most in the model's decision, not why, and not whether they"
            " should."
        )
    if scores.bag_size:
        strata, names = about.predicted.scoring.rank_strata, dict(enumerate(_names(about)))
        correlations = [
            f"{number(scores.bag_size[name])} among {names.get(stratum, about.predicted.text.stratum(name))}"
            for stratum, name in strata.items()
        ]
        predicted = "logit" if about.class_names else "prediction"
        yield (
            f"Rank correlation of the {predicted} with the number of images, which is not a sign of disease:"
            f" {', '.join(correlations)}."
        )


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

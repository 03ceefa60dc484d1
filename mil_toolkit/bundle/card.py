"""`model_card`: what a model was made from, how, what it is worth, what it is for and what not.

The sections are those of Mitchell et al. 2019, Model Cards for Model Reporting. Names come from the user's files and
may hold anything: `plain` lets them show and do nothing else.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.words import comparison, number, passed_over, threshold_rule, with_interval

_MARKUP = re.compile(r"[\\`*\[\]|~@$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.", re.IGNORECASE)


def plain(value: object) -> str:
    """A value as one line of Markdown that shows its text, whatever that is; not for the beginning of a line."""
    printable = "".join(each if each.isprintable() else " " for each in str(value))
    return _MARKUP.sub(r"\\\g<0>", html.escape(" ".join(printable.split()), quote=False))


def model_card(about: Mapping[str, Any], scores: Mapping[str, Any], members: int) -> str:
    """The README.md of a bundle of so many members; `about` and `scores` as in `ModelBundle`."""
    parts = [
        *_head(about, members),
        *_application(about),
        *_data(about),
        *_making(about, scores, members),
        *_worth(about, scores),
        *_intended_use(about),
        *_limits(about, scores),
    ]
    return "\n\n".join(parts) + "\n"


def _head(about: Mapping[str, Any], members: int) -> Iterable[str]:
    yield f"# Model card: {plain(about['study'])}"
    seen = [plain(column["name"]) for column in about["columns"]]
    seen += ["the images of a blood smear"] if about["features"] else []
    averaged = (
        "It has a single member."
        if members == 1
        else f"{members} members, trained from other seeds, are averaged."
    )
    yield (
        f"Tells {_positive(about)} (positive) from {_negative(about)} (negative) patients by {', '.join(seen)}. Made by"
        f" `mil-fit` of mil_toolkit {plain(about['versions']['mil_toolkit'])}; {averaged}"
    )
    yield "**A research tool, not a medical device. It must not decide on a patient's care.**"


def _positive(about: Mapping[str, Any]) -> str:
    return f"*{plain(about['class_names'][1])}*"


def _negative(about: Mapping[str, Any]) -> str:
    return f"*{plain(about['class_names'][0])}*"


def _application(about: Mapping[str, Any]) -> Iterable[str]:
    yield "## How to apply it"
    yield "```sh\nmil-predict FOLDER_OF_THIS_CARD new_cohort.toml\n```"
    yield (
        f"`predictions.csv` then gives each patient's calibrated probability of {_positive(about)}, the prediction"
        f" (positive at or above {number(about['decision']['threshold'])}) and the spread: the standard deviation of the"
        " members' own probabilities."
    )
    if about["columns"]:
        yield "new_cohort.toml has to declare these metadata, under whatever headings its table has:"
        names = ("name", "kind", "transform", "unit")
        yield _table(names, [[column[name] or "" for name in names] for column in about["columns"]])
    yield from _features(about)


def _features(about: Mapping[str, Any]) -> Iterable[str]:
    features = about["features"]
    if features is None:
        yield "It looks at no images: `--features none`."
        return
    spec = features["spec"]
    yield "`mil-predict` embeds the images exactly as the training images were, and refuses embeddings of another spec:"
    yield _table(("spec", ""), [[name, value] for name, value in spec.items() if value is not None])
    yield (
        f"The training images were embedded in {plain(', '.join(features['recorded']))}. Another precision or decoder"
        " moves a probability a little, and is warned of."
    )
    if spec["weights"] == "file" and "finetuned" not in about:
        yield (
            "The backbone's weights came from a file that is not part of this folder. Hand it over too, and name it with"
            " `--weights PATH`: `mil-predict` knows it by its weight digest."
        )


def _data(about: Mapping[str, Any]) -> Iterable[str]:
    yield "## Data"
    negatives, positives = about["class_counts"]
    images = f" with {about['images']} images" if about["features"] else ""
    yield (
        f"Cohort {plain(about['cohort'])}: {about['patients']} labelled patients{images}, of these {positives}"
        f" {_positive(about)} and {negatives} {_negative(about)}."
    )


def _making(about: Mapping[str, Any], scores: Mapping[str, Any], members: int) -> Iterable[str]:
    procedure = about["procedure"]
    yield "## How it was made"
    folds = "a single 80/20 split" if procedure["folds"] == 1 else f"{procedure['folds']} folds"
    rule = threshold_rule(procedure["threshold"], procedure["sensitivity"])
    kept, chosen = scores.get("passed_over"), "the best"
    if kept:
        chosen = "the defaults"
    elif procedure["sampler"] != "grid":
        chosen += " (of the defaults, where it did not surpass them by a standard error)"
    why = f" {passed_over(kept, procedure['objective'])}" if kept else ""
    yield (
        f"The search tried {count_of(procedure['trials'], 'configuration')} of the head on {folds} of the training"
        f" patients and compared them by {procedure['objective']}.{why} On the out-of-fold predictions of {chosen}, calibration and"
        f" threshold ({rule}) were fitted. {'The member was' if members == 1 else f'The {members} members were'} then fitted on"
        f" all labelled patients for {count_of(about['epoch'], 'epoch')}. `config.json` holds the whole configuration."
    )
    if "finetuned" in about:
        told = about["finetuned"]
        yield (
            f"Then the backbone, from {plain(told['unfreeze'])} on, was trained together with all members on the images for"
            f" {count_of(told['epochs'], 'epoch')}, which inner folds chose as they did calibration and threshold. On a separate split"
            " it had a lower log-loss than the frozen backbone: `scores.json`, `finetuned`, holds the comparison."
        )


def _worth(about: Mapping[str, Any], scores: Mapping[str, Any]) -> Iterable[str]:
    yield "## What it is worth"
    if not scores["outer"]:
        why = (
            "Its backbone was not trained in the outer folds."
            if "finetuned" in about
            else "The study ran without outer folds."
        )
        yield (
            f"**Expected score: not evaluated.** {why} The validation scores chose the configuration, the number of epochs"
            " and the threshold, and are therefore optimistic:"
        )
        yield _table(("", "validation"), [[name, with_interval(scores["inner"][name])] for name in METRICS])
        return
    counted, procedure = scores["outer"]["balanced_accuracy"], about["procedure"]
    balanced = with_interval(counted)
    yield f"**Expected balanced accuracy: {balanced}**, from outer folds that chose nothing."
    yield (
        f"Outer: every patient predicted by a model that was tuned, calibrated and fitted without them"
        f" ({_outer_folds(procedure)}, {count_of(counted['patients'], 'patient')}, {count_of(counted['repeats'], 'repeat')}); this is what to quote."
        " Validation: the scores that chose. Optimism: validation minus outer. 95 % intervals over patients."
    )
    parts = ("outer", "inner", "optimism")
    rows = [[name, *(with_interval(scores[part][name]) for part in parts)] for name in METRICS]
    yield _table(("", "outer", "validation", "optimism"), rows)
    yield "Trivial rivals on the same outer folds, and what the model gains over them in balanced accuracy:"
    yield _table(
        ("", "balanced accuracy", "AUC", "gain"), [_rival(scores, name) for name in scores["rivals"]]
    )


def _outer_folds(procedure: Mapping[str, Any]) -> str:
    folds = procedure["outer_folds"]
    return "one declared group left out at a time" if folds == "groups" else f"{folds} folds"


def _rival(scores: Mapping[str, Any], name: str) -> list[str]:
    rival = scores["rivals"][name]
    both = (with_interval(rival[metric]) for metric in ("balanced_accuracy", "auc"))
    return [name, *both, comparison(scores["gains"][name], "balanced_accuracy")]


def _intended_use(about: Mapping[str, Any]) -> Iterable[str]:
    yield "## Intended use"
    yield (
        f"Research on patients like those of cohort {plain(about['cohort'])}, whose images and values were taken in the"
        " same way. Anywhere else it has to be validated first: on a cohort with labels `mil-predict` prints scores with"
        " intervals, which is external validation. It is not for diagnosis, triage or any decision on care."
    )


def _limits(about: Mapping[str, Any], scores: Mapping[str, Any]) -> Iterable[str]:
    yield "## Limits"
    negatives, positives = about["class_counts"]
    share = 100 * positives / about["patients"]
    few = f"The smaller class has {count_of(min(negatives, positives), 'patient')}, and the intervals take the fitted models as given:"
    lines = [
        "It knows one place's staining, camera and patients.",
        f"{few} another cohort, or another seed, varies more.",
        f"Its probabilities are calibrated where {share:.0f} % of the patients are positive, and shift where that differs.",
        "The spread tells how far the members disagree, which is only a part of what is uncertain.",
        "A missing number counts as the training median, a missing or unknown category as the average patient.",
        "Where training patients lacked a value too, the model also sees that it is missing.",
    ]
    if about["features"]:
        lines.append("Attention tells what weighed in the model's decision, not why, nor whether rightly.")
    lines += _bag_size(about, scores.get("bag_size"))
    yield "\n".join(f"- {line}" for line in lines)


def _bag_size(about: Mapping[str, Any], found: Mapping[str, float | None] | None) -> list[str]:
    if not found:
        return []
    within = f"{number(found['positive'])} among {_positive(about)}, {number(found['negative'])} among {_negative(about)}"
    return [
        f"Rank correlation of the logit with the number of images, which is no sign of disease: {within}."
    ]


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

"""What the template shows besides figures, each as plain values; `tell` puts all of it together."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np

from mil_toolkit.config import StudyConfig, set_options, study_options
from mil_toolkit.core.files import shown
from mil_toolkit.core.text import count_of, counted
from mil_toolkit.evaluation.metrics import METRICS
from mil_toolkit.evaluation.words import (
    FEW,
    TABLE,
    comparison,
    in_use,
    number,
    p_value,
    passed_over,
    spread,
    threshold_rule,
    with_interval,
)
from mil_toolkit.report.contents import Contents, Walk
from mil_toolkit.report.drawing import Chart
from mil_toolkit.report.figures.ablation import ablation_figures
from mil_toolkit.report.figures.data import data_figures
from mil_toolkit.report.figures.learning import learning_figures, masked_figures
from mil_toolkit.report.figures.scores import (
    RIVAL_NAMES,
    folds_figure,
    outcome,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
)
from mil_toolkit.report.figures.search import (
    history_figure,
    importance_figure,
    parallel_figure,
    slice_figures,
)
from mil_toolkit.report.gallery import Naming, cases

SATURATION_MASK = "saturation-mask"  # in the name of features
SECTIONS = ("overview", "scores", "search", "data", "attention", "ablation")
_NAMED = ("leak", "shortcut", "note", "unchecked")
_COLUMN_KINDS = (
    "predictive column",
    "missingness",
    "constant column",
)  # findings whose places are no patients


def tell(contents: Contents, anonymise: bool) -> dict[str, Any]:
    """All that the template asks for, but the thumbnails and what they need."""
    naming, class_names = Naming(anonymise), contents.class_names
    found = cases(contents, naming)
    scores = contents.scores
    own = scores["outer"] or scores["inner"]
    whole = own["balanced_accuracy"]
    return {
        "title": shown(contents.study.folder.resolve().name),
        "cohort": shown(contents.study.described["cohort"]["name"]),
        "version": version("mil_toolkit"),
        "anonymise": anonymise,
        "honest": contents.honest,
        "sections": [(each, each.capitalize()) for each in SECTIONS],
        "class_names": class_names,
        "repeats": whole["repeats"],
        "verdict": verdict(scores),
        "headline": {"value": number(whole["value"]), "interval": _interval(whole)},
        "beside": [
            {"name": label(name), **_cell(own[name])} for name in ("auc", "sensitivity", "specificity")
        ],
        "optimism": optimism(scores),
        "in_use": in_use(own, contents.study.config.prevalence) if contents.honest else None,
        "outcome": outcome(contents),
        "gains": [
            f"Over {_rival(name)}: {comparison(each, 'balanced_accuracy')}"
            for name, each in (scores["gains"] or {}).items()
        ],
        "facts": list(facts(contents)),
        "steps": list(steps(contents, anonymise)),
        "score_caption": f"{whole['patients']} patients, {count_of(whole['repeats'], 'repeat')}; 95 % intervals over patients.",
        "score_heads": ["", *map(label, TABLE)],
        "score_rows": score_rows(scores, TABLE),
        "more_heads": ["", *(label(name) for name in METRICS if name not in TABLE)],
        "more_rows": score_rows(scores, [name for name in METRICS if name not in TABLE]),
        "matrix": matrix(contents),
        "thresholds": thresholds(contents),
        "spread": spread(scores),
        "search_words": search_words(contents),
        "kept": kept(contents),
        "set_line": set_line(contents.study.best.parameters),
        "findings": [finding(each, naming) for each in contents.audit],
        "cases": found,
        "weighed": set() if contents.attention is None else set(contents.attention["patient_id"]),
        "attention_words": attention_words(contents),
        "ablation": ablation(contents.ablation) if contents.ablation else None,
        "masked": masked(contents),
        "figures": _figures(contents),
    }


def _figures(contents: Contents) -> dict[str, list[Chart]]:
    drawn = {
        "scores": [
            roc_figure,
            precision_recall_figure,
            reliability_figure,
            folds_figure,
        ],
        "search": [history_figure, importance_figure, parallel_figure],
    }
    one_by_one = {
        section: [found for draw in draws if (found := draw(contents)) is not None]
        for section, draws in drawn.items()
    }
    return one_by_one | {
        "learning": learning_figures(contents.walks),
        "slices": slice_figures(contents),
        "data": data_figures(contents, contents.class_names),
    }


# The first screen.


def verdict(scores: Mapping[str, Any]) -> str:
    """What the study shows, in a sentence or two."""
    if not scores["outer"]:
        return (
            "A first look: what this configuration is worth on new patients is not known, since every patient helped"
            " to choose it."
        )
    value = scores["outer"]["balanced_accuracy"]
    first = f"On patients that had no part in making it, this procedure reaches a balanced accuracy of {with_interval(value)}."
    gain = (scores["gains"] or {}).get("metadata_logistic")
    if gain is None:
        return first
    found = gain["differences"]["balanced_accuracy"]
    if found["low"] is not None and found["low"] > 0:
        second = "Over the metadata alone it gains"
        end = ", an interval above zero" + (
            ", but few patients are decided differently." if gain["discordant"] < FEW else "."
        )
    elif found["high"] is not None and found["high"] < 0:
        second = "Beside the metadata alone it loses"
        end = ": the metadata alone are better."
    else:
        second = "Over the metadata alone the difference is"
        end = ": this study does not show that the images help."
    return f"{first} {second} {with_interval(found, '+')}{end}"


def optimism(scores: Mapping[str, Any]) -> str | None:
    """Validation against outer score; None without outer folds."""
    if not scores["optimism"]:
        return None
    inner, gap = scores["inner"]["balanced_accuracy"]["value"], scores["optimism"]["balanced_accuracy"]
    return f"Validation, which chose the configuration, said {number(inner)}: an optimism of {with_interval(gap, '+')}."


def facts(contents: Contents) -> Iterator[tuple[str, str]]:
    """Patients, folds, trials, features, model."""
    config, best, table = contents.study.config, contents.study.best, contents.table
    positives = int((table.labels == 1).sum())
    negative, positive = contents.class_names
    yield (
        "Patients",
        f"{len(table.labels)}: {positives} {positive}, {len(table.labels) - positives} {negative}",
    )
    if contents.patients and contents.patients["unlabelled"]:
        yield "Unlabelled", f"{contents.patients['unlabelled']}, not used"
    sizes = [each["images"] for each in contents.patients["patients"]] if contents.patients else []
    if sizes and None not in sizes:
        yield (
            "Images",
            f"{sum(sizes)}, {np.median(sizes):g} in the median patient ({min(sizes)} to {max(sizes)})",
        )
    folds = f"{config.outer_folds} outer" if contents.honest else "no outer"
    yield "Folds", f"{folds}, {config.folds} inner; {count_of(config.repeats, 'repeat')}"
    yield (
        "Trials",
        f"{config.trials} in each of {count_of(len(contents.walks), 'search', 'searches')}, by {config.objective.replace('_', ' ')}",
    )
    features = contents.study.described["features"]
    yield "Features", shown(features["name"]) if features else "none: metadata alone"
    head = best.config
    look = f"{head.pooling} pooling of images" if head.image_branch else "no images"
    branch = {"mlp": "metadata through a network", "direct": "metadata as they are", "none": "no metadata"}
    yield (
        "Chosen model",
        f"{look}, {branch.get(head.metadata_branch, head.metadata_branch)}, {count_of(best.epoch, 'epoch')}, {count_of(config.members, 'member')}",
    )
    yield "Seed", f"{config.seed}"


def steps(contents: Contents, anonymise: bool) -> Iterator[tuple[str, str]]:
    """What to run next, each with the reason, as far as the folder tells."""
    sources = {} if anonymise else contents.sources
    cohort, study = sources.get("cohort", "COHORT.toml"), sources.get("study", "studies/NAME")
    features = sources.get("features", "CACHE_FOLDER") or "none"
    data = [cohort, "--features", features, "--study"]
    config = contents.study.config
    if not contents.honest:
        nested = replace(config, outer_folds=StudyConfig().outer_folds)
        yield (
            "An honest score, from outer folds that choose nothing.",
            shlex.join(["mil-tune", *data, f"{study}-nested", *study_options(nested)]),
        )
    if contents.model is None:
        yield "The model itself, fitted on all labelled patients.", shlex.join(["mil-fit", *data, study])
    else:
        yield (
            "Predictions for other patients.",
            shlex.join(["mil-predict", f"{study}/model", "NEW_COHORT.toml"]),
        )
    if contents.honest and contents.ablation is None:
        yield "What each part of the model is worth.", shlex.join(["mil-ablate", *data, study])
    if contents.honest and config.repeats == 1 and isinstance(config.outer_folds, int):
        repeated = study_options(replace(config, repeats=3))
        again = shlex.join(["mil-tune", *data, f"{study}-repeats", *repeated])
        yield "The same on other splits, to see how much these folds were luck.", again


# Scores.


def label(name: str) -> str:
    """A metric's name in the report."""
    special = {"auc": "AUC", "auc_pooled": "AUC, pooled", "ppv": "PPV", "npv": "NPV"}
    return special.get(name, name.replace("_", " ").capitalize())


def _rival(name: str) -> str:
    return RIVAL_NAMES.get(name, name.replace("_", " ")).lower()


def _interval(score: Mapping[str, Any], sign: str = "") -> str:
    return f"{number(score['low'], sign)} to {number(score['high'], sign)}"


def _cell(score: Mapping[str, Any], sign: str = "") -> dict[str, str]:
    return {"value": number(score["value"], sign), "interval": _interval(score, sign)}


def score_rows(scores: Mapping[str, Any], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Training, validation, outer and the rivals."""
    rows: list[dict[str, Any]] = [
        {"name": "Training", "cells": [number(scores["training"].get(name)) for name in metrics]},
        {"name": "Validation (optimistic)", "cells": [_cell(scores["inner"][name]) for name in metrics]},
    ]
    if scores["outer"]:
        rows.append(
            {
                "name": "Outer (honest)",
                "own": True,
                "cells": [_cell(scores["outer"][name]) for name in metrics],
            }
        )
    for name, rival in (scores["rivals"] or {}).items():
        named = RIVAL_NAMES.get(name, name.replace("_", " "))
        rows.append(
            {"name": f"Rival: {named.lower()}", "cells": [_cell(rival[metric]) for metric in metrics]}
        )
    return [{"own": False, **row} for row in rows]


def matrix(contents: Contents) -> list[list[dict[str, str]]]:
    """Rows of the true class, columns of the predicted one: counts (mean over repeats) and shares of the class."""
    table = contents.table
    rows = []
    for label_ in (0, 1):
        of_class = table.labels == label_
        predicted = table.decisions[:, of_class]
        row = []
        for decided in (0, 1):
            count = float((predicted == decided).sum(1).mean())
            share = count / max(1, int(of_class.sum()))
            kind = "right" if decided == label_ else "wrong"
            row.append({"count": f"{count:.4g}", "share": f"{100 * share:.0f} % of the class", "kind": kind})
        rows.append(row)
    return rows


def thresholds(contents: Contents) -> str:
    """Which thresholds decided, and by which rule."""
    config = contents.study.config
    rule = threshold_rule(config.threshold, config.sensitivity)
    final = contents.study.best.decision.threshold
    return f"Thresholds on the calibrated probability, by the rule: {rule}. That of the final model: {final:.3f}."


# The search.


def search_words(contents: Contents) -> str:
    """How the search was run."""
    config = contents.study.config
    what = f"{count_of(len(contents.trials), 'trial')} of the final search, which sees all labelled patients, by {config.sampler} with {config.pruner} pruning."
    return f"{what} Its value is the {config.objective.replace('_', ' ')} in validation{', which is optimistic' if contents.honest else ''}."


def kept(contents: Contents) -> str | None:
    """Why the final search kept the defaults, where it did and tells."""
    told = contents.study.best.passed_over
    return None if told is None else passed_over(told, contents.study.config.objective)


def set_line(parameters: Mapping[str, Any]) -> str:
    """The configuration as options of mil-tune, every digit kept."""
    return shlex.join(set_options({name: (value,) for name, value in parameters.items()}))


# Data, attention, ablation.


def finding(found: Mapping[str, Any], naming: Naming) -> dict[str, Any]:
    """A finding of the audit; anonymously without the places that name patients or images."""
    level = found["level"] if found["level"] in _NAMED else "note"
    places = [] if found["kind"] in _COLUMN_KINDS else found["where"]  # a column is named in the text
    withheld = naming.anonymise and bool(places)
    where = [] if withheld else list(map(shown, places))
    return {
        "level": level,
        "text": found["text"],
        "advice": found["advice"],
        "where": where,
        "withheld": withheld,
    }


def attention_words(contents: Contents) -> str:
    """Whose attention the gallery shows."""
    if contents.preprocess is None:
        return "The study looked at metadata alone: there is no attention. Every patient with its prediction, the worst mistakes first."
    if contents.attention is None:
        return "The study keeps no attention. Every patient with its prediction, the worst mistakes first."
    whose = (
        "the outer model that never saw the patient"
        if contents.honest
        else "the validation models that never saw the patient"
    )
    return (
        f"What {whose} weighed: every patient, the worst mistakes first, with the images of highest and lowest"
        " attention. The weights of a patient sum to one."
    )


def ablation(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The table of mil-ablate, its figures and what it rests on."""
    retuned = (
        f"Each variant had its own search of {count_of(scores['retuned'], 'trial')}."
        if scores["retuned"]
        else "The other settings are those that were best for the full model, which favours it; mil-ablate --retune N does not."
    )
    images = scores["images_of_equal_bags"]
    equal = f"on {count_of(images, 'image')} of each patient" if images else ""
    gains = [
        f"Gain of the full model over metadata alone, {equal if name == 'equal-bags' else 'on all images'}:"
        f" {comparison(gain, 'balanced_accuracy')}"
        for name, gain in scores["gains"].items()
    ]
    left = [f"{shown(name)} is left out, since {reason}." for name, reason in scores["left_out"].items()]
    return {
        "words": f"Each outer fold's own best configuration with one thing changed, scored where nothing was chosen. {retuned}",
        "caption": "Differences are variant minus full model, paired on the same patients; p-values are of one comparison each.",
        "heads": [
            "",
            "Balanced accuracy",
            "minus full",
            "p",
            "AUC",
            "minus full",
            "p",
            "Discordant patients",
            "Unchanged folds",
        ],
        "rows": [_variant(name, each) for name, each in scores["variants"].items()],
        "figures": ablation_figures(scores),
        "notes": [*gains, *left],
    }


def masked(contents: Contents) -> dict[str, Any] | None:
    """Scores and curves with and without the saturation mask, where mil-ablate was given both features."""
    if contents.ablation is None:
        return None
    own, *others = contents.ablation["features"]
    other = next(
        (name for name in others if name in contents.ablation_walks and _mask(name) != _mask(own)), None
    )
    if other is None:
        return None
    named = {
        "With the mask" if _mask(name) else "As they are": key
        for name, key in ((own, "full"), (other, other))
    }
    found = contents.ablation["variants"]
    difference = found[other]["difference"]["differences"]
    walks = {name: contents.ablation_walks[key] for name, key in sorted(named.items())}
    words = ", ".join(
        f"{label(name).lower() if name != 'auc' else 'AUC'} {with_interval(difference[name], '+')}"
        for name in ("balanced_accuracy", "auc")
    )
    return {
        "caption": f"Mean training and validation scores at the chosen epochs, and outer scores; {_words_of(other)} minus {_words_of(own)}: {words}.",
        "heads": [
            "Images",
            "Training balanced accuracy",
            "Validation balanced accuracy",
            "Outer balanced accuracy",
            "Outer AUC",
        ],
        "rows": [
            {
                "name": name,
                "own": key == "full",
                "cells": [
                    *_at_chosen(contents.ablation_walks[key]),
                    *(_cell(found[key]["scores"][metric]) for metric in ("balanced_accuracy", "auc")),
                ],
            }
            for name, key in sorted(named.items())
        ],
        "figures": masked_figures(walks),
    }


def _mask(features: str) -> bool:
    return f"-{SATURATION_MASK}-" in features


def _words_of(features: str) -> str:
    return "with the mask" if _mask(features) else "as they are"


def _at_chosen(walks: Sequence[Walk]) -> list[str]:
    """Mean training and validation balanced accuracy at the epochs that the folds chose."""
    rows = [walk.epochs[walk.epochs["epoch"] == walk.epoch] for walk in walks]
    names = ("training_balanced_accuracy", "validation_balanced_accuracy")
    return [
        number(float(np.mean([row[name].iloc[0] for row in rows])))
        if all(name in row and len(row) for row in rows)
        else number(None)
        for name in names
    ]


def _variant(name: str, variant: Mapping[str, Any]) -> dict[str, Any]:
    cells: list[Any] = []
    differs = variant["difference"]
    for metric in ("balanced_accuracy", "auc"):
        cells.append(_cell(variant["scores"][metric]))
        found = differs["differences"][metric] if differs else None
        cells += [_cell(found, "+"), p_value(found["p_value"])] if found else [None, None]
    unchanged = sum(fold["unchanged"] for fold in variant["folds"])
    cells += (
        [counted(differs["discordant"]), f"{unchanged} of {len(variant['folds'])}"]
        if differs
        else [None, None]
    )
    return {"name": shown(name), "own": not differs, "cells": cells}

"""`predict`: probabilities, predictions and attention for all patients of a cohort."""

import csv
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mil_toolkit.bundle.abstention import set_columns
from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.checkpoints import Checkpoints, checkpoints_of
from mil_toolkit.bundle.column_checks import column_problems
from mil_toolkit.bundle.domain.columns import domain_columns
from mil_toolkit.bundle.extrapolation import extrapolations
from mil_toolkit.bundle.files import BACKBONE
from mil_toolkit.bundle.membership import image_digests
from mil_toolkit.bundle.outcome_checks import outcome_problems
from mil_toolkit.bundle.outputs import submission_words
from mil_toolkit.bundle.records import About, BundleFeatures
from mil_toolkit.bundle.scale import scale_problems, unknown_scale
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import publish
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.intervals import Table, scores_with_intervals
from mil_toolkit.evaluation.records import Scores
from mil_toolkit.evaluation.scoring import Predictions as Predicted
from mil_toolkit.features.bags import PART
from mil_toolkit.features.cache import FeatureCache, named_cache
from mil_toolkit.features.extract import Extraction, extract, tolerance
from mil_toolkit.features.spec import Spec, augmented, holds_spec, scale_of, spec_differences
from mil_toolkit.outcomes.outcome import Outcome
from mil_toolkit.study.tables import attention_table
from mil_toolkit.training.group_checks import group_problems
from mil_toolkit.training.patients import Features, Patients, caches_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """Predictions for all patients of a cohort.

    table: `patient_id`, `probability`, `prediction` (0 or 1), `spread` (standard deviation over members), and
        `label` where any label is known; then `in_domain` and `reasons`, see `domain_columns`
    attention: `patient_id`, `image`, `attention` (sums to one within each patient), and with class-wise
        attention that of each class, see `attention_table`; None without images, and where it was not asked
        for
    validation: scores on the labelled patients that the model was not fitted on; None unless both classes are
        among them
    training: the same for the patients that it was, or may have been, fitted on; optimistic, since the model
        has seen their labels
    unknown: the same for all labelled patients, where the bundle does not say whom it was fitted on
    fitted_on: ids of the labelled patients that count for `training`; None where the bundle does not say
    """

    table: pd.DataFrame
    attention: pd.DataFrame | None
    validation: Scores | None = None
    training: Scores | None = None
    unknown: Scores | None = None
    fitted_on: tuple[str, ...] | None = None


def predict(
    bundle: ModelBundle,
    cohort: Cohort,
    features: Features,
    attention: bool = True,
    any_scale: bool = False,
    abstain: float | None = None,
) -> Predictions:
    """Apply a bundle to all patients of a cohort.

    features: the cache of each view, in any order; None for a model on metadata only
    attention: return the attention too. It takes as much memory as the names of all images; all else is
        computed for a few patients at a time.
    any_scale: only warn of images of another scale than those that the model was fitted on
    abstain: error rate of the sets, see `set_columns`; None leaves these columns out

    Warns where the embeddings were computed in another precision or by another decoder than those of the
    training patients, where the scale of the images is unknown, and where metadata lie outside what these
    patients had (see `extrapolations`). Raises one DataError with all problems: metadata, features or a scale
    of images that differ from those the model was trained with, groups that are missing or too small for a
    model that standardises embeddings within them, and patients without embeddings; or, before or after the
    model is applied, patients whose embeddings or probabilities are not finite.
    """
    patients, cache = checked_patients(bundle, cohort, features, any_scale)
    for line in extrapolations(bundle, patients.metadata):
        logger.warning("%s", line)
    predictions = predict_patients(bundle, cohort, patients, attention, abstain)
    known = patients.outcome.known(patients.labels)
    groups = {} if patients.groups is None else {"group": patients.groups}
    return _scored(bundle, predictions, predictions.table.assign(**groups)[known], cache)


def checked_patients(
    bundle: ModelBundle, cohort: Cohort, features: Features, any_scale: bool = False
) -> tuple[Patients, FeatureCache | None]:
    """Return the patients of a cohort as the model takes them, and the cache of its first view, if any.

    Warns and raises as `predict` does before the model is applied.
    """
    caches = _in_order(bundle, caches_of(features))
    problems = [*outcome_problems(bundle, cohort), *column_problems(bundle, cohort)]
    problems += [*_feature_problems(bundle, cohort, caches), *_group_problems(bundle, cohort)]
    problems += [] if any_scale else scale_problems(bundle.about, cohort)
    if problems:
        raise DataError(problems)
    _warn_of_other_scales(bundle, cohort)
    warn_of_other_embeddings(bundle, [cache.recorded(cohort.patient_ids) for cache in caches])
    patients = Patients.of(cohort, caches, [view.name for view in bundle.about.views])
    if bundle.head.by_group and cohort.groups is not None:
        count = count_of(len(np.unique(cohort.groups)), "group")
        logger.info("Embeddings are standardised within %s by the moments of its own patients.", count)
    _check_embeddings(patients, caches)
    return patients, next(iter(caches), None)


def predict_patients(
    bundle: ModelBundle, cohort: Cohort, patients: Patients, attention: bool, abstain: float | None
) -> Predictions:
    """Apply a bundle to the patients of a cohort, whose metadata and embeddings fit it; without scores.

    attention, abstain: see `predict`, also for the errors about results
    """
    predicted, spread, weights = bundle.apply(patients, attention)
    check_results(patients, predicted.values, spread)
    known = patients.outcome.known(patients.labels)
    table = _table(bundle, patients, predicted, spread, known)
    table = table.assign(
        **domain_columns(bundle.about, bundle.head, bundle.domain_projection, cohort, patients)
    )
    if abstain is not None:
        table = table.assign(**set_columns(bundle.about, predicted.values, abstain))
    return Predictions(table, attention_table(patients, weights, bundle.about.predicted.class_names))


def _table(
    bundle: ModelBundle, patients: Patients, predicted: Predicted, spread: np.ndarray, known: np.ndarray
) -> pd.DataFrame:
    """Return predictions, intervals and spread, and the known targets where there are any."""
    scoring = bundle.scoring
    columns: dict[str, object] = {"patient_id": patients.ids, **scoring.prediction_columns(predicted)}
    columns |= bundle.decision.intervals(predicted.values)
    table = pd.DataFrame(columns | scoring.spread_columns(spread))
    if known.any():
        for name, targets in scoring.target_columns(patients.labels).items():
            column = pd.Series(targets).where(known)
            table[name] = column.astype("Int64") if targets.dtype.kind == "i" else column
    return table


def _in_order(bundle: ModelBundle, caches: Sequence[FeatureCache]) -> Sequence[FeatureCache]:
    """Return the caches in the order of the bundle's views, if each view has one."""
    views = bundle.about.views
    left, ordered = list(caches), list[FeatureCache]()
    names = {view.name for view in views}
    for view in views if len(views) == len(caches) else ():
        fitting = [place for place, cache in enumerate(left) if not _spec_problems(cache.spec, view.spec)]
        if not fitting:
            return caches
        # Views of equal specs, such as imported features, differ in the names of their folders only
        folders = {place: left[place].folder.name for place in fitting}
        chosen = min(fitting, key=lambda place: (folders[place] != view.name, folders[place] in names))
        ordered.append(left.pop(chosen))
    return ordered or caches


def _check_embeddings(patients: Patients, caches: Sequence[FeatureCache]) -> None:
    """Raise DataError for embeddings that are not finite; they would spoil other patients' results, too."""
    for bags, cache in zip(patients.views.values(), caches, strict=True):
        bad, starts = np.zeros(len(patients), dtype=bool), bags.offsets.numpy()
        for first in range(0, int(starts[-1]), PART):
            rows = torch.arange(first, min(first + PART, int(starts[-1])))
            unusable = rows[~bags.embeddings(rows).isfinite().all(1)].numpy()
            bad[np.searchsorted(starts, unusable, side="right") - 1] = True
        _refuse(patients, bad, f"has embeddings in {printable(cache.folder)} that are not finite numbers.")


def check_results(patients: Patients, probability: np.ndarray, spread: np.ndarray) -> None:
    """Raise DataError that names the patients whose predictions (n, ...) are not finite."""
    finite = np.isfinite(probability) & np.isfinite(spread)
    _refuse(
        patients,
        ~finite.reshape(len(finite), -1).all(1),
        "has no prediction: the model computes a probability that is not a finite number. Its metadata or"
        " embeddings, or the bundle's tensors, are far outside the usual range.",
    )


def _refuse(patients: Patients, bad: np.ndarray, reason: str) -> None:
    """Raise DataError that names the patients at the places where `bad` (B,) is true."""
    if bad.any():
        named = [printable(patients.ids[place]) for place in np.flatnonzero(bad)]
        raise DataError([f"patient {patient} {reason}" for patient in named])


def _scored(
    bundle: ModelBundle, predictions: Predictions, labelled: pd.DataFrame, cache: FeatureCache | None
) -> Predictions:
    """Add scores on the labelled patients, whose predictions are given with their groups, if any."""
    fitted = recognised(bundle.about, list(labelled["patient_id"]), cache)
    if fitted is None:
        return replace(predictions, unknown=_scores(bundle, labelled))
    return replace(
        predictions,
        validation=_scores(bundle, labelled[~fitted]),
        training=_scores(bundle, labelled[fitted]),
        fitted_on=tuple(labelled["patient_id"][fitted]),
    )


def recognised(about: About, ids: Sequence[str], cache: FeatureCache | None) -> np.ndarray | None:
    """Return which patients the model was, or may have been, fitted or recalibrated on, (n,) bool.

    None if the bundle does not say whom it was fitted on.
    """
    return recognised_by_images(about, ids, lambda: image_digests(cache, ids))


def recognised_by_images(
    about: About, ids: Sequence[str], digests: Callable[[], Iterable[AbstractSet[bytes]]]
) -> np.ndarray | None:
    """Return the same as `recognised`; digests: returns those of each patient's images."""
    if about.marks is None:
        return None
    return np.any([marks.recognise(ids, digests()) for marks in about.all_marks], axis=0)


def _scores(bundle: ModelBundle, predictions: pd.DataFrame) -> Scores | None:
    """Return scores of labelled patients, at the prevalence that the study was given."""
    scoring = bundle.scoring
    if predictions.empty:
        return None
    columns = {name: predictions[name].to_numpy() for name in scoring.targets}
    if not scoring.scorable(scoring.targets_of(columns)):
        return None
    return scores_with_intervals(one_model_table(bundle, predictions))


def one_model_table(bundle: ModelBundle, predictions: pd.DataFrame) -> Table:
    """Return predictions of labelled patients by one model, at the prevalence that the study was given."""
    table = predictions.assign(repeat=1, fold=1)
    return Table.of(table, bundle.about.procedure.prevalence, bundle.scoring)


def _group_problems(bundle: ModelBundle, cohort: Cohort) -> list[str]:
    """Return why the embeddings of a cohort cannot be standardised within groups, if the model does that."""
    return list(group_problems(cohort.groups)) if bundle.head.by_group else []


def _feature_problems(bundle: ModelBundle, cohort: Cohort, caches: Sequence[FeatureCache]) -> list[str]:
    views = bundle.about.views
    if not views:
        return ["The model was trained without images: use --features none."] if caches else []
    if len(caches) != len(views):
        names = ", ".join(printable(view.name) for view in views)
        given = f" Name {len(views)} folders with --features, not {len(caches)}." if len(views) > 1 else ""
        return [f"The model was trained with features {names}.{given}"]
    pairs = zip(views, caches, strict=True)
    return [problem for view, cache in pairs for problem in _view_problems(bundle, view, cohort, cache)]


def _view_problems(
    bundle: ModelBundle, trained: BundleFeatures, cohort: Cohort, cache: FeatureCache
) -> list[str]:
    lines = _spec_problems(cache.spec, trained.spec)
    if lines and bundle.backbone is not None:
        advice = f"Leave out --features, or extract with --weights and the bundle's {BACKBONE}."
        lines.append(f"Its backbone was fine-tuned. {advice}")
    if lines:
        return [f"{cache.folder} holds other features than the model was trained with:", *lines]
    return cache.absent(cohort.patient_ids)


def _spec_problems(spec: Spec, trained: Spec) -> list[str]:
    """Return the differences of two specs.

    The origin of the same weights does not count as one, nor the pixels of a window of the same micrometres.
    """
    same = spec["weight_digest"] is not None and spec["weight_digest"] == trained["weight_digest"]
    if same:
        spec = {**spec, "weights": trained["weights"], "seed": trained["seed"]}
    if "crop_um" in spec and spec["crop_um"] == trained.get("crop_um"):
        spec = {**spec, "crop": trained["crop"]}
    return spec_differences(spec, trained)


def _warn_of_other_scales(bundle: ModelBundle, cohort: Cohort) -> None:
    others, unknown = scale_problems(bundle.about, cohort), unknown_scale(bundle.about, cohort)
    for line in (*others[:-1], *([unknown] if unknown else [])):  # without the advice, which was taken
        logger.warning("%s", line)


def warn_of_other_embeddings(bundle: ModelBundle, recorded: Sequence[Sequence[str]]) -> None:
    """Warn where embeddings were computed in other ways than those of the training patients.

    recorded: of each view, see `FeatureCache.recorded`
    """
    views = bundle.about.views
    for view, present in zip(views, recorded, strict=True):
        trained = sorted(set(view.recorded))
        if set(present) - set(trained):
            logger.warning(
                "The embeddings%s were computed in %s, those that the model was fitted on in %s. Embeddings"
                " of the same image differ little: %s.",
                f" of {printable(view.name)}" if len(views) > 1 else "",
                printable(", ".join(present)),
                printable(", ".join(trained)),
                tolerance([*present, *trained]),
            )


def extract_as_trained(
    bundle: ModelBundle,
    cohort: Cohort,
    root: Path = Path("cache"),
    device: str = "auto",
    weights: Checkpoints = None,
    any_scale: bool = False,
    batch_size: int | None = None,
) -> Features:
    """Embed a cohort's images exactly as the training images were; existing embeddings are reused.

    weights: checkpoints of the backbones, see `checkpoints_of` and `ModelBundle.build_backbone`
    any_scale: see `predict`; batch_size: see `extract`

    Returns the cache of each view; None for a model that does not look at images. Where only some views are
    imported features, these are opened. Raises DataError for patients without images and, unless
    `any_scale`, with images of another scale; and the errors of `open_as_trained`, of
    `ModelBundle.backbone_source` and `build_backbone` (before any image is embedded) and of `extract`.
    """
    views = bundle.about.views
    if not views:
        return None
    _check_images(cohort)
    problems = _group_problems(bundle, cohort)
    problems += [] if any_scale else scale_problems(bundle.about, cohort)
    if problems:
        raise DataError(problems)
    checkpoints = checkpoints_of(weights, views)
    embed = partial(extract, cohort, root=root, device=device, batch_size=batch_size)
    steps = [
        _extraction(bundle, place, root, checkpoints[place], embed)
        if view.has_backbone or not bundle.has_backbone  # the latter raises the reason
        else partial(_open_view, view, cohort, root)
        for place, view in enumerate(views)
    ]
    caches = [step() for step in steps]
    return caches if len(caches) > 1 else caches[0]


def _extraction(
    bundle: ModelBundle, view: int, root: Path, weights: Path | None, embed: Callable[..., Extraction]
) -> Callable[[], FeatureCache]:
    """Return the function that embeds the images for a view; raises first if its backbone is missing.

    embed: `extract` with everything but what depends on the view
    """
    spec = bundle.about.views[view].spec
    config, colour = extraction_config(spec, weights), spec.get("colour")
    backbone = bundle.backbone_source(root, weights, view)
    return lambda: FeatureCache.open(embed(config=config, backbone=backbone, colour=colour).folder)


def open_as_trained(bundle: ModelBundle, cohort: Cohort, root: Path = Path("cache")) -> Features:
    """Open the cohort's caches of the features that the model was fitted on.

    Raises UsageError if there are none, or for a model that does not look at images.
    """
    caches = [_open_view(view, cohort, root) for view in bundle.about.views]
    if not caches:
        raise UsageError("This model does not look at images: it has no features.")
    return caches if len(caches) > 1 else caches[0]


def _open_view(features: BundleFeatures, cohort: Cohort, root: Path) -> FeatureCache:
    folder = named_cache(cohort.name, features.name, root)
    if not holds_spec(folder):
        raise UsageError(
            f"The model was fitted on the features {printable(features.name)}, and {printable(folder)} does"
            " not exist. Embed the images with the tool that made them, run mil-cache import, and name the"
            " resulting folder with --features."
        )
    return FeatureCache.open(folder)


def extraction_config(spec: Spec, weights: Path | None) -> ExtractionConfig:
    """Return the configuration that computes embeddings of a spec; weights: the backbone's checkpoint."""
    origin = spec["weights"] if weights is None else str(weights)
    crop_um = spec.get("crop_um")
    crop = spec["crop"] if crop_um is None else 0  # follows from the resolution of the cohort
    shown = spec["image_size"], crop, spec["preprocess"], crop_um, scale_of(spec)
    return ExtractionConfig(spec["backbone"], origin, *shown, augment=augmented(spec))


def _check_images(cohort: Cohort) -> None:
    absent = [patient for patient in cohort.patient_ids if patient not in cohort.images]
    if absent:
        raise DataError([f"patient {printable(patient)} has no images." for patient in absent])


def check_submission(cohort: Cohort, predicted: Outcome) -> None:
    """Raise DataError if a class has several words, or no word: a challenge file holds one for each.

    Raises UsageError for an outcome with neither classes nor a single number.

    predicted: the outcome of the model
    """
    if not predicted.class_names and len(predicted.scoring.values) > 1:
        raise UsageError(
            "--submission writes the class or the number of each patient, and the outcome"
            f" {predicted.kind} has none."
        )
    if not predicted.fixed_classes and not cohort.outcome.table_columns:
        own = sorted(predicted.own_keys)
        what = "the words of the classes" if predicted.class_names else "the declared outcome"
        declared = ["label", *own] if predicted.class_names else own
        raise DataError(
            f"{cohort.source}: a challenge file needs {what}. Declare {' and '.join(declared)} under"
            " [cohort], as the model was fitted with."
        )
    keys = cohort.outcome.stratum_names
    words_of = enumerate(cohort.outcome.class_words)
    several = [f"{keys[number]} has {', '.join(words)}" for number, words in words_of if len(words) > 1]
    if several:
        raise DataError(
            f"{cohort.source}: a challenge file needs one word for each class, but {' and '.join(several)}."
            " Use a cohort.toml that gives each class the one word that the challenge expects."
        )


def _written(predicted: float, words: Sequence[str]) -> str:
    return words[int(predicted)] if words else repr(float(predicted))


def write_submission(
    path: Path, predictions: pd.DataFrame, cohort: Cohort, header: Sequence[str] = ("ID", "LABEL")
) -> int:
    """Publish a challenge file with all unlabelled patients, each once; return their number.

    Predictions are written as the class names of the cohort's table, or as numbers if there are no classes.
    Raises DataError where no patient is unlabelled, and where a class has several words.
    """
    check_submission(cohort, cohort.outcome)
    unlabelled = cohort.unlabelled().patient_ids
    if not unlabelled:
        raise DataError(f"{cohort.source}: no patient is unlabelled, so the submission would be empty.")
    scoring, words = cohort.outcome.scoring, submission_words(cohort)
    column = scoring.values[0] if scoring.decision is None else scoring.decision
    predicted = dict(zip(predictions["patient_id"], predictions[column], strict=True))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([header, *([patient, _written(predicted[patient], words)] for patient in unlabelled)])
    publish(path, file.getvalue().encode())
    return len(unlabelled)

"""mil-predict: apply a bundle to all patients of a cohort, or to one patient without a cohort."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.cli.command import Outcome, add_device, command_parser, run
from mil_toolkit.cli.one_patient import UNLIKE, add_one_patient, check_options, predict_patient
from mil_toolkit.core.argument_order import add_replaceable
from mil_toolkit.core.completion import suggest
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.records import Json, to_json
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.records import Scores
from mil_toolkit.evaluation.words import with_interval

if TYPE_CHECKING:
    import numpy as np

    from mil_toolkit.bundle.bundle import ModelBundle
    from mil_toolkit.bundle.predict import Predictions
    from mil_toolkit.cohort.cohort import Cohort
    from mil_toolkit.training.patients import Features

OUTPUT = "predictions.csv"

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-predict."""
    return run(_parser(), _predict, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "mil-predict", "Predict all patients of a cohort, or one patient, with a bundle of mil-fit."
    )
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="folder that mil-fit wrote")
    add_replaceable(
        parser,
        "cohort",
        ("--images", "--set"),
        metavar="COHORT.toml",
        help="the cohort; labels are used for scores only. One patient needs none: use --images and --set",
    )
    add_model_inputs(parser)
    add(
        "--output",
        type=Path,
        help=f"table of predictions to write (default: {OUTPUT}; for one patient, none)",
    )
    add("--submission", type=Path, help="challenge file to write, with the unlabelled patients only")
    add("--submission-header", default="ID,LABEL", metavar="ID,LABEL", help="header of the challenge file")
    add("--attention", type=Path, help="table to write with the attention on each image")
    add(
        "--strict",
        action="store_true",
        help="end with exit code 4 if any patient is, or may be, unlike those that the model was fitted on",
    )
    add(
        "--abstain",
        type=float,
        metavar="ALPHA",
        help="also answer with a set that misses the outcome in a share ALPHA of patients, such as 0.1:"
        " positive, negative or either; the classes; or an interval",
    )
    add_device(parser)
    add_one_patient(parser)
    return parser


def add_model_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the embeddings for a bundle come from."""
    add = parser.add_argument
    features = add(
        "--features",
        nargs="+",
        metavar="CACHE_FOLDER",
        help="cache folder with embeddings to use, one for each view of the model (default: embed the images"
        " as those that the model was fitted on)",
    )
    suggest(features, ("none",), files=True)
    add(
        "--weights",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="checkpoint of the backbone, if the weights of the model's backbone came from a file; one for"
        " each view if they differ",
    )
    add("--cache", type=Path, default=Path("cache"), help="folder of all caches, for new embeddings")
    add("--batch-size", type=int, help="images that are embedded at once (default: as in mil-extract)")
    add(
        "--any-scale",
        action="store_true",
        help="use images of other micrometres per pixel than those that the model was fitted on",
    )


def _predict(arguments: argparse.Namespace) -> Outcome:
    one_patient = arguments.images is not None or bool(arguments.set)
    check_options(arguments, one_patient)
    return predict_patient(arguments) if one_patient else _predict_cohort(arguments)


def _predict_cohort(arguments: argparse.Namespace) -> Outcome:
    arguments.output = arguments.output or Path(OUTPUT)
    header = arguments.submission_header.split(",")
    if len(header) != 2:
        raise UsageError(
            f"--submission-header takes two names and a comma, not {arguments.submission_header!r}."
        )
    from mil_toolkit.bundle.abstention import notes, training_note
    from mil_toolkit.bundle.bundle import ModelBundle
    from mil_toolkit.bundle.domain.columns import in_domain
    from mil_toolkit.bundle.domain.judge import counts_line
    from mil_toolkit.bundle.predict import check_submission, predict
    from mil_toolkit.cohort.cohort import read_cohort
    from mil_toolkit.core.devices import pick_device, use_available_cores

    pick_device(arguments.device)  # before the data are read
    use_available_cores()
    bundle = ModelBundle.load(arguments.bundle)
    for note in () if arguments.abstain is None else notes(bundle.about, arguments.abstain):
        logger.info("%s", note)
    from_images = arguments.features is None and bundle.has_backbone
    cohort = read_cohort(arguments.cohort, images=from_images)
    _check_outputs(arguments, bundle, cohort, header, from_images)
    if arguments.submission:
        check_submission(cohort, bundle.about.predicted)
    if arguments.attention and bundle.about.features is None:
        raise UsageError("--attention: this model does not look at images.")
    features = model_features(arguments, bundle, cohort, from_images)
    attention, any_scale = arguments.attention is not None, arguments.any_scale
    predictions = predict(bundle, cohort, features, attention, any_scale, arguments.abstain)
    lines = _write(arguments, predictions, cohort, header)
    lines += [step.sentence for step in bundle.about.recalibrations or ()]
    lines += _score_lines(predictions, bundle)
    if arguments.abstain is not None and (line := training_note(len(predictions.fitted_on or ()))):
        logger.info("%s", line)
    inside = in_domain(predictions.table)
    if line := counts_line(inside, len(cohort)):
        logger.warning("%s", line)
    code = UNLIKE if arguments.strict and not (inside is not None and inside.all()) else 0
    return Outcome("\n".join(lines), _data(arguments, bundle, cohort, predictions, inside), code)


def model_features(
    arguments: argparse.Namespace, bundle: "ModelBundle", cohort: "Cohort", from_images: bool
) -> "Features":
    """Return the embeddings that a bundle takes, by the options of `add_model_inputs`.

    from_images: embed the images of the cohort
    """
    from mil_toolkit.bundle.predict import extract_as_trained, open_as_trained
    from mil_toolkit.study.sources import open_folders
    from mil_toolkit.training.patients import caches_of

    if arguments.features is not None:
        return open_folders(arguments.features, cohort.name)
    views = bundle.about.views
    if not views:
        logger.info("Using metadata only, as the model does (no --features given).")
        return None
    if from_images:
        names = ", ".join(printable(view.name) for view in views)
        logger.info("Embedding the images as for the model: %s (no --features given).", names)
        return extract_as_trained(
            bundle,
            cohort,
            arguments.cache,
            arguments.device,
            arguments.weights,
            arguments.any_scale,
            arguments.batch_size,
        )
    features = open_as_trained(bundle, cohort, arguments.cache)
    folders = ", ".join(str(cache.folder) for cache in caches_of(features))
    logger.info("Using the features that the model was fitted on: %s (no --features given).", folders)
    return features


def _check_outputs(
    arguments: argparse.Namespace,
    bundle: "ModelBundle",
    cohort: "Cohort",
    header: Sequence[str],
    from_images: bool,
) -> None:
    """Raise UsageError, before any work, for outputs that would replace other files."""
    from mil_toolkit.bundle.files import FILES
    from mil_toolkit.bundle.outputs import attention_output, prediction_output, submission_output
    from mil_toolkit.cohort.image_places import check_outside_images, image_folders
    from mil_toolkit.core.outputs import check_outputs
    from mil_toolkit.core.own_folders import check_outside_own_folders

    outputs = {"--output": prediction_output(arguments.output, bundle.scoring)}
    if arguments.submission:
        outputs["--submission"] = submission_output(arguments.submission, cohort, header)
    if arguments.attention:
        outputs["--attention"] = attention_output(arguments.attention)
    folders = {"--cache": arguments.cache} if from_images else {}
    inputs = [cohort.source, *cohort.tables, *(arguments.bundle / name for name in FILES)]
    inputs += [path for paths in cohort.images.values() for path in paths]
    inputs += arguments.weights
    check_outputs(outputs, inputs)
    files = {option: output.path for option, output in outputs.items()}
    check_outside_images(image_folders(cohort.source), folders, files)
    for folder in folders.values():
        check_outside_own_folders(folder / cohort.name)


def _write(
    arguments: argparse.Namespace, predictions: "Predictions", cohort: "Cohort", header: Sequence[str]
) -> list[str]:
    """Write the tables, and return a line for each."""
    from mil_toolkit.bundle.outputs import write_tables
    from mil_toolkit.bundle.predict import write_submission

    lines = write_tables(arguments.output, predictions.table, arguments.attention, predictions.attention)
    if arguments.submission:
        count = write_submission(arguments.submission, predictions.table, cohort, header)
        lines.append(f"{arguments.submission}: {count_of(count, 'unlabelled patient')}.")
    return lines


def _data(
    arguments: argparse.Namespace,
    bundle: "ModelBundle",
    cohort: "Cohort",
    predictions: "Predictions",
    inside: "np.ndarray | None",
) -> dict[str, Json]:
    steps = bundle.about.recalibrations or ()
    return {
        "predictions": str(arguments.output),
        "patients": len(cohort),
        "in_domain": None if inside is None else int(inside.sum()),
        "validation": _scores_json(predictions.validation),
        "training": _scores_json(predictions.training),
        "unknown": _scores_json(predictions.unknown),
        "fitted_on": None if predictions.fitted_on is None else list(predictions.fitted_on),
        "recalibrated": [step.summary for step in steps],
    }


def _scores_json(scores: Scores | None) -> Json:
    return None if scores is None else {name: to_json(score) for name, score in scores.items()}


def _score_lines(predictions: "Predictions", bundle: "ModelBundle") -> list[str]:
    lines = []
    if predictions.validation:
        lines.append(_validation_words(bundle))
        lines += _metric_lines(predictions.validation, bundle.scores.outer)
    if predictions.training:
        lines.append(
            "On patients that the model was, or may have been, fitted on (optimistic, not evidence of its"
            " performance):"
        )
        lines += _metric_lines(predictions.training, None)
    if predictions.unknown:
        lines.append(_unknown_words(bundle))
        lines += _metric_lines(predictions.unknown, None)
    return lines


def _validation_words(bundle: "ModelBundle") -> str:
    if bundle.about.features is None:
        return (
            "External validation, on patients with other ids than those that the model was fitted on (without"
            " images, it recognises patients by their ids only):"
        )
    return "External validation, on patients that the model was not fitted on:"


def _unknown_words(bundle: "ModelBundle") -> str:
    """Return the heading of scores of which nobody can say whether they are external validation."""
    from mil_toolkit.bundle.membership import ANONYMOUS

    reason = f"was made by mil_toolkit {printable(bundle.about.versions['mil_toolkit'])}, which stored no"
    reason += " reliable marks of them. Fit the model again with mil-fit to tell them apart"
    if bundle.about.fitted_on == ANONYMOUS:
        reason = "is anonymous (mil-fit --anonymous)"
    return (
        "On labelled patients that may contain training patients. This is not external validation: the bundle"
        f" does not say whom the model was fitted on, since it {reason}."
    )


def _metric_lines(scores: Scores, expected: Scores | None) -> list[str]:
    """Return a line for each metric; expected: the study's outer scores, to compare with."""
    head = f"{count_of(next(iter(scores.values())).patients, 'patient')}, 95 % intervals"
    lines = [f"{head:>46s}" + (f"{'outer folds of the study':>26s}" if expected else "")]
    for name, score in scores.items():
        beside = f"{with_interval(expected[name]):>26s}" if expected and name in expected else ""
        lines.append(f"  {name:20s}{with_interval(score):>24s}{beside}")
    return lines

"""Apply a bundle to every patient of a cohort."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mil_toolkit.cli.command import Outcome, command_parser, run
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.words import with_interval

if TYPE_CHECKING:
    from mil_toolkit.bundle.predict import Predictions
    from mil_toolkit.cohort.cohort import Cohort


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-predict."""
    parser = command_parser("mil-predict", "Predict every patient of a cohort with a bundle of mil-fit.")
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="folder that mil-fit wrote")
    add(
        "cohort",
        type=Path,
        metavar="COHORT.toml",
        help="the cohort; labels, where it has any, are only scored",
    )
    add(
        "--features",
        metavar="CACHE_FOLDER",
        help="embeddings to use; by default they are made from the images",
    )
    add(
        "--weights",
        type=Path,
        metavar="PATH",
        help="checkpoint of the backbone, for a model whose backbone's weights came from a file",
    )
    add("--cache", type=Path, default=Path("cache"), help="folder of all caches, where new embeddings go")
    add("--output", type=Path, default=Path("predictions.csv"), help="table to write")
    add("--submission", type=Path, help="challenge file to write, with the unlabelled patients alone")
    add("--submission-header", default="ID,LABEL", metavar="ID,LABEL", help="the challenge file's header")
    add("--attention", type=Path, help="table to write, with the attention of each image")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    return run(parser, _predict, argv)


def _predict(arguments: argparse.Namespace) -> Outcome:
    header = arguments.submission_header.split(",")
    if len(header) != 2:
        raise UsageError(
            f"--submission-header takes two names and a comma, not {arguments.submission_header!r}."
        )
    from mil_toolkit.bundle.bundle import ModelBundle
    from mil_toolkit.bundle.predict import extract_as_trained, predict, write_submission
    from mil_toolkit.cohort.cohort import read_cohort
    from mil_toolkit.core.devices import pick_device, use_available_cores
    from mil_toolkit.features.cache import open_features
    from mil_toolkit.study.tables import publish_table

    pick_device(arguments.device)  # before the data are read
    use_available_cores()
    bundle = ModelBundle.load(arguments.bundle)
    from_images = arguments.features is None and bundle.about["features"] is not None
    cohort = read_cohort(arguments.cohort, images=from_images)
    _check_outputs(arguments, cohort)
    if arguments.attention and bundle.about["features"] is None:
        raise UsageError("--attention: this model does not look at images.")
    if from_images:
        cache = extract_as_trained(bundle, cohort, arguments.cache, arguments.device, arguments.weights)
    else:
        cache = open_features(arguments.features or "none", cohort.name)
    predictions = predict(bundle, cohort, cache)
    publish_table(arguments.output, predictions.table)
    lines = [f"{arguments.output}: {count_of(len(cohort), 'patient')}."]
    if arguments.attention and predictions.attention is not None:
        publish_table(arguments.attention, predictions.attention)
        lines.append(
            f"{arguments.attention}: the attention of {count_of(len(predictions.attention), 'image')}."
        )
    if arguments.submission:
        count = write_submission(arguments.submission, predictions.table, cohort, header)
        lines.append(f"{arguments.submission}: {count_of(count, 'unlabelled patient')}.")
    data = {
        "predictions": str(arguments.output),
        "patients": len(cohort),
        "validation": predictions.validation,
        "training": predictions.training,
    }
    return Outcome("\n".join([*lines, *_scores(predictions, bundle.scores["outer"])]), data)


def _check_outputs(arguments: argparse.Namespace, cohort: "Cohort") -> None:
    """Raise UsageError where what is written would take the place of what is read, before the work."""
    from mil_toolkit.bundle.bundle import FILES
    from mil_toolkit.core.outputs import check_outputs

    named = {f"--{name}": getattr(arguments, name) for name in ("output", "submission", "attention")}
    read = [cohort.source, *cohort.tables, *(arguments.bundle / name for name in FILES)]
    read += [arguments.weights] if arguments.weights else []
    check_outputs({option: path for option, path in named.items() if path}, read)


def _scores(predictions: "Predictions", expected: Mapping[str, Any] | None) -> list[str]:
    lines = []
    if predictions.validation:
        lines.append("External validation, on patients that the model was not fitted on:")
        lines += _table(predictions.validation, expected)
    if predictions.training:
        lines.append("On patients that it was fitted on, which proves nothing:")
        lines += _table(predictions.training, None)
    return lines


def _table(scores: Mapping[str, Any], expected: Mapping[str, Any] | None) -> list[str]:
    """Every metric on a line, beside what the study's outer folds let expect."""
    counted = scores["accuracy"]["patients"]
    head = f"{count_of(counted, 'patient')}, 95 % intervals"
    lines = [f"{head:>46s}" + (f"{'outer folds of the study':>26s}" if expected else "")]
    for name, score in scores.items():
        beside = f"{with_interval(expected[name]):>26s}" if expected else ""
        lines.append(f"  {name:20s}{with_interval(score):>24s}{beside}")
    return lines

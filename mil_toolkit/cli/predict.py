# Floor 5: mil-predict.
"""Apply a bundle to every patient of a cohort."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.cli.command import Outcome, command_parser, run
from mil_toolkit.errors import UsageError

if TYPE_CHECKING:
    from mil_toolkit.prediction import Predictions


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
    from mil_toolkit.assessment import publish_table
    from mil_toolkit.bundle import ModelBundle
    from mil_toolkit.cohort import read_cohort
    from mil_toolkit.devices import use_available_cores
    from mil_toolkit.features import open_features
    from mil_toolkit.prediction import (
        extract_as_trained,
        predict,
        write_submission,
    )

    use_available_cores()
    bundle = ModelBundle.load(arguments.bundle)
    from_images = arguments.features is None and bundle.about["features"] is not None
    cohort = read_cohort(arguments.cohort, images=from_images)
    if from_images:
        cache = extract_as_trained(bundle, cohort, arguments.cache, arguments.device)
    else:
        cache = open_features(arguments.features or "none", cohort.name)
    predictions = predict(bundle, cohort, cache)
    if arguments.attention and predictions.attention is None:
        raise UsageError("--attention: this model does not look at images.")
    publish_table(arguments.output, predictions.table)
    lines = [f"{arguments.output}: {len(cohort)} patients."]
    if arguments.attention and predictions.attention is not None:
        publish_table(arguments.attention, predictions.attention)
        lines.append(f"{arguments.attention}: the attention of {len(predictions.attention)} images.")
    if arguments.submission:
        count = write_submission(arguments.submission, predictions.table, cohort, header)
        lines.append(f"{arguments.submission}: {count} unlabelled patients.")
    data = {
        "predictions": str(arguments.output),
        "patients": len(cohort),
        "validation": predictions.validation,
        "training": predictions.training,
    }
    return Outcome("\n".join([*lines, *_scores(predictions)]), data)


def _scores(predictions: "Predictions") -> list[str]:
    lines = []
    if predictions.validation:
        lines.append(f"External validation, patients the model never saw: {_line(predictions.validation)}.")
    if predictions.training:
        lines.append(f"Patients it was fitted on, which proves nothing: {_line(predictions.training)}.")
    return lines


def _line(scores: Mapping[str, float]) -> str:
    shown = [f"{name} {value:.3f}" for name, value in scores.items() if name != "patients"]
    return f"{scores['patients']} patients, {', '.join(shown)}"

"""mil-validate: external validation of a bundle on a labelled cohort of another place."""

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.cli.command import Outcome, add_device, command_parser, run
from mil_toolkit.cli.predict import add_model_inputs, model_features
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.records import Json, to_json
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.words import metric_words, table_metrics, with_interval

if TYPE_CHECKING:
    from mil_toolkit.cohort.cohort import Cohort
    from mil_toolkit.validation.records import Refitted, Validation
    from mil_toolkit.validation.validate import Validated

STEPS = ("intercept", "slope", "prevalence", "threshold")

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-validate."""
    return run(_parser(), _validate, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "mil-validate",
        "Validate a bundle of mil-fit on the labelled patients of another cohort, and write a page about it.",
    )
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="folder that mil-fit wrote")
    add("cohort", type=Path, metavar="COHORT.toml", help="the cohort; patients of the training are left out")
    add_model_inputs(parser)
    add("--output", type=Path, default=Path("validation.html"), help="page to write")
    add(
        "--anonymise",
        action="store_true",
        help="list no patients on the page, and number groups instead of naming them; figures of a number"
        " still have a mark for each patient, and --json still lists ids",
    )
    add(
        "--recalibrated",
        type=Path,
        metavar="FOLDER",
        help="folder of a new bundle to write, with what was refitted on this cohort",
    )
    add(
        "--recalibration",
        nargs="+",
        choices=STEPS,
        default=["slope"],
        help="what the new bundle refits: the intercept, intercept and slope (slope), a shift to the stated"
        " prevalence, and the threshold; one of the first three, or threshold, or both (default: slope)",
    )
    add(
        "--prevalence",
        type=float,
        metavar="P",
        help="share of positives at this place, for a prior shift, such as 0.2",
    )
    add_device(parser)
    return parser


def _validate(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.bundle.bundle import ModelBundle
    from mil_toolkit.cohort.cohort import read_cohort
    from mil_toolkit.core.devices import pick_device, use_available_cores
    from mil_toolkit.validation.page import write_page
    from mil_toolkit.validation.recalibrated import save_recalibrated
    from mil_toolkit.validation.sample import seen_patients, with_images
    from mil_toolkit.validation.validate import checked_steps, validate

    steps = checked_steps(arguments.recalibration, arguments.prevalence)
    pick_device(arguments.device)  # before the data are read
    use_available_cores()
    bundle = ModelBundle.load(arguments.bundle)
    from_images = arguments.features is None and bundle.has_backbone
    cohort = read_cohort(arguments.cohort, images=from_images, complete=False)
    _check_outputs(arguments, cohort, from_images)
    seen = seen_patients(bundle, cohort)
    if from_images:
        seen = with_images(seen)
    features = model_features(arguments, bundle, seen, from_images)
    validated = validate(bundle, cohort, features, steps, arguments.prevalence, arguments.any_scale)
    for note in validated.record.notes:
        (logger.info if validated.record.checked else logger.warning)("%s", note)
    chosen = "+".join(steps)
    if arguments.recalibrated is not None:
        _check_refitted(validated, chosen)
        save_recalibrated(validated, chosen, arguments.recalibrated)
    anonymise = arguments.anonymise
    size = write_page(arguments.output, validated, chosen, arguments.recalibrated, anonymise)
    lines = _lines(arguments, validated, size)
    if reason := validated.record.not_refitted.get(chosen):
        lines.append(f"Not refitted here. {reason}")
    if arguments.recalibrated is not None:
        lines.append(f"{arguments.recalibrated}: the model with {' and '.join(steps)}, refitted here.")
    return Outcome("\n".join(lines), _data(arguments, validated.record, chosen))


def _check_refitted(validated: "Validated", chosen: str) -> None:
    """Raise DataError, before anything is written, where the refit to save could not be fitted."""
    reason = validated.record.not_refitted.get(chosen)
    if reason is not None:
        raise DataError(f"--recalibrated: {reason} Choose another --recalibration, or leave it out.")


def _check_outputs(arguments: argparse.Namespace, cohort: "Cohort", from_images: bool) -> None:
    """Raise UsageError, before any work, for outputs that would replace other files."""
    from mil_toolkit.bundle.files import FILES
    from mil_toolkit.cohort.image_places import check_outside_images, image_folders
    from mil_toolkit.core.outputs import check_outputs
    from mil_toolkit.core.own_folders import check_outside_own_folders
    from mil_toolkit.validation.page import page_output

    folders = {"--cache": arguments.cache} if from_images else {}
    inputs = [cohort.source, *cohort.tables, *(arguments.bundle / name for name in FILES)]
    inputs += [path for paths in cohort.images.values() for path in paths]
    check_outputs({"--output": page_output(arguments.output)}, [*inputs, *arguments.weights])
    for folder in folders.values():
        check_outside_own_folders(folder / cohort.name)
    if arguments.recalibrated is not None:
        folders["--recalibrated"] = arguments.recalibrated
        _check_recalibrated(arguments.recalibrated, arguments.bundle, arguments.output)
    check_outside_images(image_folders(cohort.source), folders, {"--output": arguments.output})


def _check_recalibrated(folder: Path, bundle: Path, output: Path) -> None:
    """Raise UsageError where the new bundle would replace anything but a former one of its place."""
    from mil_toolkit.bundle.files import foreign_to_bundle
    from mil_toolkit.core.outputs import check_replaceable
    from mil_toolkit.core.own_folders import check_outside_own_folders

    there = folder.resolve()
    if there == bundle.resolve():
        raise UsageError(
            f"--recalibrated: {printable(folder)} is the bundle that is validated. Name another folder, so"
            " that the model before its recalibration stays."
        )
    if there == output.resolve() or there in output.resolve().parents:
        raise UsageError(f"--output: {printable(output)} is inside {printable(folder)}, the new bundle.")
    check_outside_own_folders(folder)
    check_replaceable(folder, "a bundle", foreign_to_bundle)


def _lines(arguments: argparse.Namespace, validated: "Validated", size: int) -> list[str]:
    record, flow = validated.record, validated.record.flow
    left_out = (
        f"Of {count_of(flow.table, 'patient')} in the table: {flow.excluded} excluded, {flow.without_outcome}"
        f" without outcome, {flow.without_images} without images, {flow.in_training} already in training."
    )
    lines = [
        f"{arguments.output}: {count_of(flow.scored, 'patient')} scored, {size / 1e6:.1f} MB.",
        left_out,
        "The model as it stands (95 % intervals; study: held-out patients of its outer folds):",
        f"{'':22s}{'here':>24s}{'study':>26s}{'difference':>28s}",
    ]
    primary = validated.bundle.about.procedure.primary_metric
    lines += [_metric_line(record, name) for name in table_metrics(primary, record.scores)]
    if record.in_domain is not None:
        lines.append(f"In the domain of the model: {record.in_domain} of {flow.scored}.")
    lines += [_refit_line(record, refitted) for refitted in record.refits.values()]
    return lines


def _refit_line(record: "Validation", refitted: "Refitted") -> str:
    """Return by how much a refit changes the loss, or a threshold alone the balanced accuracy."""
    from mil_toolkit.validation.by_outcome import SHOWN

    metric = "balanced_accuracy" if refitted.steps == ["threshold"] else SHOWN[record.outcome].metrics[0]
    change, steps = with_interval(refitted.differences[metric], "+"), " and ".join(refitted.steps)
    return f"Refitted here ({steps}): {metric_words(metric)} {change} by cross-fitting."


def _metric_line(record: "Validation", name: str) -> str:
    outer, difference = (record.outer or {}).get(name), record.differences.get(name)
    beside = "" if outer is None else f"{with_interval(outer):>26s}"
    beside += "" if difference is None else f"{with_interval(difference, '+'):>28s}"
    return f"  {name:20s}{with_interval(record.scores[name]):>24s}{beside}"


def _data(arguments: argparse.Namespace, record: "Validation", chosen: str) -> dict[str, Json]:
    data = _finite(to_json(record))
    assert isinstance(data, dict)
    saved: Json = None
    if arguments.recalibrated is not None:
        saved = {"bundle": str(arguments.recalibrated), "refitted": [*chosen.split("+")]}
    return {"page": str(arguments.output), **data, "recalibrated": saved}


def _finite(value: Json) -> Json:
    """Return a value with null for numbers that are not finite, as of subgroups of very few patients."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

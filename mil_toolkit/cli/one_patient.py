"""mil-predict for one patient: the options, their checks, and the prediction."""

import argparse
import logging
import math
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.cli.command import Outcome
from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import printable

if TYPE_CHECKING:
    from mil_toolkit.bundle.bundle import ModelBundle
    from mil_toolkit.bundle.patient_words import PatientWords

# Options, by their names in the namespace, that only a cohort has, and that only one patient has.
OF_COHORT = ("features", "submission")
OF_ONE_PATIENT = ("reference", "microns_per_pixel", "page", "saliency")
# Options that only a cohort has, with their defaults.
UNUSED = {"cache": Path("cache"), "submission_header": "ID,LABEL"}
# Options about images, which a model that looks at none does not need.
OF_IMAGES = ("images", "attention", "saliency", "microns_per_pixel", "weights", "batch_size")
UNLIKE = 4  # exit code of --strict, also for patients of whom it is not known

logger = logging.getLogger(__name__)


def add_one_patient(parser: argparse.ArgumentParser) -> None:
    """Add the options for one patient without a cohort."""
    group = parser.add_argument_group("one patient", "a folder of images and values instead of COHORT.toml")
    add = group.add_argument
    add("--images", type=Path, metavar="FOLDER", help="folder with the images of one patient")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="value of a metadata column of the model, such as age=67; once for each column",
    )
    add(
        "--reference",
        metavar="DATE",
        help="day at which an age is computed from a date of birth, such as 2026-11-28 (default: today)",
    )
    add(
        "--microns-per-pixel",
        type=float,
        metavar="MICRONS",
        help="micrometres that a pixel of the images covers, if it is known",
    )
    add("--page", type=Path, metavar="FILE", help="HTML page to write, with the images of highest attention")
    add(
        "--saliency",
        action="store_true",
        help="show on the page what counts in each image of highest attention",
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def check_options(arguments: argparse.Namespace, one_patient: bool) -> None:
    """Raise UsageError that names every option of the other way to call the command."""
    refused = OF_COHORT if one_patient else OF_ONE_PATIENT
    given = [_option(name) for name in refused if getattr(arguments, name)]
    if one_patient:
        given += [_option(name) for name, usual in UNUSED.items() if getattr(arguments, name) != usual]
    problems = []
    if one_patient and arguments.cohort is not None:
        own = "--images" if arguments.images is not None else "--set"
        problems.append(
            f"COHORT.toml and {own} are both given ({printable(arguments.cohort)}). Name a cohort, or"
            " describe one patient with --images and --set."
        )
    if not one_patient and arguments.cohort is None:
        problems.append("COHORT.toml is missing. For one patient, use --images FOLDER and --set NAME=VALUE.")
    if given and (one_patient or arguments.cohort is not None):
        without = "for one patient" if one_patient else "without --images or --set, for one patient"
        problems.append(f"{', '.join(given)}: {'cannot' if one_patient else 'can only'} be used {without}.")
    if one_patient:
        problems += _set_problems(arguments.set)
        problems += _reference_problems(arguments.reference)
        if arguments.saliency and arguments.page is None:
            problems.append("--saliency is shown on a page: name it with --page FILE.")
        if arguments.microns_per_pixel is not None and not 0 < arguments.microns_per_pixel < math.inf:
            problems.append(
                f"--microns-per-pixel must be a positive number, not {arguments.microns_per_pixel:g}."
            )
    if problems:
        raise UsageError("\n".join(problems))


def _set_problems(words: Sequence[str]) -> list[str]:
    problems = [
        f"--set takes NAME=VALUE, such as age=67, not {word!r}."
        for word in words
        if not word.partition("=")[0].strip() or "=" not in word
    ]
    values: dict[str, list[str]] = {}
    for word in words:
        name, _, value = word.partition("=")
        values.setdefault(normal_form(name.strip()), []).append(repr(value))
    return problems + [
        f"--set {printable(name)} is given {len(several)} times: {', '.join(several)}. Give it once."
        for name, several in values.items()
        if len(several) > 1
    ]


def _reference_problems(text: str | None) -> list[str]:
    try:
        _reference(text)
    except ValueError:
        return [f"--reference must be a day as YYYY-MM-DD, not {text!r}."]
    return []


def _reference(text: str | None) -> date:
    return date.today() if text is None else datetime.strptime(text, "%Y-%m-%d").date()


def predict_patient(arguments: argparse.Namespace) -> Outcome:
    """Predict the patient that the options describe."""
    from mil_toolkit.bundle.abstention import notes
    from mil_toolkit.bundle.bundle import ModelBundle
    from mil_toolkit.bundle.one_patient import Computation, OnePatient, predict_one
    from mil_toolkit.bundle.outputs import write_tables
    from mil_toolkit.bundle.patient_words import PatientWords
    from mil_toolkit.core.devices import pick_device, use_available_cores

    pick_device(arguments.device)  # before the data are read
    use_available_cores()
    bundle = ModelBundle.load(arguments.bundle)
    _check_inputs(arguments, bundle)
    _check_outputs_of_one(arguments, bundle)
    for note in () if arguments.abstain is None else notes(bundle.about, arguments.abstain):
        logger.info("%s", note)
    texts = dict(word.split("=", 1) for word in arguments.set)
    reference = _reference(arguments.reference)
    patient = OnePatient(texts, arguments.images, reference, arguments.microns_per_pixel)
    computation = Computation(arguments.weights, arguments.device, arguments.batch_size, arguments.any_scale)
    prediction = predict_one(bundle, patient, computation, arguments.abstain)
    words = PatientWords(bundle, prediction, reference, arguments.abstain)
    tables = prediction.predictions
    lines = words.lines()
    lines += write_tables(arguments.output, tables.table, arguments.attention, tables.attention)
    if arguments.page:
        lines.append(_write_page(arguments, words))
    data = {**words.to_json(), "page": None if arguments.page is None else str(arguments.page)}
    inside = prediction.reasons == []
    return Outcome("\n".join(lines), data, UNLIKE if arguments.strict and not inside else 0)


def _write_page(arguments: argparse.Namespace, words: "PatientWords") -> str:
    from mil_toolkit.bundle.checkpoints import checkpoints_of
    from mil_toolkit.bundle.files import CONFIG
    from mil_toolkit.bundle.saliency import Saliency
    from mil_toolkit.report.patient_page import write_patient_page

    written = date.fromtimestamp((arguments.bundle / CONFIG).stat().st_mtime)
    bundle, saliency = words.bundle, None
    if arguments.saliency and bundle.about.views:
        weights = checkpoints_of(arguments.weights, bundle.about.views)
        saliency = Saliency.of(bundle, words.prediction.cohort, weights)
    size = write_patient_page(arguments.page, words, written, saliency)
    return f"{arguments.page}: {size / 1e6:.1f} MB."


def _check_inputs(arguments: argparse.Namespace, bundle: "ModelBundle") -> None:
    """Raise UsageError for options that the model has no use for, and where it needs images."""
    from mil_toolkit.bundle.given_values import BIRTH_DATE
    from mil_toolkit.bundle.saliency import check_salient

    problems = []
    if bundle.about.views and arguments.images is None:
        problems.append(
            "--set without --images: the model looks at images. Name the folder with the patient's images."
        )
    given = {name: getattr(arguments, name) for name in OF_IMAGES}
    unused = [
        _option(name) for name, value in given.items() if not (value is None or value is False or value == [])
    ]
    if not bundle.about.views and unused:
        problems.append(
            f"{', '.join(unused)}: this model does not look at images. Leave out what belongs to images, and"
            " give --set only."
        )
    if arguments.reference and all(column.kind != BIRTH_DATE for column in bundle.about.columns):
        problems.append("--reference: the model takes no date of birth. Leave it out.")
    if problems:
        raise UsageError("\n".join(problems))
    if arguments.saliency:
        check_salient(bundle)


def _check_outputs_of_one(arguments: argparse.Namespace, bundle: "ModelBundle") -> None:
    """Raise UsageError, before any work, for outputs that would replace other files."""
    from mil_toolkit.bundle.files import FILES
    from mil_toolkit.bundle.outputs import attention_output, prediction_output
    from mil_toolkit.cohort.image_places import check_outside_images
    from mil_toolkit.core.outputs import check_outputs
    from mil_toolkit.report.patient_page import page_output

    outputs = {}
    if arguments.output:
        outputs["--output"] = prediction_output(arguments.output, bundle.scoring)
    if arguments.attention:
        outputs["--attention"] = attention_output(arguments.attention)
    if arguments.page:
        outputs["--page"] = page_output(arguments.page)
    check_outputs(outputs, [*(arguments.bundle / name for name in FILES), *arguments.weights])
    if arguments.images is not None:
        check_outside_images([arguments.images], {option: output.path for option, output in outputs.items()})

"""`write_patient_page`: the prediction for one patient as one HTML file, for the person at the microscope."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from markupsafe import Markup

from mil_toolkit.bundle.patient_words import PatientWords
from mil_toolkit.bundle.saliency import Saliency
from mil_toolkit.core.files import publish
from mil_toolkit.core.outputs import Output
from mil_toolkit.core.reading import open_input
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.evaluation.words import metric_title, with_interval
from mil_toolkit.outcomes.sets import SET, SET_HIGH, SET_LOW
from mil_toolkit.report.gallery import Naming, WeightedImage, in_order, ranked
from mil_toolkit.report.markup import environment, read_template, source_of
from mil_toolkit.report.page import pictures_of
from mil_toolkit.report.pictures import Pictures, data_uri, marked_thumbnail
from mil_toolkit.report.spotlight import EXPLANATION
from mil_toolkit.study.tables import class_column

SHOWN, SIDE = 10, 208  # images of highest attention, and their side in pixels
MARK = b'<meta name="mil_toolkit:page" content="one patient">'
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class ShownImage:
    """An image on the page: its name, its share of the attention in words, and the picture as a data URI.

    picture: None if the file cannot be shown
    marked: the picture with the places that count; None where these were not asked for
    """

    name: str
    share: str
    picture: str | None
    marked: str | None = None


@dataclass(frozen=True)
class PatientPage:
    """Everything on the page; all sentences are plain words.

    headline, value: the decision, or the predicted value where nothing is decided, and the value beside it
    warnings: what to know before; facts: the values that were given
    parts: what the images and the values contribute; model: facts of the model
    equal: whether all images have the same attention; explanation: of the second pictures, if there are any
    """

    patient: str
    study: str
    version: str
    headline: str
    value: str
    details: list[str]
    warnings: list[str]
    facts: list[tuple[str, str]]
    parts: list[str]
    images: list[ShownImage]
    equal: bool
    model: list[tuple[str, str]]
    explanation: str = ""


def page_output(path: Path) -> Output:
    """Return the page to write, which replaces only a former page of this kind."""
    return Output(path, "a page of one patient", _is_page)


def _is_page(path: Path) -> bool:
    with open_input(path) as file:
        return MARK in file.read(_HEAD_BYTES)


def write_patient_page(
    path: Path, words: PatientWords, written: date, saliency: Saliency | None = None
) -> int:
    """Write the page and return its size in bytes.

    written: the day on which the bundle was written; saliency: to show what counts in the images
    """
    html = render(patient_page(words, written, saliency))
    publish(path, html)
    return len(html)


def render(page: PatientPage) -> bytes:
    """Return the HTML of the page, which loads nothing and runs no script."""
    css = read_template("report.css") + read_template("patient.css")
    policy = f"default-src 'none'; img-src data:; style-src {source_of(css)}; base-uri 'none'"
    template = environment().get_template("patient.html")
    html = template.render(page=page, css=Markup(css), policy=Markup(f"{policy}; form-action 'none'"))
    return html.strip().encode() + b"\n"


def patient_page(words: PatientWords, written: date, saliency: Saliency | None = None) -> PatientPage:
    """Return what the page shows; see `write_patient_page`."""
    about = words.bundle.about
    images = _ranked_images(words)
    shown = _shown(words, (images or _in_order(words))[:SHOWN], saliency)
    value = words.value_words(words.values)
    return PatientPage(
        patient=words.patient,
        study=printable(about.study),
        version=printable(about.versions["mil_toolkit"]),
        headline=words.decision or value,
        value=value if words.decision else "",
        details=list(_details(words)),
        warnings=list(words.warnings()),
        facts=words.given() + ([("images", str(words.images))] if words.images else []),
        parts=list(_parts(words)),
        images=shown,
        equal=words.looks_at_images and not images,
        model=list(_model(words, written)),
        explanation=_explanation(words) if any(image.marked for image in shown) else "",
    )


def _explanation(words: PatientWords) -> str:
    """Return what the second pictures show."""
    if not words.bundle.about.predicted.fixed_classes or words.decided:
        return EXPLANATION
    return f"{EXPLANATION} What counts for {words.decision} may lie anywhere, also beside the cell."


def _details(words: PatientWords) -> Iterator[str]:
    """Yield how the answer was decided, and how sure it is, without technical terms."""
    constants, row = words.bundle.decision.constants, words.row
    if "threshold" in constants:
        positive = printable(words.bundle.about.class_names[1])
        yield f"The model answers {positive} from a probability of {constants['threshold']:.3f} upwards."
    elif words.decision:
        yield "The model answers with the class that is most probable, compared with how frequent it was."
    if intervals := words.bundle.scoring.intervals:
        low, high = (float(row[name]) for name in intervals)
        if math.isfinite(low):
            yield f"In 95 of 100 patients, the true value is expected between {low:.4g} and {high:.4g}."
    if words.abstain is not None:
        yield _set_words(words, words.abstain)


def _set_words(words: PatientWords, alpha: float) -> str:
    row, members = words.row, words.members(alpha)
    most = f"if it may be wrong for at most {100 * alpha:.3g} in 100 patients"
    if SET not in row:
        return f"The range that the model states {most}: {row[SET_LOW]:.4g} to {row[SET_HIGH]:.4g}."
    if len(members) > 1:
        return f"The model does not decide {most}: {row[SET]}."
    name = words.bundle.about.class_names[members[0]]
    return f"The answer of the model {most}: {printable(name)}."


def _parts(words: PatientWords) -> Iterator[str]:
    given = words.prediction.contributions
    if given.fusion is None:
        only = "images" if words.looks_at_images else "values"
        yield f"The model looks at the {only} only."
    for what, values in (("images", given.without_images), ("values", given.without_metadata)):
        if values is not None:
            yield f"With the {what} of an average patient instead: {words.value_words(values)}."


def _model(words: PatientWords, written: date) -> Iterator[tuple[str, str]]:
    about, scores = words.bundle.about, words.bundle.scores
    names = [printable(name) for name in about.class_names]
    yield "What it does", f"It {about.predicted.text.task(names)}."
    cohort = f"{count_of(about.patients, 'patient')} of {printable(about.cohort)}"
    yield "Made from", cohort + about.predicted.text.data(names, about.class_counts)
    for step in about.recalibrations or ():
        patients = count_of(step.patients, "patient")
        yield "Recalibrated", f"on {patients} of {printable(step.cohort)}: {step.words}"
    yield "Date", f"{written} (of the model's files)"
    metric = about.procedure.primary_metric
    tested = (
        "on patients that it had not seen" if scores.outer else "while it was chosen, which is optimistic"
    )
    best = (scores.outer or scores.inner)[metric]
    yield f"{metric_title(metric)} {tested}", with_interval(best)
    yield "Intended use", "Research. Do not use it for diagnosis, triage or decisions on care."


def _ranked_images(words: PatientWords) -> tuple[WeightedImage, ...]:
    """Return the images by falling attention, that for the predicted class if each class has its own."""
    table = words.prediction.predictions.attention
    if table is None:
        return ()
    column = "attention"
    if words.class_name is not None and class_column(words.class_name) in table:
        column = class_column(words.class_name)
    return ranked(table, column, Naming(anonymise=False))


def _in_order(words: PatientWords) -> tuple[WeightedImage, ...]:
    """Return the images in the order of their names, for a patient whose images all counted the same."""
    table = words.prediction.predictions.attention
    return () if table is None else in_order(table, "attention", Naming(anonymise=False))


def _shown(
    words: PatientWords, images: tuple[WeightedImage, ...], saliency: Saliency | None
) -> list[ShownImage]:
    pictures, prediction = pictures_of_one(words), words.prediction
    patient, names = prediction.cohort.patient_ids[0], [image.stored for image in images]
    maps = {} if saliency is None else saliency.images(prediction.patients, words.decided, names)
    shown = []
    for image in images:
        pixels = pictures.pixels((patient, image.stored), SIDE)
        share, picture, marked = f"{100 * image.attention:.1f} %", None, None
        if pixels is not None:
            picture = data_uri(pixels)
            if image.stored in maps:
                marked = data_uri(marked_thumbnail(maps[image.stored], SIDE))
        shown.append(ShownImage(image.name, share, picture, marked))
    return shown


def pictures_of_one(words: PatientWords) -> Pictures:
    """Return the patient's images as the first view of the model shows them."""
    cohort, views = words.prediction.cohort, words.bundle.about.views
    if not views:
        return Pictures({}, {}, 0, 0)
    patient = cohort.patient_ids[0]
    names, files = cohort.image_names[patient], cohort.images[patient]
    paths = {(patient, name): path for name, path in zip(names, files, strict=True)}
    scales: Mapping[str, float] = cohort.scales
    return pictures_of(views[0].spec, paths, {}, scales)

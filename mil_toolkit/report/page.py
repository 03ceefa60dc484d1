"""`write_report`: the report of a study folder, as one HTML file."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.backbones.spec import sampling_of
from mil_toolkit.bundle.checkpoints import Checkpoints
from mil_toolkit.config.extraction import CELL_NAMES
from mil_toolkit.core.errors import MilError
from mil_toolkit.core.files import publish
from mil_toolkit.core.outputs import Output, check_outputs
from mil_toolkit.core.progress import ProgressBar
from mil_toolkit.core.reading import open_input
from mil_toolkit.core.run_log import stage
from mil_toolkit.core.text import count_of, printable
from mil_toolkit.features.sights import sight_summary
from mil_toolkit.features.spec import Spec, scale_of
from mil_toolkit.report.contents import (
    Contents,
    Key,
    image_digests,
    image_paths,
    image_scales,
    read_contents,
    stored_views,
)
from mil_toolkit.report.doubtful import BYTES, doubtful_of
from mil_toolkit.report.layout import Page, lay_out
from mil_toolkit.report.markup import to_html
from mil_toolkit.report.pictures import Pictures, Thumbnails, ViewSamples, samples_of, thumbnails_of
from mil_toolkit.report.seal import GENERATOR, MOST_BYTES, Report, inputs_digest, with_seal
from mil_toolkit.report.sections.attention import best_words
from mil_toolkit.report.spotlight import NOTE
from mil_toolkit.study.records import StudyScores

if TYPE_CHECKING:
    from mil_toolkit.bundle.saliency import SalientImage  # imports torch
    from mil_toolkit.report.gallery import Case

__all__ = ["MOST_BYTES", "Report", "render", "write_report"]

_HEAD_BYTES = 4096  # of a page, which hold its title
_CENTRE, _NUCLEUS = "at the centre", "around the nucleus nearest the centre"
_WINDOWS = {  # by preprocessing: where a window lies, and what is masked in it
    "none": (_CENTRE, ""),
    "saturation-mask": (_CENTRE, " Everything with little saturation is black."),
    "reinhard": (_CENTRE, " The stain of each image was normalised."),
    "cell-crop": (_NUCLEUS, ""),
    "cell-mask": (_NUCLEUS, " Everything but the nucleus and its rim is black."),
}
_SEAL_BYTES = 1000
_SOON = 2.0  # seconds within which most images are drawn


@stage("The report")
def write_report(
    study: Path,
    output: Path | None = None,
    anonymise: bool = False,
    most_bytes: int = MOST_BYTES,
    scores: StudyScores | None = None,
    saliency: bool = False,
    weights: Checkpoints = None,
) -> Report:
    """Write the report of a finished study, by default as report.html in its folder.

    The same folder with the same images gives the same bytes.

    anonymise: replace the ids of patients and the names of files, and leave out the metadata of single
    patients
    most_bytes: size above which thumbnails are left out, those of the best predicted patients first
    scores: what `verify` returned for this study; None to verify it. A page of given scores is never up to
    date for `mil-report`, since the study may have changed after they were verified.
    saliency: show what counts in the images of highest attention, see `maps_of`; weights: checkpoints for it

    Raises DataError where the folder is not a finished study, UsageError where the output cannot be written
    or is an existing file other than a report.
    """
    inputs = (
        _inputs(study, anonymise, most_bytes, saliency) if scores is None else None
    )  # before any of them is read
    contents = read_contents(study, scores)
    path = output or contents.study.report
    _check_output(path, contents.study.folder)
    page, notes = render(contents, anonymise, most_bytes - _SEAL_BYTES, saliency, weights)
    if inputs is not None:
        page = with_seal(page, inputs, notes)
    publish(path, page)
    return Report(path, len(page), notes)


def _inputs(study: Path, anonymise: bool, most_bytes: int, saliency: bool) -> str | None:
    """Return the digest of all that the page depends on; None where that is not known."""
    try:
        return inputs_digest(study, anonymise, most_bytes, saliency)
    except MilError:
        return None


def _check_output(path: Path, study: Path) -> None:
    """Raise UsageError where the page cannot be written; in the study's folder it must be an HTML file."""
    home = study if path.suffix.lower() in (".html", ".htm") else None
    check_outputs({"--output": Output(path, "a report", _is_report, home)})


def _is_report(path: Path) -> bool:
    """Return whether a file is a report; those of older versions are known by their title."""
    with open_input(path) as file:
        head = file.read(_HEAD_BYTES)
    is_old = head.lower().startswith(b"<!doctype html") and b": study report</title>" in head
    return is_old or GENERATOR.strip() in head


def render(
    contents: Contents,
    anonymise: bool,
    most_bytes: int,
    saliency: bool = False,
    weights: Checkpoints = None,
) -> tuple[bytes, tuple[str, ...]]:
    """Return the page, and notes on what it lacks; saliency, weights: see `write_report`."""
    page = lay_out(contents, anonymise)
    cases = page.attention.cases
    pictures, problem = _pictures(contents, [case.stored for case in cases], anonymise)
    views = _view_samples(contents, pictures, page)
    samples = [] if views else samples_of(pictures, cases, page.class_names)
    room = most_bytes - len(to_html(page, samples, cell_note=_window_note(pictures), views=views))
    maps = _maps(contents, cases, weights) if saliency else None
    with ProgressBar(len(cases), "patient", "drawing images", delay=_SOON) as bar:
        left = room - BYTES if pictures.shows_cells else room
        thumbnails = thumbnails_of(pictures, cases, left, maps, bar.update)
    doubtful = doubtful_of(pictures, cases)
    notes = tuple(_notes(contents, page, pictures, problem, thumbnails))
    note, doubts = _window_note(pictures), _doubts(pictures) if views else ""
    marked = thumbnails.marked
    return to_html(page, samples, thumbnails.uris, notes, note, views, doubtful, doubts, marked), notes


def _view_samples(contents: Contents, pictures: Pictures, page: Page) -> list[ViewSamples]:
    """Return the samples as each of several views shows them; of imported features, nobody knows how."""
    features = contents.study.description.all_features
    shown = [identity for identity in features if identity.spec["weight_digest"] is not None]
    views = []
    for identity in shown if len(features) > 1 else []:
        view = pictures_of(identity.spec, pictures.paths, pictures.digests, pictures.scales)
        samples = samples_of(view, page.attention.cases, page.class_names, as_seen=True)
        note = _place_note(view) or "Left: original images. Right: what the network sees."
        views += [ViewSamples(printable(identity.name), samples, note)] if samples else []
    return views


def _window_note(pictures: Pictures) -> str:
    """Return what the network sees of each image, and in how many images the nuclei are in doubt."""
    return " ".join(filter(None, (_place_note(pictures), _doubts(pictures))))


def _doubts(pictures: Pictures) -> str:
    """Return in how many images the nuclei are in doubt; nothing if none are searched for."""
    if not pictures.shows_cells:
        return ""
    return f"Of the images in this report: {sight_summary(Counter(pictures.sights.values()))}"


def _place_note(pictures: Pictures) -> str:
    """Return what the network sees of each image; nothing if it sees whole images."""
    if not pictures.shows_windows:
        return ""
    place, masked = _WINDOWS[pictures.preprocess]
    of = "the original" if pictures.scale is None else f"{pictures.scale:g} micrometres"
    return (
        f"Left: original images. Right: what the network sees, {pictures.crop} pixels of {of}"
        f" {place}.{masked}"
    )


def _pictures(contents: Contents, patient_ids: Sequence[str], anonymise: bool) -> tuple[Pictures, str | None]:
    """Return the images of these patients, and the reason where they cannot be reached."""
    features = contents.study.description.all_features
    if not features:
        return Pictures({}, {}, 0, 0), None
    paths, problem = image_paths(contents.sources, patient_ids)
    views = stored_views(contents.sources, patient_ids) if paths else []
    if problem and anonymise:  # it may name patients and files
        problem = "Run mil-report without --anonymise to see the reason."
    specs = [identity.spec for identity in features]
    cells = [spec for spec in specs if spec.get("preprocess") in CELL_NAMES]  # whose nuclei can be in doubt
    digests = image_digests(views[0]) if views else {}
    return pictures_of([*cells, *specs][0], paths, digests, image_scales(views)), problem


def pictures_of(
    spec: Spec, paths: Mapping[Key, Path], digests: Mapping[Key, str], scales: Mapping[str, float]
) -> Pictures:
    """Return the images as features with this spec show them."""
    crop, size = spec.get("crop", 0), spec.get("image_size", 224)
    colour, preprocess = spec.get("colour"), spec.get("preprocess", "none")
    sampling, scale = sampling_of(spec), scale_of(spec)
    return Pictures(paths, digests, crop, size, colour, preprocess, scale, scales, sampling)


def _maps(contents: Contents, cases: "Sequence[Case]", weights: Checkpoints) -> "dict[Key, SalientImage]":
    from mil_toolkit.report.maps import maps_of  # imports torch

    return maps_of(contents, cases, weights)


def _notes(
    contents: Contents, page: Page, pictures: Pictures, problem: str | None, thumbnails: Thumbnails
) -> Iterator[str]:
    if contents.attention is None:
        return
    if thumbnails.marked:
        yield NOTE
    if problem:
        yield f"The report has no pictures because the images cannot be reached. {problem}"
    if pictures.unreadable:
        yield f"{count_of(len(pictures.unreadable), 'image')} no longer exist or cannot be read."
    if pictures.changed:
        count = count_of(len(pictures.changed), "image")
        yield f"{count} not shown, because their files have changed since they were embedded."
    if thumbnails.left_out and not problem:
        count = count_of(thumbnails.left_out, "patient")
        best = best_words(contents, page.attention.words.order)
        yield f"{count} without pictures, to keep the file small: the {best}."

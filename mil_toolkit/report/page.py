"""`write_report`: the report of a study folder, as one HTML file."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mil_toolkit.backbones.spec import sampling_of
from mil_toolkit.core.files import publish
from mil_toolkit.core.outputs import Output, check_outputs
from mil_toolkit.core.reading import open_input
from mil_toolkit.core.text import count_of
from mil_toolkit.features.sights import sight_summary
from mil_toolkit.features.spec import scale_of
from mil_toolkit.report.contents import (
    Contents,
    image_digests,
    image_paths,
    image_scales,
    read_contents,
)
from mil_toolkit.report.layout import lay_out
from mil_toolkit.report.markup import to_html
from mil_toolkit.report.pictures import Pictures, Thumbnails, samples_of, thumbnails_of

GENERATOR = b'<meta name="generator" content="mil_toolkit">'
_HEAD_BYTES = 4096  # of a page, which hold its title
MOST_BYTES = 24_000_000  # of the file; thumbnails that do not fit are left out


@dataclass(frozen=True)
class Report:
    """The file, its size in bytes, and notes on what it lacks, a sentence each."""

    path: Path
    size: int
    notes: tuple[str, ...]


def write_report(
    study: Path, output: Path | None = None, anonymise: bool = False, most_bytes: int = MOST_BYTES
) -> Report:
    """Write the report of a finished study, by default as report.html in its folder.

    The same folder with the same images gives the same bytes.

    anonymise: replace the ids of patients and the names of files, and leave out the metadata of single
    patients
    most_bytes: size above which thumbnails are left out, those of the most confident correct patients first

    Raises DataError where the folder is not a finished study, UsageError where the output cannot be written
    or is an existing file other than a report.
    """
    contents = read_contents(study)
    path = output or contents.study.report
    _check_output(path, contents.study.folder)
    page, notes = render(contents, anonymise, most_bytes)
    publish(path, page)
    return Report(path, len(page), notes)


def _check_output(path: Path, study: Path) -> None:
    """Raise UsageError where the page cannot be written; in the study's folder it must be an HTML file."""
    home = study if path.suffix.lower() in (".html", ".htm") else None
    check_outputs({"--output": Output(path, "a report", _is_report, home)})


def _is_report(path: Path) -> bool:
    """Return whether a file is a report; those of older versions are known by their title."""
    with open_input(path) as file:
        head = file.read(_HEAD_BYTES)
    is_old = head.lower().startswith(b"<!doctype html") and b": study report</title>" in head
    return is_old or GENERATOR in head


def render(contents: Contents, anonymise: bool, most_bytes: int) -> tuple[bytes, tuple[str, ...]]:
    """Return the page, and notes on what it lacks."""
    page = lay_out(contents, anonymise)
    pictures, problem = _pictures(contents, anonymise)
    cases = page.attention.cases
    samples = samples_of(pictures, cases, page.class_names)
    room = most_bytes - len(to_html(page, samples, cell_note=_cell_note(pictures)))
    thumbnails = thumbnails_of(pictures, cases, room)
    notes = tuple(_notes(contents, pictures, problem, thumbnails))
    return to_html(page, samples, thumbnails.uris, notes, _cell_note(pictures)), notes


def _cell_note(pictures: Pictures) -> str:
    """Return what the network sees of the cells, and in how many images they are in doubt."""
    if not pictures.shows_cells:
        return ""
    masked = " Everything but the nucleus and its rim is black." if pictures.preprocess == "cell-mask" else ""
    of = "the original" if pictures.scale is None else f"{pictures.scale:g} micrometres"
    return (
        f"Left: original images. Right: what the network sees, {pictures.crop} pixels of {of} around"
        f" the nucleus nearest the centre.{masked} Of the images in this"
        f" report: {sight_summary(Counter(pictures.sights.values()))}"
    )


def _pictures(contents: Contents, anonymise: bool) -> tuple[Pictures, str | None]:
    """Return the study's images, and the reason where they cannot be reached."""
    features = contents.study.description.features
    if features is None:
        return Pictures({}, {}, 0, 0), None
    paths, problem = image_paths(contents.sources)
    digests = image_digests(contents.sources, contents.table.patient_ids) if paths else {}
    if problem and anonymise:  # it may name patients and files
        problem = "Run mil-report without --anonymise to see the reason."
    crop, size = features.spec.get("crop", 0), features.spec.get("image_size", 224)
    colour, preprocess = features.spec.get("colour"), features.spec.get("preprocess", "none")
    scale, sampling = scale_of(features.spec), sampling_of(features.spec)
    scales = image_scales(contents.sources, contents.table.patient_ids) if scale is not None else {}
    return Pictures(paths, digests, crop, size, colour, preprocess, scale, scales, sampling), problem


def _notes(
    contents: Contents, pictures: Pictures, problem: str | None, thumbnails: Thumbnails
) -> Iterator[str]:
    if contents.attention is None:
        return
    if problem:
        yield f"The report has no pictures because the images cannot be reached. {problem}"
    if pictures.unreadable:
        yield f"{count_of(len(pictures.unreadable), 'image')} no longer exist or cannot be read."
    if pictures.changed:
        count = count_of(len(pictures.changed), "image")
        yield f"{count} not shown, because their files have changed since they were embedded."
    if thumbnails.left_out and not problem:
        count = count_of(thumbnails.left_out, "patient")
        yield f"{count} without pictures, to keep the file small: the most confident correct ones."

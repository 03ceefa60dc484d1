"""`write_report`: read a study folder, draw, lay out, publish."""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.files import publish, shown
from mil_toolkit.core.outputs import check_outputs
from mil_toolkit.report.contents import Contents, image_digests, image_paths, read_contents
from mil_toolkit.report.drawing import style
from mil_toolkit.report.pictures import Pictures, samples, thumbnails_of
from mil_toolkit.report.sections import tell

DOCTYPE = b"<!doctype html"
MOST_BYTES = 24_000_000  # of the file; thumbnails that find no room are left out


@dataclass(frozen=True)
class Report:
    """The file, its size in bytes, and what had to be left out of it, a sentence each."""

    path: Path
    size: int
    notes: tuple[str, ...]


def write_report(
    study: Path, output: Path | None = None, anonymise: bool = False, most_bytes: int = MOST_BYTES
) -> Report:
    """Write the report of a finished study, by default as report.html in its folder.

    The same folder gives the same bytes, as long as the images it names are the same. anonymise: replace the ids of
    patients and the names of files, and leave out metadata of single patients. most_bytes: beyond which thumbnails
    are left out, those of the patients of least interest first.
    Raises DataError where the folder holds no finished study, UsageError where the file cannot be written, or is there
    and no HTML.
    """
    contents = read_contents(study)
    path = output or study / "report.html"
    _check_output(path)
    page, notes = render(contents, anonymise, most_bytes)
    publish(path, page)
    return Report(path, len(page), notes)


def _check_output(path: Path) -> None:
    check_outputs({"--output": path})
    if path.is_file() and DOCTYPE not in path.read_bytes()[:1000].lower():
        raise UsageError(f"{path} is there, and is no HTML page: name another file with --output.")


def render(contents: Contents, anonymise: bool, most_bytes: int) -> tuple[bytes, tuple[str, ...]]:
    """The page, and notes of what is missing in it."""
    with style():
        told = tell(contents, anonymise)
    pictures, reason = _pictures(contents, anonymise)
    told["samples"] = samples(pictures, told["cases"], told["class_names"])
    environment = _environment()
    pictures.room = most_bytes - len(_page(environment, told, {}, ()))
    thumbnails, without = thumbnails_of(pictures, told["cases"])
    notes = tuple(_notes(contents, pictures, reason, without))
    return _page(environment, told, thumbnails, notes), notes


def _pictures(contents: Contents, anonymise: bool) -> tuple[Pictures, str | None]:
    features = contents.study.described["features"]
    if features is None:
        return Pictures({}, {}, {}), None
    paths, reason = image_paths(contents.sources)
    digests = image_digests(contents.sources, contents.table.patient_ids) if paths else {}
    if reason and anonymise:  # which may name patients and files
        reason = "mil-report without --anonymise says why."
    return Pictures(paths, features["spec"], digests), reason


def _notes(contents: Contents, pictures: Pictures, reason: str | None, without: int) -> Iterator[str]:
    if contents.attention is None:
        return
    if reason:
        yield f"Without pictures, since the images cannot be reached. {reason}"
    if pictures.unreadable:
        yield f"{len(pictures.unreadable)} images are there no more, or cannot be read."
    if pictures.changed:
        yield f"{len(pictures.changed)} images are not shown: their files were changed since they were embedded."
    if without and not reason:
        yield f"{without} patients are without pictures, to keep the file small: those that were right most surely."


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mil_toolkit.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["metadata"] = _metadata_value
    return environment


def _metadata_value(value: Any) -> str:
    if value is None:
        return "missing"
    return f"{value:.4g}" if isinstance(value, float) else shown(str(value))


def _page(
    environment: jinja2.Environment,
    told: Mapping[str, Any],
    thumbnails: Mapping[tuple[str, str], str],
    notes: Sequence[str],
) -> bytes:
    css, script = (_template(name) for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(css)}; script-src {_source(script)};"
        " base-uri 'none'; form-action 'none'"
    )
    template = environment.get_template("report.html")
    inline = {"css": Markup(css), "script": Markup(script), "policy": Markup(policy)}
    return template.render(**told, **inline, thumbnails=thumbnails, notes=notes).strip().encode() + b"\n"


def _template(name: str) -> str:
    return (files("mil_toolkit.report") / "templates" / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """What a content-security policy calls an inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

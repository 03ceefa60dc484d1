"""`to_html`: the page as one HTML file that loads nothing, under a strict content-security policy."""

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files

import jinja2
from markupsafe import Markup

from mil_toolkit.core.text import printable
from mil_toolkit.report.contents import Key
from mil_toolkit.report.layout import Page
from mil_toolkit.report.pictures import Sample, ViewSamples

SECTIONS = ("overview", "scores", "use", "search", "data", "attention", "ablation", "reporting")


def to_html(
    page: Page,
    samples: Sequence[Sample] = (),
    thumbnails: Mapping[Key, str] | None = None,
    notes: Sequence[str] = (),
    cell_note: str = "",
    views: Sequence[ViewSamples] = (),
    doubtful: Sequence[Sample] = (),
    doubts: str = "",
    marked: Mapping[Key, str] | None = None,
) -> bytes:
    """Return the HTML of a page with its pictures.

    thumbnails: data URIs; notes: about pictures that are missing, a sentence each
    cell_note: about the samples, if the features show windows of the images
    views: samples as each of several views shows them
    marked: thumbnails with the places that count, where these were asked for
    doubtful: images in which the search for nuclei left doubts; doubts: how many there are, of several views
    """
    return render_page(
        "report.html",
        page=page,
        sections=[(name, name.capitalize()) for name in SECTIONS],
        samples=samples,
        thumbnails=thumbnails or {},
        notes=notes,
        cell_note=cell_note,
        views=views,
        doubtful=doubtful,
        doubts=doubts,
        marked=marked or {},
    )


def render_page(template: str, **values: object) -> bytes:
    """Return the HTML of a template with these values, the style sheet, the script and the policy."""
    css, script = read_template("report.css"), read_template("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src {source_of(css)}; script-src {source_of(script)};"
        " base-uri 'none'; form-action 'none'"
    )
    html = (
        environment()
        .get_template(template)
        .render(**values, css=Markup(css), script=Markup(script), policy=Markup(policy))
    )
    return html.strip().encode() + b"\n"


@functools.cache  # with the compiled templates
def environment() -> jinja2.Environment:
    """Return the templates, which escape all text."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("mil_toolkit.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["metadata"] = _metadata_text
    return made


def _metadata_text(value: float | str | None) -> str:
    if value is None:
        return "missing"
    return f"{value:.4g}" if isinstance(value, float) else printable(value)


def read_template(name: str) -> str:
    """Return the text of a file beside the templates."""
    return (files("mil_toolkit.report") / "templates" / name).read_text(encoding="utf-8")


def source_of(text: str) -> str:
    """Return the source expression by which a content-security policy allows an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

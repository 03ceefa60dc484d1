"""`write_page`: the page of a validation, as one HTML file that loads nothing."""

from pathlib import Path

from mil_toolkit.core.files import publish
from mil_toolkit.core.outputs import Output
from mil_toolkit.core.reading import open_input
from mil_toolkit.report.markup import render_page
from mil_toolkit.validation.layout import lay_out
from mil_toolkit.validation.validate import Validated

SECTIONS = {
    "overview": "Overview",
    "standing": "As it stands",
    "refitted": "Refitted here",
    "use": "Use",
    "domain": "Domain",
}
_GENERATOR = b'<meta name="generator" content="mil_toolkit: validation">'
_HEAD_BYTES = 4096  # of a page, which hold this mark


def page_output(path: Path) -> Output:
    """Return the page to write, which replaces only a former one."""
    return Output(path, "a page of mil-validate", _is_page)


def _is_page(path: Path) -> bool:
    with open_input(path) as file:
        return _GENERATOR in file.read(_HEAD_BYTES)


def write_page(
    path: Path, validated: Validated, chosen: str, saved: Path | None = None, anonymise: bool = False
) -> int:
    """Write the page, and return its size in bytes; see `lay_out`."""
    page = lay_out(validated, chosen, None if saved is None else str(saved), anonymise)
    content = render_page("validation.html", page=page, sections=SECTIONS.items())
    publish(path, content)
    return len(content)

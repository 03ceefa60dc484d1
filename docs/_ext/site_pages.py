"""An extension of Sphinx: pages made from the code and from files of the repository, and our docstrings.

A block ```` ```{generated} NAME ```` stands for a text of `reference_texts`. Links of pages may lead to files
of the repository outside docs/, as they do on GitHub: on the site, they lead to the page of that file if it
has one (`repository_pages` in conf.py), and otherwise to a copy of the file.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from reference_texts import GENERATED

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
_GENERATED = re.compile(r"^```\{generated\} ([\w-]+)\n```$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?![a-z]+:)([^)#\s]+)(#[^)\s]*)?\)")
_PICTURE = re.compile(r"^!\[([^\]]*)\]\((\S+-light\.png)\)$", re.MULTILINE)
_ENTRY = re.compile(r"(\w+(?:, \w+)*): +(?=\S)")


def with_local_links(text: str, folder: Path, page: Path, pages: Mapping[str, str]) -> str:
    """Return Markdown whose links to files of the repository work on the site.

    folder: that links are relative to; page: of the site that shows the text
    pages: the pages of files outside docs/, by the path of the file in the repository
    """

    def link(match: re.Match[str]) -> str:
        shown, target, anchor = match[1], Path(os.path.normpath(folder / match[2])), match[3] or ""
        name = target.relative_to(ROOT).as_posix()
        if target.is_dir():
            return shown
        if name in pages:
            return f"[{shown}](/{pages[name]}.md{anchor})"
        if target.suffix == ".md" and target.is_relative_to(DOCS):
            return f"[{shown}](/{target.relative_to(DOCS).as_posix()}{anchor})"
        return f"[{shown}](path:{os.path.relpath(target, page.parent)})"

    return _LINK.sub(link, text)


def with_schemes(text: str, folder: Path) -> str:
    """Return Markdown in which pictures that come in light and dark follow the scheme of the reader.

    folder: that the paths of pictures are relative to
    """

    def both(match: re.Match[str]) -> str:
        shown, light = match[1], match[2]
        if not (folder / light.replace("-light.", "-dark.")).is_file():
            return match[0]
        paths = {scheme: light.replace("-light.", f"-{scheme}.") for scheme in ("light", "dark")}
        return "\n".join(
            f"```{{image}} {path}\n:alt: {shown}\n:class: only-{scheme}\n```\n"
            for scheme, path in paths.items()
        )

    return _PICTURE.sub(both, text)


def _read_source(app: "Sphinx", docname: str, source: list[str]) -> None:
    """Replace the text of a page that stands for a file, the blocks of generated texts, and links."""
    repository_pages: dict[str, str] = app.config.repository_pages
    page = DOCS / f"{docname}.md"
    origin = ROOT / repository_pages[docname] if docname in repository_pages else page
    app.env.note_dependency(str(origin))
    pages = {path: name for name, path in repository_pages.items()}
    text = source[0] if origin == page else origin.read_text(encoding="utf-8")
    text = with_local_links(text, origin.parent, page, pages)
    text = with_schemes(text, page.parent)
    source[0] = _GENERATED.sub(lambda match: GENERATED[match[1]](), text)


def with_definitions(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a docstring, with `name: text` at the beginning of lines as lists of definitions.

    A paragraph is such a list if its first line begins with `name: ` or `name, name: `, and all other lines
    do or are indented.
    """
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        paragraph = list(group)
        listed = _ENTRY.match(paragraph[0]) and all(
            _ENTRY.match(line) or line[0] == " " for line in paragraph
        )
        if blank or not listed:
            yield from paragraph
            continue
        for line in paragraph:
            match = _ENTRY.match(line)
            if match:
                yield ", ".join(f"``{name}``" for name in match[1].split(", "))
            yield f"    {line[match.end() :]}" if match else line


def _process_docstring(
    app: "Sphinx", what: str, name: str, documented: object, options: object, lines: list[str]
) -> None:
    lines[:] = with_definitions(list(lines))


def _process_signature(
    app: "Sphinx",
    what: str,
    name: str,
    documented: object,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Show defaults that a factory makes, whose notation is not Python, as dots."""
    return signature and signature.replace("<factory>", "..."), returned


def setup(app: "Sphinx") -> "ExtensionMetadata":
    """Connect the extension."""
    app.add_config_value("repository_pages", {}, "env", dict)
    app.connect("source-read", _read_source)
    app.connect("autodoc-process-docstring", _process_docstring)
    app.connect("autodoc-process-signature", _process_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

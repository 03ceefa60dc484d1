"""Whether a report is up to date, without reading the study or drawing anything.

A page holds a seal: a digest of all that it was drawn from and of the page itself. Nothing heavy is imported.
"""

import contextlib
import html
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mil_toolkit.cohort.declaration import Declaration, read_declaration
from mil_toolkit.cohort.listing import is_image
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import read_table
from mil_toolkit.core.access import exists
from mil_toolkit.core.errors import MilError
from mil_toolkit.core.files import digest, digest_file, digest_json, parse_json
from mil_toolkit.core.places import Place, states_digest
from mil_toolkit.core.reading import MEBIBYTE, read_input
from mil_toolkit.core.records import from_json, read_record
from mil_toolkit.core.run_log import LOG
from mil_toolkit.features.spec import FILE_NAME
from mil_toolkit.study.records import REPORT, SOURCES, Sources

MOST_BYTES = 24_000_000  # of the file; thumbnails that do not fit are left out
GENERATOR = b'<meta name="generator" content="mil_toolkit">\n'
_SEAL = re.compile(
    re.escape(GENERATOR) + rb'(<meta name="mil_toolkit:seal" content="([0-9a-f]{64}) ([^"]*)">\n)'
)
_LIMIT = 1024 * MEBIBYTE  # of a page
_PACKAGES = ("jinja2", "matplotlib", "numpy", "optuna", "pandas", "pillow", "scikit-learn", "scipy")
_CODE = (".py", ".html", ".css", ".js")


@dataclass(frozen=True)
class Report:
    """The file, its size in bytes, and notes on what it lacks, a sentence each.

    drawn: whether it was written now; False for one that was up to date
    """

    path: Path
    size: int
    notes: tuple[str, ...]
    drawn: bool = True


def current_report(
    study: Path, output: Path | None = None, anonymise: bool = False, saliency: bool = False
) -> Report | None:
    """Return the report that `write_report` would write again; None if it may differ or there is none."""
    path = output or study / REPORT
    try:
        page = read_input(path, _LIMIT)
        sealed = _SEAL.search(page)
        if sealed is None:
            return None
        notes = tuple(from_json(parse_json(html.unescape(sealed[3].decode())), list[str], path))
        inputs = inputs_digest(study, anonymise, MOST_BYTES, saliency)
    except (OSError, ValueError, MilError):
        return None
    bare = page[: sealed.start(1)] + page[sealed.end(1) :]
    same = sealed[2].decode() == _seal(inputs, bare, notes)
    return Report(path, len(page), notes, drawn=False) if same else None


def with_seal(page: bytes, inputs: str, notes: Sequence[str]) -> bytes:
    """Return a page with its seal; inputs: see `inputs_digest`, taken before they were read."""
    listed = html.escape(json.dumps(notes))
    meta = f'<meta name="mil_toolkit:seal" content="{_seal(inputs, page, notes)} {listed}">\n'
    return page.replace(GENERATOR, GENERATOR + meta.encode(), 1)


def _seal(inputs: str, page: bytes, notes: Sequence[str]) -> str:
    return digest_json([inputs, digest(page), list(notes)])


def inputs_digest(study: Path, anonymise: bool, most_bytes: int, saliency: bool = False) -> str:
    """Return a digest of all that a report depends on: options, code, the study, and its cohort and features.

    Raises MilError where nobody can tell what it depends on.
    """
    options = [anonymise, most_bytes, *([saliency] if saliency else [])]
    return digest_json([options, _code(), states_digest(_places(Path(os.path.realpath(study))))])


def _code() -> list[str | list[str]]:
    """Return what identifies the programs that draw: the versions of packages, and this one's files."""
    versions = [sys.version, *map(version, _PACKAGES)]
    package = Path(__file__).parents[1]
    files = sorted(path for path in package.rglob("*") if path.suffix in _CODE)
    return [*versions, *([str(path.relative_to(package)), digest_file(path)] for path in files)]


def _places(study: Path) -> Iterator[Place]:
    """Yield where the files of a study, its cohort and its features are."""
    yield Place(study, _is_of_study)
    if not exists(study / SOURCES):  # a study of an older version
        return
    sources = read_record(study / SOURCES, Sources)
    working = Path(sources.working_folder)
    for features in sources.feature_folders:
        yield Place(working / features, _is_of_features)
    cohort = working / sources.cohort
    yield Place(cohort)
    declared = None
    with contextlib.suppress(MilError):  # the report then says why
        declared = read_declaration(cohort, False, Problems())
    if declared is not None:
        yield from _places_of(declared)


def _places_of(declared: Declaration) -> Iterator[Place]:
    """Yield the tables and images of a cohort."""
    cohort = declared.cohort
    for name in (cohort.table, *declared.splits.fold_files, cohort.image_table):
        if name:
            yield Place(declared.path(name))
    for folder in cohort.images:
        yield Place(declared.path(folder), is_image)
    table = read_table(declared.path(cohort.image_table), "", Problems()) if cohort.image_table else None
    paths = (table.column("path") if table else None) or []
    for name in dict.fromkeys([*paths, *(path.replace("\\", "/") for path in paths)]):
        yield Place(declared.path(name), is_image)


def _is_of_study(name: str) -> bool:
    """Return whether a file may be read by a report; locks and logs are not, nor are reports."""
    return not name.startswith(".") and name != LOG and not name.lower().endswith((".html", ".htm"))


def _is_of_features(name: str) -> bool:
    return name == FILE_NAME or name.endswith(".h5")

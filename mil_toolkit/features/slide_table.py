"""`assign_slides`: the table that says which feature files belong to which patient."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import TextTable, read_table
from mil_toolkit.core.cells import is_missing, normal_form
from mil_toolkit.core.text import count_of, each_or_most, printable
from mil_toolkit.features.feature_files import FeatureFile

_COLUMNS = (("case_id", "slide_id"), ("PATIENT", "FILENAME"), ("patient", "path"))
# Of feature files and slides. Nothing else is cut from a name: that of a slide of TCGA contains dots.
_EXTENSION = re.compile(
    r"[.](bif|czi|dcm|h5|hdf5|isyntax|jpe?g|mrxs|ndpi|npy|png|pt|qptiff|scn|svs|svslide|tiff?|vms|vmu)\Z",
    re.IGNORECASE,
)
logger = logging.getLogger(__name__)


class _Row(NamedTuple):
    """A row of the table; place: how messages refer to it."""

    place: str
    patient: str
    slide: str


def assign_slides(files: Mapping[str, FeatureFile], path: Path) -> dict[str, list[FeatureFile]]:
    """Return the files of every patient, in the order of the table; a row that is repeated counts once.

    files: by name, see `find_feature_files`
    path: of the table

    Raises DataError that names every row without a patient or file, with a slide of another patient, or with
    a slide that has no file.
    """
    problems = Problems()
    owners: dict[str, _Row] = {}
    rows = [*_rows(path, problems)]
    named = [(row, name) for row in rows if (name := _file_name(row.slide, files)) is not None]
    problems.extend(_without_file(rows, named, path))
    for row, name in named:
        owner = owners.setdefault(name, row)
        if owner.patient != row.patient:
            problems.add(
                f"slide {row.slide!r} belongs to patient {printable(row.patient)} here, but to"
                f" {printable(owner.patient)} in"
                f" {owner.place}. Keep one of them.",
                row.place,
            )
    problems.raise_if_any()
    _log_rest(path, len(named) - len(owners), len(files) - len(owners))
    patients: dict[str, list[FeatureFile]] = {}
    for name, row in owners.items():
        patients.setdefault(row.patient, []).append(files[name])
    return patients


def _rows(path: Path, problems: Problems) -> Iterator[_Row]:
    """Yield the complete rows of the table; the others are added to `problems`."""
    table = read_table(path, str(path), problems)
    if table is None:
        return
    columns = _columns(table, problems)
    for number, patient, slide in zip(table.numbers, *columns, strict=False):
        row = _Row(table.place(number), normal_form(patient), slide)
        if is_missing(patient) or is_missing(slide):
            problems.add(f"expected a patient and a file, got {patient!r} and {slide!r}.", row.place)
        else:
            yield row


def _columns(table: TextTable, problems: Problems) -> tuple[list[str], list[str]]:
    """Return the columns of patients and files, empty if the table does not have them."""
    for names in _COLUMNS:
        patients, slides = map(table.column, names)
        if patients is not None and slides is not None:
            return patients, slides
    expected = " or ".join(",".join(names) for names in _COLUMNS)
    problems.add(f"{table.name}: expected the columns {expected}, got {printable(','.join(table.header))}.")
    return [], []


def _file_name(slide: str, files: Mapping[str, FeatureFile]) -> str | None:
    """Return the name of a slide's file; the table may add the extension of the file or the slide."""
    return next((name for name in (slide, _EXTENSION.sub("", slide)) if name in files), None)


def _without_file(rows: Sequence[_Row], named: Sequence[tuple[_Row, str]], path: Path) -> list[str]:
    """Return the lines of an error about rows whose slide has no file, one line if they are most rows."""
    present = {row for row, _ in named}
    absent = [row for row in rows if row not in present]
    lines = (
        f"{row.place} (patient {printable(row.patient)}): there is no feature file {row.slide!r}."
        for row in absent
    )
    return each_or_most(
        [repr(row.slide) for row in absent], len(rows), lines, f"rows of {path} name no feature file:"
    )


def _log_rest(path: Path, repeated: int, unused: int) -> None:
    if repeated:
        logger.warning("%s: %s ignored.", path, count_of(repeated, "repeated row"))
    if unused:
        logger.info("%d feature files are in no row of %s and were not imported.", unused, path)

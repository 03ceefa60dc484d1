"""The words of headers and cells by which mil-init recognises columns."""

import re
from collections.abc import Sequence

from mil_toolkit.core.cells import is_missing

LABEL_HEADER = re.compile(r"label|target|class|diagnos|outcome", re.IGNORECASE)
BIRTH_HEADER = re.compile(r"birth|born|dob|naiss|geb", re.IGNORECASE)
GROUP_HEADER = re.compile(
    r"spital|h[oô]pital|krankenhaus|klinik|clini(c(?!al)|que)|site|standort|cent(er|re)|zentrum"
    r"|institut|[eé]tablissement|famil",
    re.IGNORECASE,
)
AGE_HEADER = re.compile(
    r"(?<![^\W_])(age|alter|[aâ]ge|edad|et[aà])(?![^\W_])|enalter(?![^\W_])", re.IGNORECASE
)
COUNT_HEADER = re.compile(
    r"count|anzahl|(?<!k)zahl|number of|nombre d|nb_|_nb|lymph|leu[ck]o|wbc|thrombo|platelet|plt|rbc",
    re.IGNORECASE,
)
ID_HEADER = re.compile(
    r"(?<![^\W_])(ids?|pid|pat|fall)(?![^\W_])|patient|proband|subject|case", re.IGNORECASE
)
SEX_WORDS = frozenset({"f", "m", "female", "male", "w"})
POSITIVE_WORDS = frozenset(
    ["1", "true", "yes", "y", "pos", "positive", "tumoral", "tumor", "tumour", "malignant", "cancer", "case"]
)
NEGATIVE_WORDS = frozenset(
    ["0", "false", "no", "n", "neg", "negative", "reactive", "benign", "normal", "healthy", "control"]
)
UNLABELLED_WORDS = frozenset({"-1", "unlabelled", "unlabeled", "unknown", "test"})


def is_named_label(header: str) -> bool:
    """Return whether a header names a label."""
    return LABEL_HEADER.search(header) is not None


def is_named_birth(header: str) -> bool:
    """Return whether a header names a date of birth."""
    return BIRTH_HEADER.search(header) is not None


def is_named_age(header: str) -> bool:
    """Return whether a header names an age in years."""
    return AGE_HEADER.search(header) is not None


def is_named_count(header: str) -> bool:
    """Return whether a header names a count, which is never negative."""
    return COUNT_HEADER.search(header) is not None


def is_named_id(header: str) -> bool:
    """Return whether a header names the id of a patient."""
    return ID_HEADER.search(header) is not None


def is_named_group(header: str) -> bool:
    """Return whether a header names a place or a family, which may group patients, but not a label."""
    return GROUP_HEADER.search(header) is not None and not is_named_label(header)


def is_sex(cells: Sequence[str]) -> bool:
    """Return whether the cells are at least two words for a sex, and nothing else."""
    words = {cell.lower() for cell in present(cells)}
    return len(words) > 1 and words <= SEX_WORDS


def present(cells: Sequence[str]) -> list[str]:
    """Return the cells that are not missing."""
    return [cell for cell in cells if not is_missing(cell)]

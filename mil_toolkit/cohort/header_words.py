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
OTHER_TIME_HEADER = re.compile(r"(?<![^\W_])(year|jahr|ann[eé]e|date|datum)(?![^\W_])", re.IGNORECASE)
AT_DIAGNOSIS_HEADER = re.compile(
    r"(?<![^\W_])(at|bei|before|vor|since|seit|to|until|bis|au|avant)[\W_]*(der[\W_]*|the[\W_]*|first[\W_]*|erst)?"
    r"diagnos",
    re.IGNORECASE,
)
TIME_HEADER = re.compile(
    r"(?<![^\W_])(os|pfs|efs|dfs|rfs|lfs|ttp|ttr|time|days?|weeks?|months?|years?|zeit|tage?|wochen|monate?"
    r"|jahre|temps|jours|mois|dur[eé]e|duration|dauer|t|futime|lenfol|fu)(?![^\W_])"
    r"|follow|surviv|survie|[uü]e?berleb|nachbeobacht|survtime|(days|months|tage|monate|zeit|time)$",
    re.IGNORECASE,
)
EVENT_HEADER = re.compile(
    r"(?<![^\W_])(fstat|vital|delta|tod|todesfall|exitus|dc[eé]d[eé]?)(?![^\W_])"
    r"|event|ereignis|[eé]v[eé]nement|dead|death|died|deceased|d[eé]c[eè]s|d[eé]c[eé]d|verstorb|gestorb|mort(?!ality)"
    r"|cens|zensiert|relaps|rezidiv|recur|progress",
    re.IGNORECASE,
)
STATUS_HEADER = re.compile(
    r"(?<![^\W_])(e|status|stat|obs)(?![^\W_])|fail|observed",  # of an event, or of smoking or an organ
    re.IGNORECASE,
)
FOLLOW_UP_HEADER = re.compile(
    r"(?<![^\W_])(os|pfs|efs|dfs|rfs|lfs|ttp|ttr|fu)(?![^\W_])"
    r"|follow|futime|lenfol|surviv|survie|[uü]e?berleb|nachbeobacht|survtime",
    re.IGNORECASE,
)
MEASURED_TIME_HEADER = re.compile(r"[^\W_][\W_]*(time|zeit)$", re.IGNORECASE)  # prothrombin_time
CENSORED_HEADER = re.compile(r"cens|zensiert", re.IGNORECASE)
TYPE_HEADER = re.compile(
    r"sub[-_ ]?typ|(?<![^\W_])(typ|types?)(?![^\W_])|entit|lineage|disease|erkrank|krankheit|maladie|befund"
    r"|leuk[aä]?e?mi|lymphom",
    re.IGNORECASE,
)
GRADE_HEADER = re.compile(
    r"(?<![^\W_])(grad|grade|grading|stage|stadium|stade|risk|risiko|risque|score|response|ansprechen|fab|who)"
    r"(?![^\W_])",
    re.IGNORECASE,
)
QUANTITY_HEADER = re.compile(r"blast|(?<![^\W_])(mrd|response|y)(?![^\W_])|ziel", re.IGNORECASE)
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


def is_named_target(header: str) -> bool:
    """Return whether a header names an outcome that may be a number, not an age, a count or a date."""
    others = (AGE_HEADER, BIRTH_HEADER, COUNT_HEADER, OTHER_TIME_HEADER, AT_DIAGNOSIS_HEADER)
    return is_named_label(header) and not any(pattern.search(header) for pattern in others)


def is_named_quantity(header: str) -> bool:
    """Return whether a header names a number that is often predicted, such as a share of blasts."""
    return QUANTITY_HEADER.search(header) is not None and not is_named_age(header)


def is_named_type(header: str) -> bool:
    """Return whether a header names the type of a disease."""
    return TYPE_HEADER.search(header) is not None and not is_named_count(header)


def is_named_grade(header: str) -> bool:
    """Return whether a header names a grade or a stage, which is predicted as often as it is known before."""
    return GRADE_HEADER.search(header) is not None


def is_named_time(header: str) -> bool:
    """Return whether a header names a time from the start of an observation, not an age or a date."""
    others = (AGE_HEADER, BIRTH_HEADER, AT_DIAGNOSIS_HEADER)
    return TIME_HEADER.search(header) is not None and not any(pattern.search(header) for pattern in others)


def is_named_follow_up(header: str) -> bool:
    """Return whether a header clearly names a time of observation or until an event."""
    return is_named_time(header) and bool(FOLLOW_UP_HEADER.search(header) or EVENT_HEADER.search(header))


def may_be_measured_time(header: str) -> bool:
    """Return whether a header names a time that may be a measurement, such as a prothrombin time."""
    return MEASURED_TIME_HEADER.search(header) is not None and not is_named_follow_up(header)


def is_named_event(header: str) -> bool:
    """Return whether a header names whether an event, such as death or relapse, has happened."""
    return EVENT_HEADER.search(header) is not None


def is_named_status(header: str) -> bool:
    """Return whether a header names a status that may be that of an event, or a failure."""
    return STATUS_HEADER.search(header) is not None


def is_one_word(header: str) -> bool:
    """Return whether a header is a single word."""
    return re.fullmatch(r"[^\W_]+", header) is not None


def is_named_censored(header: str) -> bool:
    """Return whether a header may name the opposite of an event."""
    return CENSORED_HEADER.search(header) is not None


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

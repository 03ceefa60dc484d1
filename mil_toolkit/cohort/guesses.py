"""Guesses about a table's columns: identifier, label, groups and kinds of metadata."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from mil_toolkit.cohort.kinds import read_date
from mil_toolkit.cohort.table import NUMBER, Table, is_missing, normal_form
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.text import shown, some

DATE_FORMATS = (
    "%d/%m/%Y",  # of two readings that fit a whole column, the first named here is taken, and flagged
    "%m/%d/%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d.%m.%Y",
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y-%m-%d %H:%M:%S",
)
LABEL_HEADER = re.compile(r"label|target|class|diagnos|outcome", re.IGNORECASE)
BIRTH_HEADER = re.compile(r"birth|born|dob|naiss|geb", re.IGNORECASE)
GROUP_HEADER = re.compile(
    r"spital|h[oô]pital|krankenhaus|klinik|clini(c(?!al)|que)|site|standort|cent(er|re)|zentrum"
    r"|institut|[eé]tablissement|famil",
    re.IGNORECASE,
)
SEX_WORDS = frozenset({"f", "m", "female", "male", "w"})
POSITIVE_WORDS = frozenset(
    ["1", "true", "yes", "y", "pos", "positive", "tumoral", "tumor", "tumour", "malignant", "cancer", "case"]
)
NEGATIVE_WORDS = frozenset(
    ["0", "false", "no", "n", "neg", "negative", "reactive", "benign", "normal", "healthy", "control"]
)
UNLABELLED_WORDS = frozenset({"-1", "unlabelled", "unlabeled", "unknown", "test"})
MANY_WORDS = 20  # a column of more different words is no category
FEW_NUMBERS = 5  # a column of so few different whole numbers may be a code
EXAMPLES = 3  # cells that a doubt shows
SKEWED = 1.0  # skewness of a column whose logarithm is taken, if that is less skewed
CHECK = "# CHECK: "


@dataclass(frozen=True)
class Guess:
    """The lines of one metadata column; of kind None where it is left out."""

    kind: str | None
    lines: tuple[str, ...]


def toml_string(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for the one control character that JSON allows."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def examples(cells: Collection[str]) -> str:
    return "like " + ", ".join(shown(repr(cell)) for cell in sorted(set(cells))[:EXAMPLES])


# The guesses: which column is what.


def _present(cells: Sequence[str]) -> list[str]:
    return [cell for cell in cells if not is_missing(cell)]


def guess_id(table: Table, columns: Mapping[str, Sequence[str]], folders: Collection[str]) -> str:
    shared = {
        name: len({normal_form(cell) for cell in cells} & set(folders)) for name, cells in columns.items()
    }
    best = max(shared, key=lambda name: shared[name], default="")
    if not shared.get(best):
        raise DataError(
            f"no column of {table.name} ({examples(columns)}) names the folders ({examples(folders)})."
            " Each patient needs a folder with the name of its id; else write image_table by hand."
        )
    return best


def guess_label(columns: Mapping[str, Sequence[str]]) -> str | None:
    """The column of two classes that looks most like a label: by its name first, then by its words.

    None where the columns with the name of a label have more classes: another one would be something else.
    """
    candidates = {name: guess_classes(cells)[0] for name, cells in columns.items() if not is_place(name)}
    named = set(filter(_is_named_label, candidates))
    scores = {
        name: 2 * (name in named) + (guess_positive(classes)[0].lower() in POSITIVE_WORDS)
        for name, classes in candidates.items()
        if len(classes) == 2 and not any(map(is_missing, classes)) and (name in named or not is_sex(classes))
    }
    if not named & scores.keys() and any(2 < len(candidates[name]) <= MANY_WORDS for name in named):
        return None
    return max(scores, key=lambda name: scores[name], default=None)


def _is_named_label(name: str) -> bool:
    return LABEL_HEADER.search(name) is not None


def is_place(name: str) -> bool:
    return GROUP_HEADER.search(name) is not None and not _is_named_label(name)


def spellings_of(cells: Sequence[str]) -> dict[str, Counter[str]]:
    """The different words of a column, each with the number of rows of its spellings; all that is missing is one."""
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in map(_plain, cells):
        words["" if is_missing(cell) else normal_form(cell.casefold())][cell] += 1
    return words


def usual_spelling(spellings: Mapping[str, int]) -> str:
    return max(sorted(spellings), key=lambda word: spellings[word])


def guess_classes(cells: Sequence[str]) -> tuple[list[str], str | None]:
    """The different labels, without the one that stands for no label where there are three."""
    words = sorted(map(usual_spelling, spellings_of(cells).values()))
    unlabelled = [word for word in words if is_missing(word) or word.lower() in UNLABELLED_WORDS]
    if len(words) == 3 and unlabelled:
        return [word for word in words if word != unlabelled[0]], unlabelled[0]
    return words, None


def _plain(cell: str) -> str:
    """A label as written, but for a whole number such as 1.0, which is 1."""
    return re.sub(r"\.0+$", "", cell) if NUMBER.fullmatch(cell) else cell


def guess_positive(classes: Sequence[str]) -> tuple[str, str]:
    """Of two sorted classes the positive and the negative one: by known words, else the last one is positive."""
    first, second = classes
    if first.lower() in POSITIVE_WORDS or second.lower() in NEGATIVE_WORDS:
        return first, second
    return second, first


def is_sex(cells: Sequence[str]) -> bool:
    words = {cell.lower() for cell in _present(cells)}
    return len(words) > 1 and words <= SEX_WORDS


def is_number(cell: str, decimal: str) -> bool:
    return NUMBER.fullmatch(cell.replace(decimal, ".")) is not None and (decimal == "." or "." not in cell)


def guess_decimal(columns: Mapping[str, Sequence[str]]) -> str:
    """A comma where more cells are numbers by it than by a point."""
    counts = {
        decimal: sum(is_number(cell, decimal) for cells in columns.values() for cell in cells)
        for decimal in (".", ",")
    }
    return "," if counts[","] > counts["."] else "."


def guess_column(name: str, cells: Sequence[str], decimal: str, written: date, label: str | None) -> Guess:
    present = _present(cells)
    words = {cell.casefold() for cell in present}
    if len(words) < 2:
        return _left_out(name, "it has the same value in every row" if words else "it is empty")
    if _is_named_label(name):
        return _other_label(name, cells, label)
    if is_place(name):
        return _left_out(name, "where a patient was seen says nothing of the disease elsewhere")
    if _is_index(cells):
        return _left_out(name, "it counts the rows")
    if all(is_number(cell, decimal) for cell in present):
        return _guess_number(name, np.array([float(cell.replace(decimal, ".")) for cell in present]))
    formats = _guess_formats(present)
    if formats is not None:
        return _guess_birth_date(name, formats, present, written)
    if len(words) > MANY_WORDS:
        return _unlike(name, present, decimal)
    return Guess("category", tuple(_category_lines(name, present)))


def _left_out(name: str, reason: str) -> Guess:
    return Guess(None, (f"# Left out: {shown(name)}, since {reason}.",))


def _doubtful(name: str, reason: str) -> Guess:
    return Guess(None, (f"{CHECK}{shown(name)} is left out: {reason}.",))


def _other_label(name: str, cells: Sequence[str], label: str | None) -> Guess:
    """A column that may be the label, or tell it: the model never sees it unasked."""
    words = spellings_of(cells).values()
    if label is not None and len(guess_classes(cells)[0]) == 2:
        why = f"{shown(label)} is taken"
    else:
        rows: Counter[str] = sum(words, Counter())
        told = some([f"{shown(repr(word))} {count}" for word, count in rows.most_common()])
        why = f"it has {len(words)} different words where a label has two, and perhaps one for none (rows: {told})"
    return _doubtful(name, f"its name is that of a label, which the model must not see, but {why}")


def _unlike(name: str, cells: Sequence[str], decimal: str) -> Guess:
    """A column of many words; where most of them are numbers or dates, those that are none are what is wrong."""
    numbers = [cell for cell in cells if is_number(cell, decimal)]
    dates = [cell for cell in cells if read_date(cell, DATE_FORMATS)]
    kind, most = max(("numbers", numbers), ("dates", dates), key=lambda each: len(each[1]))
    others = sorted(set(cells) - set(most)) if 2 * len(most) > len(cells) else []
    if not others:
        words = len({cell.casefold() for cell in cells})
        return _doubtful(name, f"{words} different words, neither all numbers nor dates, {examples(cells)}")
    count = len(cells) - len(most)
    return _doubtful(name, f"{len(most)} of {len(cells)} cells are {kind}, {count} not, {examples(others)}")


def _is_index(cells: Sequence[str]) -> bool:
    return list(cells) in [[str(start + row) for row in range(len(cells))] for start in (0, 1)]


def _category_lines(name: str, cells: Sequence[str]) -> Iterator[str]:
    counts = Counter(cell.casefold().upper() for cell in cells)
    rare = [word for word, count in counts.items() if count == 1]
    if rare:
        yield f"{CHECK}{shown(name)} has words of one row alone, {examples(rare)}; a typing error?"


def _guess_number(name: str, values: npt.NDArray[np.float64]) -> Guess:
    if not np.isfinite(values).all():
        return Guess(None, (f"{CHECK}{shown(name)} is left out: some numbers are too large to be read.",))
    lines = ['# unit = "..."']
    if 2 < len(set(values)) <= FEW_NUMBERS and all(values == values.round()):
        lines.append(
            f'{CHECK}{shown(name)} has {len(set(values))} different numbers; a code? Then kind = "category".'
        )
    if values.min() > 0 and _skewness(values) > max(SKEWED, abs(_skewness(np.log(values)))):
        before, after = _skewness(values), _skewness(np.log(values))
        lines.append(f'transform = "log"  # skewness {before:.1f}, of the logarithm {after:.1f}')
    return Guess("number", tuple(lines))


def _skewness(values: npt.NDArray[np.float64]) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / (centred**2).mean() ** 1.5)


# Dates: a column may mix ways of writing, but cells of one shape are read in one way.


def _guess_formats(cells: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    """For each shape of cells the formats that read most of them, or None where a cell is no date."""
    shapes: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        shapes[_shape(cell)].append(cell)
    formats = {shape: _best_formats(members) for shape, members in shapes.items()}
    return formats if all(formats.values()) else None


def _shape(cell: str) -> str:
    """Where the year stands, and between what: 5/15/1942 and 11/3/1933 are of one shape."""
    return re.sub(r"\d{1,2}", "0", re.sub(r"\d{3,}", "Y", cell))


def _best_formats(cells: Sequence[str]) -> tuple[str, ...]:
    """The formats that read the most cells; none where a cell is no date at all."""
    readings = [read_date(cell, DATE_FORMATS) for cell in cells]
    if not all(readings):
        return ()
    counts = Counter(format for reading in readings for format in reading)
    return tuple(format for format in DATE_FORMATS if counts[format] == max(counts.values()))


def _guess_birth_date(
    name: str, formats: Mapping[str, tuple[str, ...]], cells: Sequence[str], written: date
) -> Guess:
    if not BIRTH_HEADER.search(name):
        why = "dates, and its name does not say that they are of birth"
        return _doubtful(name, f"{why}, {examples(cells)}")
    members = Counter(map(_shape, cells))
    chosen = {shape: formats[shape][0] for shape, _ in members.most_common()}
    births = [day for cell in cells for day in read_date(cell, [chosen[_shape(cell)]]).values()]
    why = (
        f"{shown(name)} becomes the age at the reference: the day of the smears, if they share one."
        " Proposed: the day on which the table was last written."
    )
    formats_line = f"formats = [{', '.join(map(toml_string, chosen.values()))}]"
    reference_line = f"reference = {max(written, *births)}"
    checks = _format_checks(name, formats, chosen, cells)
    return Guess("birth-date", (*checks, formats_line, CHECK + why, reference_line))


def _format_checks(
    name: str, formats: Mapping[str, tuple[str, ...]], chosen: Mapping[str, str], cells: Sequence[str]
) -> Iterator[str]:
    if len(chosen) > 1:
        yield f"{CHECK}{shown(name)} is written in {len(chosen)} ways, {', '.join(chosen.values())}."
    for shape, format in chosen.items():
        members = [cell for cell in cells if _shape(cell) == shape]
        strangers = [cell for cell in members if not read_date(cell, [format])]
        if strangers:
            yield f"{CHECK}{shown(name)}: {len(strangers)} do not fit {format}, {examples(strangers)}."
        if len(formats[shape]) > 1:
            both = " and ".join(formats[shape])
            yield f"{CHECK}{shown(name)}: all like {shown(repr(members[0]))} fit {both}; {format} is taken."

# Floor 1: guesses a cohort.toml from a table and its image folders, and flags every doubt.
"""`draft_cohort` writes a commented cohort.toml that a reader checks line by line."""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mil_toolkit.cohort import (
    COHORT_NAME,
    NUMBER,
    Table,
    holds,
    is_missing,
    listing,
    normal_form,
    read_cohort,
    read_date,
    read_table,
    shown,
)
from mil_toolkit.errors import DataError, UsageError
from mil_toolkit.files import publish
from mil_toolkit.wording import count_of, some

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
class Draft:
    """What was written: the doubts to check, and what stops `read_cohort` as long as it stays."""

    output: Path
    patients: int
    doubts: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Guess:
    """The lines of one metadata column; of kind None where it is left out."""

    kind: str | None
    lines: tuple[str, ...]


def draft_cohort(table_path: Path, images: Sequence[Path], output: Path) -> Draft:
    """Write the cohort.toml that a table and its image folders suggest.

    Raises UsageError where `output` exists, DataError where the table or a folder cannot be read or no
    column of the table names the folders.
    """
    if output.exists():
        raise UsageError(f"{output} already exists. Remove it, or name another file with --output.")
    table = read_table(table_path, str(table_path))
    folders = _patient_folders(images)
    if table.problems:
        raise DataError(table.problems)
    if not folders:
        roots = " or ".join(shown(str(root)) for root in images)
        raise DataError(f"there is no folder in {roots}. Each patient needs one with the name of its id.")
    lines = _draft(table, folders, _relative([table_path, *images], output), _written_on(table_path), output)
    _write(output, lines)
    doubts = tuple(line.removeprefix(CHECK) for line in lines if line.startswith(CHECK))
    return Draft(output, len(table.rows), doubts, tuple(_remaining_problems(output)))


def _write(output: Path, lines: Sequence[str]) -> None:
    try:
        publish(output, "".join(f"{line}\n" for line in lines).encode())
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}.") from None


def _remaining_problems(output: Path) -> list[str]:
    try:
        read_cohort(output)
    except DataError as error:
        return error.problems
    return []


def _patient_folders(images: Sequence[Path]) -> set[str]:
    problems: list[str] = []
    entries = [entry for root in images for entry in listing(root, problems)]
    if problems:
        raise DataError(problems)
    return {
        normal_form(entry.name) for entry in entries if holds(entry.is_dir) and not entry.name.startswith(".")
    }


def _relative(paths: Sequence[Path], output: Path) -> list[str]:
    """The paths as seen from the output's folder, as TOML strings."""
    folder = output.parent.resolve()
    relative = [Path(os.path.relpath(_without_links_above(path), folder)).as_posix() for path in paths]
    broken = [
        f"{shown(path)} is not UTF-8 and cannot stand in a cohort.toml; rename it."
        for path in relative
        if not _is_unicode(path)
    ]
    if broken:
        raise DataError(broken)
    return [_string(path) for path in relative]


def _without_links_above(path: Path) -> Path:
    # `..` climbs out of a linked folder to where the link leads, so that the folders above must be real.
    absolute = Path(os.path.abspath(path))
    return absolute.parent.resolve() / absolute.name


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _written_on(path: Path) -> date:
    return date.fromtimestamp(path.stat().st_mtime)


# The text: one function a section.


def _draft(
    table: Table, folders: Collection[str], paths: Sequence[str], written: date, output: Path
) -> list[str]:
    columns = _columns(table)
    patient_id = _guess_id(table, columns, folders)
    label = _guess_label({name: cells for name, cells in columns.items() if name != patient_id})
    rest = {name: cells for name, cells in columns.items() if name not in (patient_id, label)}
    decimal = _guess_decimal(rest)
    guesses = {name: _guess_column(name, cells, decimal, written, label) for name, cells in rest.items()}
    names = _metadata_names(guesses, rest)
    return [
        "# Drafted by mil-init from the table and the image folders: read it once, every `CHECK` above all.",
        "# Paths are relative to this file.",
        "",
        "[cohort]",
        f"name = {_string(_cohort_name(output))}",
        f"table = {paths[0]}",
        f"images = [{', '.join(paths[1:])}]  # each holds one folder per patient",
        *_id_lines(patient_id, columns[patient_id], folders),
        *_label_lines(label, columns),
        *_group_lines(rest),
        *_decimal_lines(decimal, rest),
        *_metadata_lines(guesses, names),
        *_left_out_lines(table, guesses),
        *_split_lines(label, guesses, names),
    ]


def _columns(table: Table) -> dict[str, list[str]]:
    """The cells of every column that has a name of its own."""
    cells = {name: table.column(name) for name in table.header if name}
    return {name: column for name, column in cells.items() if column is not None}


def _cohort_name(output: Path) -> str:
    name = output.resolve().parent.name
    return name if COHORT_NAME.fullmatch(name) else "cohort"


def _string(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for the one control character that JSON allows."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _id_lines(name: str, cells: Sequence[str], folders: Collection[str]) -> Iterator[str]:
    ids = set(map(normal_form, cells))
    strangers, without = set(folders) - ids, ids - set(folders)
    if strangers:
        yield f"{CHECK}{count_of(len(strangers), 'folder')} without a row, {_examples(strangers)}."
    if without:
        yield f"{CHECK}{count_of(len(without), 'row')} without a folder, {_examples(without)}."
    yield f"id = {_string(name)}  # its values are the folders' names"


def _examples(cells: Collection[str]) -> str:
    return "like " + ", ".join(shown(repr(cell)) for cell in sorted(set(cells))[:EXAMPLES])


def _label_lines(label: str | None, columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if label is None:
        yield f"{CHECK}no column looks like a label, so that every patient is to be predicted."
        yield '# label = "LABEL"'
        return
    if not LABEL_HEADER.search(label):
        yield f"{CHECK}{shown(label)} is taken as the label, though its name does not say so."
    classes, unlabelled = _guess_classes(columns[label])
    positive, negative = _guess_positive(classes)
    yield f"label = {_string(label)}"
    for spellings in _words(columns[label]).values():
        yield from _spelling_checks(label, spellings)
    yield f"{CHECK}{shown(label)} {shown(positive)} is taken as positive, {shown(negative)} as negative."
    yield f"positive = {_word(positive)}"
    yield f"negative = {_word(negative)}"
    if unlabelled is not None:
        yield f"{CHECK}{shown(label)} {unlabelled!r} is taken as not labelled: to predict, never to train on."
        yield f"unlabelled = {_word(unlabelled)}"


def _spelling_checks(label: str, spellings: Mapping[str, int]) -> Iterator[str]:
    usual = _usual(spellings)
    for word, rows in spellings.items():
        if word != usual:
            told = f"{shown(repr(word))} (rows: {rows}) is read as another word than {shown(repr(usual))}"
            yield f"{CHECK}{shown(label)} {told} ({spellings[usual]}); write both the same in the table."


def _word(text: str) -> str:
    """A label as TOML writes it: a whole number bare, where that is the same, else a string."""
    return text if re.fullmatch(r"0|-?[1-9][0-9]*", text) else _string(text)


def _group_lines(rest: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name in filter(_is_place, rest):
        yield f"{CHECK}does {shown(name)} group patients that must never straddle a split? Then take off the #."
        yield f"# group = {_string(name)}"


def _decimal_lines(decimal: str, rest: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if decimal == ",":
        commas = [cell for cells in rest.values() for cell in cells if _is_number(cell, ",") and "," in cell]
        yield f"{CHECK}numbers have a decimal comma, {_examples(commas)}; no thousands are set apart."
        yield 'decimal = ","'


def _metadata_lines(guesses: Mapping[str, _Guess], names: Mapping[str, str]) -> Iterator[str]:
    for column, name in names.items():
        yield ""
        yield f"[metadata.{name if re.fullmatch('[A-Za-z0-9_-]+', name) else _string(name)}]"
        yield f"column = {_string(column)}"
        yield f'kind = "{guesses[column].kind}"'
        yield from guesses[column].lines


def _left_out_lines(table: Table, guesses: Mapping[str, _Guess]) -> Iterator[str]:
    yield ""
    yield "# The model sees nothing of the columns that are not named above."
    if "" in table.header:
        yield "# Left out: a column without a name, an index perhaps."
    for name, count in Counter(filter(None, table.header)).items():
        if count > 1:
            yield f"{CHECK}{shown(name)} stands {count} times in the header and is left out; rename all but one."
    for guess in guesses.values():
        if guess.kind is None:
            yield from guess.lines


def _split_lines(label: str | None, guesses: Mapping[str, _Guess], names: Mapping[str, str]) -> Iterator[str]:
    ages = [name for column, name in names.items() if guesses[column].kind == "birth-date"]
    if label is not None:
        yield ""
        yield "[splits]"
        yield f"stratify = [{', '.join(map(_string, ['label', *ages[:1]]))}]  # shared evenly among the inner folds"


def _metadata_names(guesses: Mapping[str, _Guess], rest: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A name for each column that is used: birth dates first, then categories, then numbers."""
    names: dict[str, str] = {}
    for kind in ("birth-date", "category", "number"):
        for column in (column for column, guess in guesses.items() if guess.kind == kind):
            name = _metadata_name(column, kind, rest[column])
            while name in (*names.values(), "label"):
                name += "_"
            names[column] = name
    return names


def _metadata_name(column: str, kind: str, cells: Sequence[str]) -> str:
    if kind == "birth-date":
        return "age"
    if _is_sex(cells):
        return "sex"
    return re.sub(r"\W+", "_", column).strip("_").lower() or "value"


# The guesses: which column is what.


def _present(cells: Sequence[str]) -> list[str]:
    return [cell for cell in cells if not is_missing(cell)]


def _guess_id(table: Table, columns: Mapping[str, Sequence[str]], folders: Collection[str]) -> str:
    shared = {
        name: len({normal_form(cell) for cell in cells} & set(folders)) for name, cells in columns.items()
    }
    best = max(shared, key=lambda name: shared[name], default="")
    if not shared.get(best):
        raise DataError(
            f"no column of {table.name} ({_examples(columns)}) names the folders ({_examples(folders)})."
            " Each patient needs a folder with the name of its id; else write image_table by hand."
        )
    return best


def _guess_label(columns: Mapping[str, Sequence[str]]) -> str | None:
    """The column of two classes that looks most like a label: by its name first, then by its words.

    None where the columns with the name of a label have more classes: another one would be something else.
    """
    candidates = {name: _guess_classes(cells)[0] for name, cells in columns.items() if not _is_place(name)}
    named = set(filter(_is_named_label, candidates))
    scores = {
        name: 2 * (name in named) + (_guess_positive(classes)[0].lower() in POSITIVE_WORDS)
        for name, classes in candidates.items()
        if len(classes) == 2 and not any(map(is_missing, classes)) and (name in named or not _is_sex(classes))
    }
    if not named & scores.keys() and any(2 < len(candidates[name]) <= MANY_WORDS for name in named):
        return None
    return max(scores, key=lambda name: scores[name], default=None)


def _is_named_label(name: str) -> bool:
    return LABEL_HEADER.search(name) is not None


def _is_place(name: str) -> bool:
    return GROUP_HEADER.search(name) is not None and not _is_named_label(name)


def _words(cells: Sequence[str]) -> dict[str, Counter[str]]:
    """The different words of a column, each with the number of rows of its spellings; all that is missing is one."""
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in map(_plain, cells):
        words["" if is_missing(cell) else normal_form(cell.casefold())][cell] += 1
    return words


def _usual(spellings: Mapping[str, int]) -> str:
    return max(sorted(spellings), key=lambda word: spellings[word])


def _guess_classes(cells: Sequence[str]) -> tuple[list[str], str | None]:
    """The different labels, without the one that stands for no label where there are three."""
    words = sorted(map(_usual, _words(cells).values()))
    unlabelled = [word for word in words if is_missing(word) or word.lower() in UNLABELLED_WORDS]
    if len(words) == 3 and unlabelled:
        return [word for word in words if word != unlabelled[0]], unlabelled[0]
    return words, None


def _plain(cell: str) -> str:
    """A label as written, but for a whole number such as 1.0, which is 1."""
    return re.sub(r"\.0+$", "", cell) if NUMBER.fullmatch(cell) else cell


def _guess_positive(classes: Sequence[str]) -> tuple[str, str]:
    """Of two sorted classes the positive and the negative one: by known words, else the last one is positive."""
    first, second = classes
    if first.lower() in POSITIVE_WORDS or second.lower() in NEGATIVE_WORDS:
        return first, second
    return second, first


def _is_sex(cells: Sequence[str]) -> bool:
    words = {cell.lower() for cell in _present(cells)}
    return len(words) > 1 and words <= SEX_WORDS


def _is_number(cell: str, decimal: str) -> bool:
    return NUMBER.fullmatch(cell.replace(decimal, ".")) is not None and (decimal == "." or "." not in cell)


def _guess_decimal(columns: Mapping[str, Sequence[str]]) -> str:
    """A comma where more cells are numbers by it than by a point."""
    counts = {
        decimal: sum(_is_number(cell, decimal) for cells in columns.values() for cell in cells)
        for decimal in (".", ",")
    }
    return "," if counts[","] > counts["."] else "."


def _guess_column(name: str, cells: Sequence[str], decimal: str, written: date, label: str | None) -> _Guess:
    present = _present(cells)
    words = {cell.casefold() for cell in present}
    if len(words) < 2:
        return _left_out(name, "it has the same value in every row" if words else "it is empty")
    if _is_named_label(name):
        return _other_label(name, cells, label)
    if _is_place(name):
        return _left_out(name, "where a patient was seen says nothing of the disease elsewhere")
    if _is_index(cells):
        return _left_out(name, "it counts the rows")
    if all(_is_number(cell, decimal) for cell in present):
        return _guess_number(name, np.array([float(cell.replace(decimal, ".")) for cell in present]))
    formats = _guess_formats(present)
    if formats is not None:
        return _guess_birth_date(name, formats, present, written)
    if len(words) > MANY_WORDS:
        return _unlike(name, present, decimal)
    return _Guess("category", tuple(_category_lines(name, present)))


def _left_out(name: str, reason: str) -> _Guess:
    return _Guess(None, (f"# Left out: {shown(name)}, since {reason}.",))


def _doubtful(name: str, reason: str) -> _Guess:
    return _Guess(None, (f"{CHECK}{shown(name)} is left out: {reason}.",))


def _other_label(name: str, cells: Sequence[str], label: str | None) -> _Guess:
    """A column that may be the label, or tell it: the model never sees it unasked."""
    words = _words(cells).values()
    if label is not None and len(_guess_classes(cells)[0]) == 2:
        why = f"{shown(label)} is taken"
    else:
        rows: Counter[str] = sum(words, Counter())
        told = some([f"{shown(repr(word))} {count}" for word, count in rows.most_common()])
        why = f"it has {len(words)} different words where a label has two, and perhaps one for none (rows: {told})"
    return _doubtful(name, f"its name is that of a label, which the model must not see, but {why}")


def _unlike(name: str, cells: Sequence[str], decimal: str) -> _Guess:
    """A column of many words; where most of them are numbers or dates, those that are none are what is wrong."""
    numbers = [cell for cell in cells if _is_number(cell, decimal)]
    dates = [cell for cell in cells if read_date(cell, DATE_FORMATS)]
    kind, most = max(("numbers", numbers), ("dates", dates), key=lambda each: len(each[1]))
    others = sorted(set(cells) - set(most)) if 2 * len(most) > len(cells) else []
    if not others:
        words = len({cell.casefold() for cell in cells})
        return _doubtful(name, f"{words} different words, neither all numbers nor dates, {_examples(cells)}")
    count = len(cells) - len(most)
    return _doubtful(name, f"{len(most)} of {len(cells)} cells are {kind}, {count} not, {_examples(others)}")


def _is_index(cells: Sequence[str]) -> bool:
    return list(cells) in [[str(start + row) for row in range(len(cells))] for start in (0, 1)]


def _category_lines(name: str, cells: Sequence[str]) -> Iterator[str]:
    counts = Counter(cell.casefold().upper() for cell in cells)
    rare = [word for word, count in counts.items() if count == 1]
    if rare:
        yield f"{CHECK}{shown(name)} has words of one row alone, {_examples(rare)}; a typing error?"


def _guess_number(name: str, values: npt.NDArray[np.float64]) -> _Guess:
    if not np.isfinite(values).all():
        return _Guess(None, (f"{CHECK}{shown(name)} is left out: some numbers are too large to be read.",))
    lines = ['# unit = "..."']
    if 2 < len(set(values)) <= FEW_NUMBERS and all(values == values.round()):
        lines.append(
            f'{CHECK}{shown(name)} has {len(set(values))} different numbers; a code? Then kind = "category".'
        )
    if values.min() > 0 and _skewness(values) > max(SKEWED, abs(_skewness(np.log(values)))):
        before, after = _skewness(values), _skewness(np.log(values))
        lines.append(f'transform = "log"  # skewness {before:.1f}, of the logarithm {after:.1f}')
    return _Guess("number", tuple(lines))


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
) -> _Guess:
    if not BIRTH_HEADER.search(name):
        why = "dates, and its name does not say that they are of birth"
        return _doubtful(name, f"{why}, {_examples(cells)}")
    members = Counter(map(_shape, cells))
    chosen = {shape: formats[shape][0] for shape, _ in members.most_common()}
    births = [day for cell in cells for day in read_date(cell, [chosen[_shape(cell)]]).values()]
    why = (
        f"{shown(name)} becomes the age at the reference: the day of the smears, if they share one."
        " Proposed: the day on which the table was last written."
    )
    formats_line = f"formats = [{', '.join(map(_string, chosen.values()))}]"
    reference_line = f"reference = {max(written, *births)}"
    checks = _format_checks(name, formats, chosen, cells)
    return _Guess("birth-date", (*checks, formats_line, CHECK + why, reference_line))


def _format_checks(
    name: str, formats: Mapping[str, tuple[str, ...]], chosen: Mapping[str, str], cells: Sequence[str]
) -> Iterator[str]:
    if len(chosen) > 1:
        yield f"{CHECK}{shown(name)} is written in {len(chosen)} ways, {', '.join(chosen.values())}."
    for shape, format in chosen.items():
        members = [cell for cell in cells if _shape(cell) == shape]
        strangers = [cell for cell in members if not read_date(cell, [format])]
        if strangers:
            yield f"{CHECK}{shown(name)}: {len(strangers)} do not fit {format}, {_examples(strangers)}."
        if len(formats[shape]) > 1:
            both = " and ".join(formats[shape])
            yield f"{CHECK}{shown(name)}: all like {shown(repr(members[0]))} fit {both}; {format} is taken."

"""Read the folds of one table: a class for each layout in which official folds are published."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mil_toolkit.cohort.problems import Problems
from mil_toolkit.cohort.table import TextTable
from mil_toolkit.core.cells import NUMBER, canonical_word, is_missing, normal_form
from mil_toolkit.core.text import printable

TEST = "test"
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    TEST: TEST,
    "testing": TEST,
}
BOOLEANS = {"true": True, "false": False}


class Part(NamedTuple):
    """Where a patient stands in a fold: `train`, `val` or `test`, and the file and row that say so."""

    name: str
    place: str


@dataclass(frozen=True)
class WrittenFold:
    """A fold as written.

    repeat: the name of its repeat, empty without any; name: of the fold, as messages call it
    parts: of each patient whom the fold names
    whole: whether the fold names its training patients too
    """

    repeat: str
    name: str
    whole: bool
    parts: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class WrittenFolds:
    """All folds as written, in their order; faulty: patients with a row whose problem is reported."""

    folds: list[WrittenFold] = field(default_factory=list)
    faulty: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Report:
    """Reports rows; ignored: patients whose rows do not matter; faulty: patients with a reported row."""

    problems: Problems
    ignored: Collection[str]
    faulty: set[str]

    def row(self, place: str, patient: str, text: str) -> None:
        """Report the problem of a patient's row."""
        if patient not in self.ignored:
            self.problems.add(text, place)
            self.faulty.add(patient)


class Reader:
    """Reads one table; a subclass for each layout.

    ids: the patients of the rows, in Unicode normal form C; empty for lists of patients
    """

    def __init__(self, table: TextTable, ids: Sequence[str], report: Report):
        self.table, self.ids, self.report = table, ids, report

    def read(self) -> list[WrittenFold]:
        """Return the folds."""
        raise NotImplementedError

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Yield the place, the patient and the index of each row that has an id; others are reported."""
        for index, (number, patient) in enumerate(zip(self.table.numbers, self.ids, strict=True)):
            if is_missing(patient):
                self.report.problems.add("no patient.", self.table.place(number))
            else:
                yield self.table.place(number), patient, index

    def cells(self, column: str) -> Sequence[str]:
        """Return the cells of a column that exists."""
        cells = self.table.column(column)
        assert cells is not None
        return cells


class TestedPatients(Reader):
    """One row for each patient and repeat, with the fold in which the patient is tested."""

    def __init__(self, table: TextTable, ids: Sequence[str], report: Report, column: str):
        super().__init__(table, ids, report)
        self.column = column

    def read(self) -> list[WrittenFold]:
        """See `Reader`."""
        folds, repeats = self.cells(self.column), self.table.column("repeat")
        by_name: dict[tuple[str, str], WrittenFold] = {}
        earlier: dict[tuple[str, str], str] = {}  # place of a patient's row, by patient and repeat
        spelled: dict[str, str] = {}
        for place, patient, index in self.rows():
            repeat, fold = "" if repeats is None else repeats[index], folds[index]
            problem = self._problem(repeat, fold, repeats is not None)
            key = canonical_word(repeat), canonical_word(fold)
            if problem is None and (patient, key[0]) in earlier:
                again = " in this repeat" if repeats is not None else ""
                problem = f"patient {printable(patient)} already has a fold{again}, in"
                problem = f"{problem} {_row_of(earlier[patient, key[0]])}."
            if problem is not None:
                self.report.row(place, patient, problem)
                continue
            earlier[patient, key[0]] = place
            name = f"fold {fold}" + (f" of repeat {repeat}" if repeats is not None else "")
            repeat = spelled.setdefault(key[0], printable(repeat))
            written = by_name.setdefault(key, WrittenFold(repeat, printable(name), whole=False))
            written.parts[patient] = Part(TEST, place)
        return [by_name[key] for key in sorted(by_name, key=lambda key: tuple(map(_in_order, key)))]

    def _problem(self, repeat: str, fold: str, repeated: bool) -> str | None:
        if is_missing(fold):
            return f"no {self.column}."
        return "no repeat." if repeated and is_missing(repeat) else None


def _in_order(name: str) -> tuple[float, str]:
    """Return the key by which the names of folds are sorted: numbers by their value, then words."""
    return (float(name), "") if NUMBER.fullmatch(name) else (float("inf"), name)


def _row_of(place: str) -> str:
    return place.rpartition(", ")[2]


class FoldColumns(Reader):
    """One row for each patient, and one column for each fold."""

    def __init__(
        self,
        table: TextTable,
        ids: Sequence[str],
        report: Report,
        columns: Sequence[str],
        slides: bool,
    ):
        super().__init__(table, ids, report)
        self.columns, self.slides = columns, slides

    def read(self) -> list[WrittenFold]:
        """See `Reader`."""
        folds = {name: WrittenFold("", printable(name), whole=True) for name in self.columns}
        columns = {name: self.cells(name) for name in self.columns}
        earlier: dict[str, str] = {}
        for place, patient, index in self.rows():
            words = {name: cells[index] for name, cells in columns.items()}
            found = [*_part_problems(words)] or self._repeated(patient, words, folds, earlier.get(patient))
            for problem in found:
                self.report.row(place, patient, problem)
            if not found and patient not in earlier:
                earlier[patient] = place
                for name, word in words.items():
                    folds[name].parts[patient] = Part(PARTS[word.lower()], place)
        return list(folds.values())

    def _repeated(
        self, patient: str, words: Mapping[str, str], folds: Mapping[str, WrittenFold], earlier: str | None
    ) -> list[str]:
        """Return what is wrong with another row of a patient: several slides must be in the same parts."""
        if earlier is None:
            return []
        if not self.slides:
            return [f"patient {printable(patient)} already appears in {_row_of(earlier)}."]
        before = {name: folds[name].parts[patient].name for name in self.columns}
        return [
            f"patient {printable(patient)} is in {PARTS[word.lower()]} of {printable(name)}, but in"
            f" {before[name]} in {_row_of(earlier)}. The slides of a patient must be in the same part."
            for name, word in words.items()
            if PARTS[word.lower()] != before[name]
        ]


def _part_problems(words: Mapping[str, str]) -> Iterator[str]:
    for column, word in words.items():
        if word.lower() not in PARTS:
            written = "is empty" if is_missing(word) else f"is {word!r}"
            yield f"{printable(column)} must be train, val or test; it {written}."


class _OneFold(Reader):
    """A file that holds one fold, in the columns `lists`."""

    def __init__(self, table: TextTable, ids: Sequence[str], report: Report, lists: Sequence[str]):
        super().__init__(table, ids, report)
        self.lists = lists

    def read(self) -> list[WrittenFold]:
        """See `Reader`."""
        fold = WrittenFold("", self.table.name, whole=True)
        for part, patient, place in self.members():
            earlier = fold.parts.get(patient)
            if earlier is None:
                fold.parts[patient] = Part(part, place)
            else:
                there = f"{earlier.name} in {_row_of(earlier.place)}"
                text = f"patient {printable(patient)} is in {part}, and in {there}."
                self.report.row(place, patient, text)
        return [fold]

    def members(self) -> Iterator[tuple[str, str, str]]:
        """Yield part, patient and place of every entry; report others."""
        raise NotImplementedError


class PatientLists(_OneFold):
    """Columns that list the patients of each part."""

    def members(self) -> Iterator[tuple[str, str, str]]:
        """See `_OneFold`."""
        for part in self.lists:
            for number, cell in zip(self.table.numbers, self.cells(part), strict=True):
                if not is_missing(cell):
                    yield part, normal_form(cell), self.table.place(number)


class PatientMarks(_OneFold):
    """Columns that hold `True` in the part of the row's patient."""

    def members(self) -> Iterator[tuple[str, str, str]]:
        """See `_OneFold`."""
        columns = {part: self.cells(part) for part in self.lists}
        for place, patient, index in self.rows():
            words = {part: cells[index] for part, cells in columns.items()}
            parts = [part for part, word in words.items() if BOOLEANS.get(word.lower())]
            problem = _mark_problem(patient, words, parts)
            if problem is None:
                yield parts[0], patient, place
            else:
                self.report.row(place, patient, problem)


def _mark_problem(patient: str, words: Mapping[str, str], parts: Sequence[str]) -> str | None:
    unknown = [f"{part} {word!r}" for part, word in words.items() if word.lower() not in BOOLEANS]
    if unknown:
        return f"{', '.join(unknown)}: expected True or False."
    named = " and ".join(parts) or "none of them"
    text = f"patient {printable(patient)} must be in one of {', '.join(words)}, not in {named}."
    return None if len(parts) == 1 else text

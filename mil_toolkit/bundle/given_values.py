"""`read_given`: the metadata of one patient, from texts such as those of `mil-predict --set`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

from mil_toolkit.bundle.records import About
from mil_toolkit.cohort.kinds import KINDS, OLDEST, MetadataColumn
from mil_toolkit.cohort.toml import suggestion
from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.numbers import Unreadable, is_limit, is_number, may_group
from mil_toolkit.core.text import printable, some
from mil_toolkit.study.records import ColumnRecord
from mil_toolkit.training.encoder import CategoryEncoder, MetadataEncoder, NumberEncoder

BIRTH_DATE = "birth-date"
_ISO = "%Y-%m-%d"
_ISO_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}", re.ASCII)
_AGE = "an age in years, or a date of birth as YYYY-MM-DD"
Value = float | str | None


@dataclass(frozen=True)
class Given:
    """The metadata of one patient.

    values: of each column of a model, None where missing; missing: the columns without a value
    problems: what is wrong with the texts, a sentence each
    born: the columns whose age was computed from a date of birth
    """

    values: dict[str, Value] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    born: list[str] = field(default_factory=list)


def read_given(about: About, encoder: MetadataEncoder, texts: Mapping[str, str], reference: date) -> Given:
    """Return the values of a model's columns, read as the cells of a table would be.

    texts: by column, see `--set`; reference: the day at which ages are computed from dates of birth

    A number may be followed by the declared unit. An age is a number of years or a date of birth in ISO
    format. A value may be missing where training patients lacked it, too: then the model has learned what
    that means. Words that no training patient had are problems here, since a person can correct them.
    """
    given, texts = Given(), {normal_form(name.strip()): text.strip() for name, text in texts.items()}
    names = [column.name for column in about.columns]
    known = dict(zip(map(normal_form, names), names, strict=True))
    unknown = [name for name in texts if name not in known]
    given.problems.extend(
        f"--set {printable(name)}: the model has no such column.{_suggestion(name, names)}"
        for name in unknown
    )
    encoders = {one.name: one for one in encoder.encoders}
    for column in about.columns:
        reader = _Reader(column, encoders[column.name], (about.ranges or {}).get(column.name), reference)
        reader.read(texts.get(normal_form(column.name)), given)
    return given


def _suggestion(name: str, names: list[str]) -> str:
    return suggestion(name, names) if names else " It takes no metadata at all."


@dataclass(frozen=True)
class _Reader:
    """Reads the text of one column.

    known: the lowest and the highest training value; None where unknown
    """

    column: ColumnRecord
    encoder: NumberEncoder | CategoryEncoder
    known: tuple[float, float] | None
    reference: date

    def read(self, text: str | None, given: Given) -> None:
        """Add the value of a text to `given`, or what is wrong with it; None: the column was not named."""
        name = self.column.name
        if text is None or KINDS[self.column.kind].is_missing(text):
            given.values[name] = None
            given.missing.append(name)
            given.problems.extend(self._gap_problems())
            return
        try:
            given.values[name] = self._parsed(text, given)
        except Unreadable as error:
            given.problems.append(f"--set {printable(name)}: {text!r} {error.reason} {self.expected}")

    def _gap_problems(self) -> Iterator[str]:
        if not self.encoder.had_missing:
            yield (
                f"{printable(self.column.name)} is missing. No training patient lacked it, so that the model"
                f" has not learned to do without. Give it with --set. {self.expected}"
            )

    def _parsed(self, text: str, given: Given) -> Value:
        if isinstance(self.encoder, CategoryEncoder):
            return self._word(text, self.encoder)
        if self.column.kind == BIRTH_DATE:
            return self._age(text, given)
        return self._number(self._without_unit(text))

    def _word(self, text: str, encoder: CategoryEncoder) -> Value:
        word = KINDS["category"].parse(text, self._declared(), ".")
        if word not in encoder.categories:
            raise Unreadable("is a word that no training patient had.")
        return word

    def _number(self, text: str) -> Value:
        try:
            return KINDS["number"].parse(text, self._declared(), ".")
        except Unreadable as error:
            raise Unreadable(self._why_unreadable(text, error.reason)) from None

    def _why_unreadable(self, text: str, reason: str) -> str:
        """Return why a text is not a number of the column; reason: that of a table's cell."""
        if is_number(text, "."):  # one that has no logarithm
            return reason
        if is_limit(text):
            return "is a limit, not a number. Give the value to use in its place."
        if is_number(text, ","):
            if may_group(text):
                return f"{reason} Write a decimal point, or no comma."
            return "has a decimal comma. Write a decimal point."
        first, *rest = text.split()
        if self.column.unit and rest and is_number(first, "."):
            return "is not a number in the unit of the model."
        return reason

    def _age(self, text: str, given: Given) -> Value:
        if not _ISO_DATE.fullmatch(text):
            return self._years(text)
        declared = MetadataColumn(
            self.column.name, self.column.name, BIRTH_DATE, (_ISO,), reference=self.reference
        )
        given.born.append(self.column.name)
        try:
            return KINDS[BIRTH_DATE].parse(text, declared, ".")
        except Unreadable as error:  # without the section of a cohort.toml
            raise Unreadable(error.reason.replace(f" of {declared.section}", "")) from None

    def _years(self, text: str) -> Value:
        try:
            years = KINDS["number"].parse(text, self._declared(), ".")
        except Unreadable:
            raise Unreadable("is neither an age nor a date of birth.") from None
        if not 0 <= float(years) <= OLDEST:
            raise Unreadable(f"is not an age between 0 and {OLDEST} years.")
        return years

    def _without_unit(self, text: str) -> str:
        """Return the text without the declared unit at its end.

        Raises Unreadable where the first characters of the unit may belong to the number: "1210^9/L" is 12 or
        1210.
        """
        unit = self.column.unit
        if not unit or text == unit or not text.endswith(unit):
            return text
        number = text.removesuffix(unit)
        ends = range(len(number) + 1, len(text))
        if number == number.rstrip() and any(is_number(text[:end], ".") for end in ends):
            raise Unreadable("has no space between the number and the unit.")
        return number.rstrip()

    def _declared(self) -> MetadataColumn:
        column = self.column
        return MetadataColumn(column.name, column.name, column.kind, transform=column.transform)

    @property
    def expected(self) -> str:
        """The expected form of a value and the values of the training patients, as a sentence."""
        if isinstance(self.encoder, CategoryEncoder):
            return f"Expected: {some([repr(word) for word in self.encoder.categories])}."
        unit = f" in {printable(self.column.unit)}" if self.column.unit else ""
        kind = _AGE if self.column.kind == BIRTH_DATE else f"a number{unit}"
        above = " above 0" if self.column.transform == "log" else ""
        return f"Expected: {kind}{above}{self._range()}."

    def _range(self) -> str:
        if self.known is None:
            return ""
        low, high = self.known
        return f"; training patients had {low:.4g} to {high:.4g}"

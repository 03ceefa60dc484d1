"""`MetadataEncoder`: clinical values in, standardised columns out, with a JSON form for bundles."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypedDict, TypeVar, cast

import msgspec
import numpy as np
import pandas as pd

Record = TypeVar("Record")


class NumberRecord(TypedDict):
    """JSON form of a `NumberEncoder`."""

    kind: Literal["number"]
    name: str
    log: bool
    median: float
    had_missing: bool


class CategoryRecord(TypedDict):
    """JSON form of a `CategoryEncoder`."""

    kind: Literal["category"]
    name: str
    categories: Sequence[str]
    had_missing: bool


class EncoderRecord(TypedDict):
    """JSON form of a `MetadataEncoder`.

    means, deviations: by encoded column; the deviation is None (null) for columns constant in training
    """

    encoders: list[NumberRecord | CategoryRecord]
    means: dict[str, float]
    deviations: dict[str, float | None]


class _UncheckedRecord(TypedDict):
    """An `EncoderRecord` whose columns have not been checked yet."""

    encoders: list[dict[str, Any]]
    means: dict[str, float]
    deviations: dict[str, Annotated[float, msgspec.Meta(gt=0)] | None]


@dataclass(frozen=True)
class NumberEncoder:
    """Encoder of a number column.

    Missing values become the training median. If any training value was missing, an indicator column is
    added.

    kind: tells the encoders apart in JSON
    log: whether the natural logarithm is taken first
    """

    kind: Literal["number"] = field(default="number", kw_only=True)
    name: str
    log: bool
    median: float
    had_missing: bool

    @property
    def columns(self) -> list[str]:
        """Names of the encoded columns."""
        return [self.name, f"{self.name} missing"] if self.had_missing else [self.name]

    @classmethod
    def fit(cls, values: pd.Series, log: bool) -> "NumberEncoder":
        """Fit on training values (n,), NaN where missing; a column without any value encodes as zeros."""
        present = _numbers(values, log).dropna()
        median = float(present.median()) if len(present) else 0.0
        return cls(str(values.name), log, median, bool(values.isna().any()))

    def encode(self, values: pd.Series) -> dict[str, np.ndarray]:
        """Return the encoded columns (n,) by name."""
        columns = {self.name: _numbers(values, self.log).fillna(self.median).to_numpy()}
        if self.had_missing:
            columns[f"{self.name} missing"] = values.isna().to_numpy(float)
        return columns


@dataclass(frozen=True)
class CategoryEncoder:
    """Encoder of a category column: one indicator per category, or only one if there are two categories.

    If any training value was missing, an indicator of missing or unseen values is added. Otherwise such a
    column would always be zero in training and its weight would remain untrained; an unknown value is then
    encoded as the average training patient.

    kind: tells the encoders apart in JSON
    """

    kind: Literal["category"] = field(default="category", kw_only=True)
    name: str
    categories: Sequence[str]
    had_missing: bool

    @property
    def shown(self) -> Sequence[str]:
        """The categories that have an indicator."""
        return self.categories[1:] if len(self.categories) == 2 else self.categories

    @property
    def columns(self) -> list[str]:
        """Names of the encoded columns."""
        names = [f"{self.name} {category}" for category in self.shown]
        return [*names, f"{self.name} unknown"] if self.had_missing else names

    @classmethod
    def fit(cls, values: pd.Series) -> "CategoryEncoder":
        """Fit on training values (n,), None where missing."""
        return cls(str(values.name), tuple(sorted(set(values.dropna()))), bool(values.isna().any()))

    def encode(self, values: pd.Series) -> dict[str, np.ndarray]:
        """Return the encoded columns (n,) by name.

        Unknown values are NaN, which `MetadataEncoder` replaces by zero after standardisation.
        """
        unknown = ~values.isin(self.categories).to_numpy()
        columns = {
            f"{self.name} {category}": np.where(unknown, np.nan, (values == category).to_numpy(float))
            for category in self.shown
        }
        if self.had_missing:
            columns[f"{self.name} unknown"] = unknown.astype(float)
        return columns


def _numbers(values: pd.Series, log: bool) -> pd.Series:
    numbers = values.astype(float)
    return numbers.map(math.log, na_action="ignore") if log else numbers


@dataclass(frozen=True)
class MetadataEncoder:
    """Encoder of a metadata table: every column as standardised numbers.

    All its values (medians, categories, means, deviations) come from the patients it was fitted on. A column
    that is constant among them encodes as zeros.

    encoders: one per column of the table
    means, deviations: by encoded column; the deviation is infinite for columns constant in training
    """

    encoders: tuple[NumberEncoder | CategoryEncoder, ...]
    means: Mapping[str, float]
    deviations: Mapping[str, float]

    @classmethod
    def fit(cls, metadata: pd.DataFrame, log_columns: Sequence[str] = ()) -> "MetadataEncoder":
        """Fit on the metadata of the training patients: number columns are float, category columns object."""
        encoders = tuple(_fit_column(metadata[name], name in log_columns) for name in metadata.columns)
        raw = _encode_columns(encoders, metadata)
        deviations = raw.std(ddof=0).replace(0.0, np.inf)
        return cls(encoders, _by_name(raw.mean().fillna(0.0)), _by_name(deviations.fillna(np.inf)))

    @property
    def columns(self) -> list[str]:
        """Names of the M encoded columns."""
        return list(self.means)

    def encode(self, metadata: pd.DataFrame) -> pd.DataFrame:
        """Encode a table of n patients as (n, M) float64 without NaN; raises KeyError for missing columns."""
        raw = _encode_columns(self.encoders, metadata)
        return ((raw - pd.Series(self.means)) / pd.Series(self.deviations)).fillna(0.0)

    def to_json(self) -> EncoderRecord:
        """Return the JSON form, in which infinite deviations are None."""
        return {
            "encoders": [_record(encoder) for encoder in self.encoders],
            "means": dict(self.means),
            "deviations": {
                name: None if np.isinf(value) else value for name, value in self.deviations.items()
            },
        }

    @classmethod
    def from_json(cls, value: object) -> "MetadataEncoder":
        """Return the encoder with this JSON form, see `to_json`.

        Raises ValueError that names a field of another type or range.
        """
        record = _convert(value, _UncheckedRecord, "")
        encoders = tuple(_column_encoder(*item) for item in enumerate(record["encoders"]))
        columns = list(dict.fromkeys(name for encoder in encoders for name in encoder.columns))
        for name, values in (("means", record["means"]), ("deviations", record["deviations"])):
            if list(values) != columns:
                raise ValueError(f"{name} must name the encoded columns, in order: {', '.join(columns)}")
        deviations = {name: np.inf if one is None else one for name, one in record["deviations"].items()}
        return cls(encoders, record["means"], deviations)


def _fit_column(values: pd.Series, log: bool) -> NumberEncoder | CategoryEncoder:
    if pd.api.types.is_numeric_dtype(values):
        return NumberEncoder.fit(values, log)
    return CategoryEncoder.fit(values)


def _encode_columns(
    encoders: Sequence[NumberEncoder | CategoryEncoder], metadata: pd.DataFrame
) -> pd.DataFrame:
    columns: dict[str, np.ndarray] = {}
    for encoder in encoders:
        columns |= encoder.encode(metadata[encoder.name])
    return pd.DataFrame(columns, index=metadata.index)


def _by_name(values: pd.Series) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


def _record(encoder: NumberEncoder | CategoryEncoder) -> NumberRecord | CategoryRecord:
    return cast(NumberRecord | CategoryRecord, asdict(encoder))


def _column_encoder(place: int, record: dict[str, Any]) -> NumberEncoder | CategoryEncoder:
    where = f"encoders[{place}]: "
    if record.get("kind") == "number":
        return _convert(record, NumberEncoder, where)
    if record.get("kind") == "category":
        encoder = _convert(record, CategoryEncoder, where)
        if len(set(encoder.categories)) < len(encoder.categories):
            raise ValueError(f"{where}categories must differ")
        return encoder
    kind = record.get("kind")
    raise ValueError(f"{where}Expected a metadata encoder of kind number or category, got {kind!r}.")


def _convert(value: object, kind: type[Record], where: str) -> Record:
    """Return a parsed JSON value as a record; raises ValueError that names the first wrong field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}{error}") from None

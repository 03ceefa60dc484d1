"""`MetadataEncoder`: a table of clinical values in, standardised columns out; saved as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class NumberEncoder:
    """One number: missing values become the training median, with an indicator where training had any."""

    name: str
    log: bool
    median: float
    had_missing: bool

    @classmethod
    def fit(cls, values: pd.Series, log: bool) -> "NumberEncoder":
        """Fit on training values (n,), NaN where missing; a column with no value at all becomes zeros."""
        present = _numbers(values, log).dropna()
        median = float(present.median()) if len(present) else 0.0
        return cls(str(values.name), log, median, bool(values.isna().any()))

    def encode(self, values: pd.Series) -> dict[str, np.ndarray]:
        """Named columns, each (n,)."""
        columns = {self.name: _numbers(values, self.log).fillna(self.median).to_numpy()}
        if self.had_missing:
            columns[f"{self.name} missing"] = values.isna().to_numpy(float)
        return columns


@dataclass(frozen=True)
class CategoryEncoder:
    """One category: a column each (one alone for two categories), and one for missing or unseen values.

    The last exists only where the training patients had missing values: a column that training never
    saw other than zero would carry an untrained weight. Without it an unknown value is the average patient.
    """

    name: str
    categories: Sequence[str]
    had_missing: bool

    @classmethod
    def fit(cls, values: pd.Series) -> "CategoryEncoder":
        """Fit on training values (n,), None where missing."""
        return cls(str(values.name), tuple(sorted(set(values.dropna()))), bool(values.isna().any()))

    def encode(self, values: pd.Series) -> dict[str, np.ndarray]:
        """Named columns, each (n,); NaN where the value is unknown, for the standardisation to centre."""
        unknown = ~values.isin(self.categories).to_numpy()
        shown = self.categories[1:] if len(self.categories) == 2 else self.categories
        columns = {
            f"{self.name} {category}": np.where(unknown, np.nan, (values == category).to_numpy(float))
            for category in shown
        }
        if self.had_missing:
            columns[f"{self.name} unknown"] = unknown.astype(float)
        return columns


def _numbers(values: pd.Series, log: bool) -> pd.Series:
    numbers = values.astype(float)
    return numbers.map(math.log, na_action="ignore") if log else numbers


ENCODERS: dict[str, type[NumberEncoder] | type[CategoryEncoder]] = {
    "number": NumberEncoder,
    "category": CategoryEncoder,
}


@dataclass(frozen=True)
class MetadataEncoder:
    """Columns of clinical values as standardised numbers.

    Everything in it (medians, categories, means, deviations) comes from the patients it was fitted on.
    A column that is constant among them encodes as zeros.
    """

    encoders: tuple[NumberEncoder | CategoryEncoder, ...]
    means: Mapping[str, float]
    deviations: Mapping[str, float]

    @classmethod
    def fit(cls, metadata: pd.DataFrame, log_columns: Sequence[str] = ()) -> "MetadataEncoder":
        """Fit on the metadata of the training patients: number columns are float, categories object."""
        encoders = tuple(_fit_column(metadata[name], name in log_columns) for name in metadata.columns)
        raw = _encode_columns(encoders, metadata)
        deviations = raw.std(ddof=0).replace(0.0, np.inf)
        return cls(encoders, _by_name(raw.mean().fillna(0.0)), _by_name(deviations.fillna(np.inf)))

    @property
    def columns(self) -> list[str]:
        """Names of the M encoded columns."""
        return list(self.means)

    def encode(self, metadata: pd.DataFrame) -> pd.DataFrame:
        """Encode (n, columns of the cohort) -> (n, M), float64 without NaN; raises KeyError for absent columns."""
        raw = _encode_columns(self.encoders, metadata)
        return ((raw - pd.Series(self.means)) / pd.Series(self.deviations)).fillna(0.0)

    def to_json(self) -> dict[str, Any]:
        """As JSON: infinite deviations (constant columns) are written as null."""
        return {
            "encoders": [{"kind": _kind(encoder), **asdict(encoder)} for encoder in self.encoders],
            "means": dict(self.means),
            "deviations": {
                name: None if np.isinf(value) else value for name, value in self.deviations.items()
            },
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "MetadataEncoder":
        """The encoder that `to_json` described."""
        return cls(
            tuple(_encoder_from_json(encoder) for encoder in saved["encoders"]),
            saved["means"],
            {name: np.inf if value is None else value for name, value in saved["deviations"].items()},
        )


def _fit_column(values: pd.Series, log: bool) -> NumberEncoder | CategoryEncoder:
    if pd.api.types.is_numeric_dtype(values):
        return NumberEncoder.fit(values, log)
    return CategoryEncoder.fit(values)


def _encode_columns(
    encoders: Sequence[NumberEncoder | CategoryEncoder], metadata: pd.DataFrame
) -> pd.DataFrame:
    columns = {name: column for each in encoders for name, column in each.encode(metadata[each.name]).items()}
    return pd.DataFrame(columns, index=metadata.index)


def _by_name(values: pd.Series) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


def _kind(encoder: NumberEncoder | CategoryEncoder) -> str:
    return next(kind for kind, cls in ENCODERS.items() if isinstance(encoder, cls))


def _encoder_from_json(saved: Mapping[str, Any]) -> NumberEncoder | CategoryEncoder:
    fields: dict[str, Any] = {name: value for name, value in saved.items() if name != "kind"}
    return ENCODERS[saved["kind"]](**fields)

"""The metadata encoder, which depends only on the training patients."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mil_toolkit.training.encoder import MetadataEncoder


def table(age: list[float], sex: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame({"age": np.array(age, float), "sex": pd.Series(sex, dtype=object)})


finite = st.floats(-1e6, 1e6)
rows = st.lists(
    st.tuples(st.one_of(st.just(math.nan), finite), st.one_of(st.none(), st.sampled_from("FMX"))),
    min_size=1,
    max_size=8,
)


def of_rows(pairs: list[tuple[float, str | None]]) -> pd.DataFrame:
    return table([age for age, _ in pairs], [sex for _, sex in pairs])


def test_training_values_are_standardised() -> None:
    training = table([50, 60, 70, 40], ["F", "M", "X", "M"])
    encoded = MetadataEncoder.fit(training).encode(training)
    assert list(encoded) == ["age", "sex F", "sex M", "sex X"]
    np.testing.assert_allclose(encoded.mean(), 0, atol=1e-12)
    np.testing.assert_allclose(encoded.std(ddof=0), 1)


def test_two_categories_become_one_column() -> None:
    training = table([1, 2, 3], ["F", "M", "F"])
    encoded = MetadataEncoder.fit(training).encode(training)
    assert list(encoded) == ["age", "sex M"]
    np.testing.assert_allclose(encoded["sex M"], [-(0.5**0.5), 2**0.5, -(0.5**0.5)])


def test_a_missing_number_is_the_training_median_with_an_indicator() -> None:
    training = table([50, math.nan, 70, 90], ["F"] * 4)
    encoder = MetadataEncoder.fit(training)
    encoded = encoder.encode(table([math.nan, 70], ["F", "F"]))
    assert encoded["age"][0] == encoded["age"][1]
    assert encoded["age missing"][0] > 0 > encoded["age missing"][1]


def test_a_number_missing_only_after_training_has_no_indicator() -> None:
    encoder = MetadataEncoder.fit(table([50, 60, 90], ["F", "M", "F"]))
    encoded = encoder.encode(table([math.nan, 60], ["F", "F"]))
    assert list(encoded) == ["age", "sex M"]
    assert encoded["age"][0] == encoded["age"][1]


@pytest.mark.parametrize("value", [None, "unseen"])
def test_an_unknown_category_without_indicator_is_the_average_patient(value: str | None) -> None:
    encoder = MetadataEncoder.fit(table([1, 2, 3], ["F", "M", "F"]))
    assert encoder.encode(table([2], [value]))["sex M"].tolist() == [0.0]


@pytest.mark.parametrize("value", [None, "unseen"])
def test_an_unknown_category_with_indicator_sets_it(value: str | None) -> None:
    encoder = MetadataEncoder.fit(table([1, 2, 3, 4], ["F", "M", "F", None]))
    encoded = encoder.encode(table([2, 2], [value, "F"]))
    assert encoded["sex unknown"][0] > 0 > encoded["sex unknown"][1]
    assert encoded["sex M"][0] == 0


def test_log_columns_are_encoded_by_their_logarithm() -> None:
    counts = pd.DataFrame({"count": [1.0, math.e, math.e**2, math.nan]})
    encoder = MetadataEncoder.fit(counts, ["count"])
    assert encoder.means["count"] == pytest.approx(1)
    encoded = encoder.encode(counts)["count"]
    assert encoded[1] == pytest.approx(0) and encoded[2] == pytest.approx(-encoded[0])


def test_a_column_that_is_constant_or_empty_in_training_encodes_as_zeros() -> None:
    encoder = MetadataEncoder.fit(table([math.nan, math.nan], ["F", "F"]))
    encoded = encoder.encode(table([1e9, math.nan], ["M", "F"]))
    assert (encoded == 0).all(axis=None)


@given(rows, rows)
def test_encoded_values_have_the_trained_columns_and_no_nan(
    training: list[tuple[float, str | None]], others: list[tuple[float, str | None]]
) -> None:
    encoder = MetadataEncoder.fit(of_rows(training))
    encoded = encoder.encode(of_rows(others))
    assert list(encoded) == encoder.columns
    assert np.isfinite(encoded.to_numpy()).all()


@given(rows, rows)
def test_the_encoding_of_a_patient_does_not_depend_on_the_other_patients(
    training: list[tuple[float, str | None]], others: list[tuple[float, str | None]]
) -> None:
    encoder = MetadataEncoder.fit(of_rows(training))
    together = encoder.encode(of_rows(training + others))
    alone = encoder.encode(of_rows(training))
    np.testing.assert_array_equal(together.to_numpy()[: len(training)], alone.to_numpy())


@given(rows, rows)
def test_an_encoder_survives_json(
    training: list[tuple[float, str | None]], others: list[tuple[float, str | None]]
) -> None:
    encoder = MetadataEncoder.fit(of_rows(training))
    back = MetadataEncoder.from_json(json.loads(json.dumps(encoder.to_json(), allow_nan=False)))
    assert back.columns == encoder.columns
    pd.testing.assert_frame_equal(back.encode(of_rows(others)), encoder.encode(of_rows(others)))


def test_the_json_form_names_the_kind_of_each_column() -> None:
    encoder = MetadataEncoder.fit(table([1, 1], ["F", None]), ["age"])
    assert json.dumps(encoder.to_json()) == (
        '{"encoders": [{"kind": "number", "name": "age", "log": true, "median": 0.0, "had_missing": false},'
        ' {"kind": "category", "name": "sex", "categories": ["F"], "had_missing": true}],'
        ' "means": {"age": 0.0, "sex F": 1.0, "sex unknown": 0.5},'
        ' "deviations": {"age": null, "sex F": null, "sex unknown": 0.5}}'
    )


def test_an_unknown_kind_of_column_is_an_error() -> None:
    record = json.loads(json.dumps(MetadataEncoder.fit(table([1, 2], ["F", "M"])).to_json()))
    record["encoders"][0]["kind"] = "date"
    with pytest.raises(ValueError, match="of kind number or category, got 'date'"):
        MetadataEncoder.from_json(record)


def test_a_table_without_columns_encodes_as_no_columns() -> None:
    empty = pd.DataFrame(index=["a", "b"])
    assert MetadataEncoder.fit(empty).encode(empty).shape == (2, 0)


def test_a_missing_column_is_an_error() -> None:
    encoder = MetadataEncoder.fit(table([1, 2], ["F", "M"]))
    with pytest.raises(KeyError, match="sex"):
        encoder.encode(pd.DataFrame({"age": [1.0]}))

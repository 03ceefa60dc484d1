"""The metadata of new patients against those of training: other kinds, misspelt words, unseen words."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mil_toolkit.training.encoder import MetadataEncoder
from mil_toolkit.training.new_columns import column_problems, unseen_lines

TRAINED = pd.DataFrame({"age": [50.0, 60.0, np.nan], "sex": ["F", "M", None], "grade": ["1", "2", "3"]})
ENCODER = MetadataEncoder.fit(TRAINED)


def changed(**columns: Any) -> pd.DataFrame:
    return TRAINED.assign(**{name: pd.Series(values) for name, values in columns.items()})


def test_the_training_patients_themselves_are_fine() -> None:
    assert column_problems(ENCODER, TRAINED) == [] == unseen_lines(ENCODER, TRAINED)


@pytest.mark.parametrize("missing", [[None] * 3, [np.nan] * 3])
def test_columns_of_missing_values_are_fine(missing: list[Any]) -> None:
    table = changed(age=missing, sex=missing, grade=missing)
    assert column_problems(ENCODER, table) == [] == unseen_lines(ENCODER, table)


@pytest.mark.parametrize("word", ["f", "F ", " F", "f\u00a0", "\uff26"])
def test_words_that_differ_in_spelling_only_are_named_with_the_known_word(word: str) -> None:
    (problem,) = column_problems(ENCODER, changed(sex=[word, word, "M"]))
    assert problem == f"Column 'sex' holds {word!r} in 2 rows; fit saw 'F'. Use one spelling."


def test_numbers_written_otherwise_are_misspelt_words() -> None:
    (problem,) = column_problems(ENCODER, changed(grade=["1.0", "2", "3"]))
    assert problem == "Column 'grade' holds '1.0' in 1 row; fit saw '1'. Use one spelling."


@pytest.mark.parametrize("values", [[0.0, 1.0, np.nan], [1, 2, 3], [True, False, True]])
def test_numbers_where_training_had_words_are_refused(values: list[Any]) -> None:
    (problem,) = column_problems(ENCODER, changed(sex=values))
    assert problem.startswith("Column 'sex' holds numbers such as ") and problem.endswith(": 'F', 'M'.")


def test_words_where_training_had_numbers_are_refused() -> None:
    (problem,) = column_problems(ENCODER, changed(age=["50", None, "old"]))
    assert problem == "Column 'age' holds words such as '50'; fit saw numbers."


def test_unseen_words_are_listed_with_their_counts() -> None:
    table = changed(sex=["X", "female", "X"])
    assert column_problems(ENCODER, table) == []
    (line,) = unseen_lines(ENCODER, table)
    assert line == (
        "sex: 3 of 3 patients have a word that training never saw and that counts as missing: 'X' (2),"
        " 'female' (1). Training saw 'F', 'M'."
    )

"""Check the metadata of new patients against the encoder that was fitted on the training patients."""

import unicodedata

import pandas as pd

from mil_toolkit.core.text import count_of, some
from mil_toolkit.training.encoder import CategoryEncoder, MetadataEncoder


def column_problems(encoder: MetadataEncoder, metadata: pd.DataFrame) -> list[str]:
    """Return a message for each column of another kind than in training, and for each misspelt word."""
    problems = []
    for column in encoder.encoders:
        values = metadata[column.name].dropna()
        if isinstance(column, CategoryEncoder):
            problems += _category_problems(values, column)
        elif len(values) and not pd.api.types.is_numeric_dtype(values):
            problems.append(
                f"Column {column.name!r} holds words such as {values.iloc[0]!r}; fit saw numbers."
            )
    return problems


def _category_problems(values: pd.Series, encoder: CategoryEncoder) -> list[str]:
    if len(values) and pd.api.types.is_numeric_dtype(values):
        example = f"{values.iloc[0]:g}"
        return [f"Column {encoder.name!r} holds numbers such as {example}; fit saw words: {_known(encoder)}."]
    spellings = {_key(word): word for word in encoder.categories}
    misspelt = {
        word: spellings[_key(word)] for word in unseen_words(values, encoder) if _key(word) in spellings
    }
    return [
        f"Column {encoder.name!r} holds {word!r} in {count_of(int((values == word).sum()), 'row')}; fit saw"
        f" {spelling!r}. Use one spelling."
        for word, spelling in misspelt.items()
    ]


def _key(word: str) -> str:
    """Return what two spellings of a word have in common: not case, spaces, or the form of a number."""
    key = " ".join(unicodedata.normalize("NFKC", word).casefold().split())
    try:
        return str(float(key))
    except ValueError:
        return key


def unseen_words(values: pd.Series, encoder: CategoryEncoder) -> dict[str, int]:
    """Return the words of a column that training never saw, with their counts."""
    unseen = values[~values.isin(encoder.categories) & values.notna()]
    return {str(word): int(count) for word, count in unseen.value_counts().items()}


def unseen_lines(encoder: MetadataEncoder, metadata: pd.DataFrame) -> list[str]:
    """Return a line for each category column with words that training never saw."""
    lines = []
    for column in encoder.encoders:
        if isinstance(column, CategoryEncoder) and (counts := unseen_words(metadata[column.name], column)):
            verb = "has" if len(metadata) == 1 else "have"
            unseen = some([f"{word!r} ({count})" for word, count in counts.items()])
            lines.append(
                f"{column.name}: {sum(counts.values())} of {count_of(len(metadata), 'patient')} {verb} a word"
                f" that training never saw and that counts as missing: {unseen}."
                f" Training saw {_known(column)}."
            )
    return lines


def _known(encoder: CategoryEncoder) -> str:
    return some([repr(word) for word in encoder.categories])

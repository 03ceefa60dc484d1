"""Spreads, words and images of training patients, and the distances of other patients from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mil_toolkit.bundle.domain.images import (
    BagMoments,
    Locator,
    fit_space,
    image_distances,
    standardised,
    whole_distances,
)
from mil_toolkit.bundle.domain.records import ImageSpace, Spread
from mil_toolkit.training.encoder import CategoryEncoder, MetadataEncoder, NumberEncoder
from mil_toolkit.training.patients import Patients


class ImageMeasures(NamedTuple):
    """Distances of B patients' images: `whole_distances` (B,), and `image_distances`, B arrays."""

    whole: np.ndarray
    single: list[np.ndarray]

    def shares(self, foreign: float) -> np.ndarray:
        """Return the share of images beyond a distance, (B,)."""
        return np.array([(distances > foreign).mean() for distances in self.single])


def number_values(encoder: MetadataEncoder, metadata: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the values of each number column, (n,), NaN where missing."""
    names = [column.name for column in encoder.encoders if isinstance(column, NumberEncoder)]
    return {name: metadata[name].to_numpy(float) for name in names}


def new_words(encoder: MetadataEncoder, metadata: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return which patients have a word that no training patient had, (n,) bool by category column."""
    categories = [column for column in encoder.encoders if isinstance(column, CategoryEncoder)]
    return {column.name: _unseen(metadata[column.name], column.categories) for column in categories}


def _unseen(values: pd.Series, known: Sequence[str]) -> np.ndarray:
    return np.asarray((values.notna() & ~values.isin(known)).to_numpy(bool))


def new_gaps(encoder: MetadataEncoder, metadata: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return which patients lack a value that no training patient lacked, (n,) bool by column."""
    complete = [column.name for column in encoder.encoders if not column.had_missing]
    return {name: metadata[name].isna().to_numpy(bool) for name in complete}


def bag_sizes(patients: Patients) -> np.ndarray:
    """Return the numbers of images, (B,)."""
    assert patients.bags is not None
    return patients.bags.sizes.numpy().astype(float)


@dataclass(frozen=True)
class Reference:
    """Some training patients, with whom others are compared.

    bag_size, space: None without images
    """

    encoder: MetadataEncoder
    numbers: Mapping[str, Spread]
    bag_size: Spread | None
    space: ImageSpace | None

    @classmethod
    def of(cls, patients: Patients, train: np.ndarray, locator: Locator | None, sizes: bool) -> "Reference":
        """Return the reference of the patients at `train` (n,).

        locator: fitted on these patients; None if their embeddings are not compared; sizes: whether their
        bag sizes are
        """
        metadata = patients.metadata.iloc[train]
        encoder = MetadataEncoder.fit(metadata, patients.log_columns)
        space, away = None, None
        if locator is not None:
            moments = BagMoments.of(locator.locate(patients, train.tolist()))
            space = fit_space(moments)
            away = standardised(space, moments.means, moments.sizes)
        numbers = {name: Spread.of(values, away) for name, values in number_values(encoder, metadata).items()}
        return cls(encoder, numbers, Spread.of(bag_sizes(patients)[train]) if sizes else None, space)


def measure_images(
    space: ImageSpace, locator: Locator, patients: Patients, places: np.ndarray
) -> tuple[ImageMeasures, np.ndarray]:
    """Return the distances of the images of the patients at `places` (n,), and where these are on average.

    The latter are `standardised` mean embeddings (n, C), from which numbers are expected.
    """
    means, single = [], []
    for located in locator.locate(patients, places.tolist()):
        means.append(located.columns.mean(0))
        single.append(image_distances(space, located))
    sizes = np.array([len(distances) for distances in single], dtype=float)
    table = np.array(means).reshape(len(single), len(space.means))
    away = standardised(space, table, sizes)
    return ImageMeasures(whole_distances(away), single), away

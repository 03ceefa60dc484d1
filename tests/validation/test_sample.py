"""`read_sample`: the predictions of a model that depends on the other patients of a group."""

from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.sites import PATIENTS, sites_cache, sites_cohort

from mil_toolkit.bundle.bundle import ModelBundle
from mil_toolkit.bundle.predict import predict
from mil_toolkit.cohort.cohort import Cohort
from mil_toolkit.core.errors import DataError
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.outcomes.binary import Binary
from mil_toolkit.outcomes.outcome import UNLABELLED
from mil_toolkit.validation.sample import read_sample, seen_patients, with_images

TRAINED, HIDDEN = 4, 3  # of site S4: patients who are also in training, and unlabelled ones


@pytest.fixture(name="cohort")
def _cohort() -> Cohort:
    """Two new sites; the first one has positive patients who are in training, and unlabelled ones."""
    whole = sites_cohort([6, 6, 6, 6, 6, 6])
    cohort = whole.select([*whole.patient_ids[:TRAINED], *whole.patient_ids[4 * PATIENTS :]])
    labels = cohort.labels.copy()
    labels[TRAINED : TRAINED + HIDDEN] = UNLABELLED
    assert cohort.groups is not None
    groups = np.where(cohort.groups == "S0", "S4", cohort.groups)
    return replace(cohort, labels=labels, groups=groups, outcome=Binary("LABEL"))


@pytest.fixture(name="cache")
def _cache(cohort: Cohort, tmp_path: Path) -> FeatureCache:
    return sites_cache(tmp_path / "cache", cohort, shift=1.0, seed=2)  # other images than in training


def test_all_patients_of_a_group_are_seen_as_by_mil_predict(
    sites_model: Path, cohort: Cohort, cache: FeatureCache
) -> None:
    bundle = ModelBundle.load(sites_model)
    sample = read_sample(bundle, cohort, cache)
    assert (sample.flow.scored, sample.flow.in_training) == (2 * PATIENTS - HIDDEN, TRAINED)
    assert sample.flow.without_outcome == HIDDEN and sample.in_training == cohort.patient_ids[:TRAINED]
    expected = predict(bundle, cohort, cache).table.set_index("patient_id").loc[sample.patients.ids]
    assert np.array_equal(sample.table.probabilities[0], expected["probability"])
    assert sample.domain["patient_id"].tolist() == sample.patients.ids
    assert sample.domain["in_domain"].tolist() == expected["in_domain"].tolist()
    assert sample.domain["reasons"].tolist() == expected["reasons"].tolist()


def test_images_of_unlabelled_patients_are_needed_only_within_groups(
    sites_model: Path, cohort: Cohort
) -> None:
    by_group = ModelBundle.load(sites_model)
    model = copy(by_group.head.model)
    model.config = replace(model.config, standardise=True)
    plain = replace(by_group, head=replace(by_group.head, model=model))
    assert seen_patients(by_group, cohort).patient_ids == cohort.patient_ids
    assert seen_patients(plain, cohort).patient_ids == cohort.labelled().patient_ids
    images: dict[str, tuple[Path, ...]] = {name: (Path("image.png"),) for name in cohort.patient_ids[1:]}
    assert with_images(replace(cohort, images=images)).patient_ids == cohort.patient_ids[1:]
    unlabelled = {patient: images[patient] for patient in cohort.unlabelled().patient_ids}
    with pytest.raises(DataError, match="none of the 25 patients with a known outcome has images"):
        with_images(replace(cohort, images=unlabelled))

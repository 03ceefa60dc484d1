"""Streamed embeddings give the results of embeddings in memory, from the moments to the predictions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.stored_bags import RECORDED, SPEC

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.features.bags import StreamedBags
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.shards import EmbeddedBag, StoredImage
from mil_toolkit.training import projected, projection
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.mapped import MappedTensor
from mil_toolkit.training.patients import Patients
from mil_toolkit.training.procedure import cross_fit_members, refit, run_trial
from mil_toolkit.training.projection import fold_moments

COUNT, WIDTH = 12, 9
TRAINS = [np.arange(8), np.arange(4, 12)]
CONFIG = HeadConfig(hidden=8, metadata_hidden=6, batch_size=4, epochs=2)
CONFIGS = [
    {"components": 4},
    {"components": 4, "standardise": False},
    {"components": 0},
    {"components": 0, "standardise": False},
]


def embedded(patient: int) -> EmbeddedBag:
    """Return a bag of 1 to 7 embeddings that depend on the patient's label."""
    random = np.random.default_rng(patient)
    embeddings = random.normal(patient % 2, 1.5, (1 + patient * 5 % 7, WIDTH)).astype(np.float16)
    images = tuple(StoredImage(f"{row}.png", random.bytes(32), row, row) for row in range(len(embeddings)))
    return EmbeddedBag(f"P{patient}", images, embeddings)


@pytest.fixture(scope="module", name="both")
def _both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Patients, Patients]:
    """The same patients with embeddings in memory and streamed."""
    cache = FeatureCache.create(tmp_path_factory.mktemp("streamed"), "cohort", {**SPEC, "width": WIDTH})
    for first in range(0, COUNT, 5):
        cache.publish([embedded(patient) for patient in range(first, min(first + 5, COUNT))], RECORDED)
    cache.refresh()
    ids = [f"P{patient}" for patient in range(COUNT)]
    ages = pd.DataFrame({"age": np.random.default_rng(0).normal(60, 10, COUNT)}, index=ids)
    labels = np.arange(COUNT) % 2
    streamed = StreamedBags(cache.winners(ids), WIDTH)
    return Patients(cache.bags(ids), labels, ages), Patients(streamed, labels, ages)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a few rows at a time, so that parts begin within bags."""
    monkeypatch.setattr(projection, "_CHUNK", 7)
    monkeypatch.setattr(projected, "PART", 7)


def test_streamed_moments_are_those_of_embeddings_in_memory(both: tuple[Patients, Patients]) -> None:
    packed, streamed = ([*fold_moments(patients.bags, TRAINS)] for patients in both if patients.bags)
    for one, other in zip(packed, streamed, strict=True):
        assert one.bags == other.bags == 8
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-6)
        np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-5, atol=1e-6)


def test_rows_are_those_of_the_bags_a_few_at_a_time(both: tuple[Patients, Patients]) -> None:
    for chosen in (torch.tensor([3, 0, 11, 7, 8]), torch.arange(COUNT), torch.tensor([5]), torch.arange(0)):
        for bags in (patients.bags for patients in both):
            assert bags is not None
            parts = [*projection.bag_rows(bags, chosen)]
            places, rows = (
                (torch.cat([chosen[:0], *column]) for column in zip(*parts, strict=True))
                if parts
                else 2 * [chosen]
            )
            assert all(len(part) <= 7 for _, part in parts) and torch.equal(rows, bags.rows(chosen))
            assert torch.equal(places, torch.repeat_interleave(torch.arange(len(chosen)), bags.sizes[chosen]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", CONFIGS)
def test_members_see_the_same_instances(
    both: tuple[Patients, Patients], settings: dict[str, int | bool], dtype: torch.dtype
) -> None:
    config = HeadConfig(**settings)  # type: ignore[arg-type]
    packed, streamed = (Inputs(patients, TRAINS, dtype=dtype) for patients in both)
    for folds in ([0, 1], [1], [0, 0, 1, 1], [1, 0, 1]):
        (batch,) = packed.batches(torch.tensor([7, 2, 11]), 3)
        one, other = (inputs.instances(config, batch, folds) for inputs in (packed, streamed))
        assert one is not None and other is not None
        assert one.x.dtype == other.x.dtype and one.x.shape == other.x.shape
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(one.standardised(), other.standardised(), rtol=tolerance, atol=tolerance)
    assert packed.embedding_width(config) == streamed.embedding_width(config)


def test_projected_embeddings_are_written_once_for_each_number_of_components(
    both: tuple[Patients, Patients], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def count(rows: int, columns: int, dtype: torch.dtype) -> MappedTensor:
        written.append(columns)
        return MappedTensor(rows, columns, dtype)

    monkeypatch.setattr(projected, "MappedTensor", count)
    inputs = Inputs(both[1], TRAINS)
    (batch,) = inputs.batches(torch.tensor([0]), 1)
    for components in (4, 4, 2, 2, 4):
        inputs.instances(HeadConfig(components=components), batch, [0, 1])
    assert written == [4, 2, 4]


@pytest.mark.parametrize("settings", CONFIGS[:3])
def test_streamed_patients_train_the_same_heads(
    both: tuple[Patients, Patients], settings: dict[str, int | bool], tmp_path: Path
) -> None:
    config = HeadConfig(**{**vars(CONFIG), **settings})
    logits, values = [], []
    for patients in both:
        inputs = Inputs(patients, TRAINS)
        trial = run_trial(inputs, config, "balanced_log_loss", (0,))
        curves = cross_fit_members(inputs, config, 2, 2, (1,))
        applied = refit(patients.take(TRAINS[0]), config, 2, 2, (2,)).apply(patients.take(np.arange(8, 12)))
        assert curves.attention is not None and applied.attention is not None
        values.append([trial.value])
        logits.append([curves.logits, curves.attention, applied.logits, applied.attention])
    np.testing.assert_allclose(*values, rtol=1e-3)
    for one, other in zip(*logits, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)

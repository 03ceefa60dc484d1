"""Embeddings in memory are those of a cache, to the bit, in all orientations."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from support.studies import Tiny

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.errors import DataError
from mil_toolkit.core.progress import LineTimes
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import extract
from mil_toolkit.features.in_memory import embed_in_memory

EditCohort = Callable[[Callable[[pd.DataFrame], object]], Path]


@pytest.mark.parametrize("augment", [0, 2])
def test_embeddings_in_memory_are_those_of_a_cache(augment: int, tiny: Tiny, tmp_path: Path) -> None:
    cohort = tiny.cohort.select(tiny.cohort.patient_ids[:2])
    config = ExtractionConfig("resnet18", "random", image_size=32, augment=augment)
    backbone = build_backbone("resnet18", "random", 32)
    found = embed_in_memory(cohort, config, backbone, None, "cpu")
    assert not any(tmp_path.iterdir())
    cache = FeatureCache.open(extract(cohort, config, tmp_path, device="cpu", backbone=backbone).folder)
    stored = cache.bags(cohort.patient_ids)
    assert torch.equal(found.bags.instances, stored.instances)
    assert found.bags.image_names == stored.image_names and found.bags.patient_ids == stored.patient_ids
    assert [found.recorded] == cache.recorded(cohort.patient_ids)
    winners = cache.winners(cohort.patient_ids)
    digests = [frozenset(image.digest for image in bag.read_images()) for bag in winners]
    assert list(found.digests) == digests
    if augment:
        rows = torch.tensor([2, 0])
        assert found.bags.orientations is not None and stored.orientations is not None
        assert found.bags.orientations.count == stored.orientations.count == 1 + augment
        assert torch.equal(found.bags.orientations.read(rows), stored.orientations.read(rows))
        first = found.bags.select([cohort.patient_ids[1]])
        assert first.orientations is not None
        size = int(found.bags.sizes[0])
        expected = stored.orientations.read(torch.tensor([size]))
        assert torch.equal(first.orientations.read(torch.tensor([0])), expected)


def test_embedding_in_memory_logs_its_progress(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(LineTimes, "is_due", lambda _: True)
    cohort = tiny.cohort.select(tiny.cohort.patient_ids[:1])
    config = ExtractionConfig("resnet18", "random", image_size=32)
    with caplog.at_level("INFO", "mil_toolkit"):
        embed_in_memory(cohort, config, build_backbone("resnet18", "random", 32), None, "cpu", batch_size=1)
    total = sum(map(len, cohort.images.values()))
    lines = [message for message in caplog.messages if message.startswith("embedding: 1 of ")]
    assert len(lines) == 1 and f" of {total} images after " in lines[0]


def test_every_image_that_cannot_be_read_is_named(edit_cohort: EditCohort) -> None:
    toml = edit_cohort(lambda table: None)
    cohort = read_cohort(toml).select(["P001"])
    for path in cohort.images["P001"]:
        path.write_bytes(b"not an image")
    config = ExtractionConfig("resnet18", "random", image_size=32)
    with pytest.raises(DataError) as error:
        embed_in_memory(cohort, config, build_backbone("resnet18", "random", 32), None, "cpu")
    assert all(path.name in str(error.value) for path in cohort.images["P001"])
    assert str(error.value).endswith("cannot be used. Repair or remove these images.")

"""The audit: it finds and names every planted flaw, and finds nothing in sound data."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.audited import IMAGES, LABELS, PATIENTS, WIDTH, embeddings, only, sound
from support.commands import Command
from support.planted import make_cache, make_cohort
from support.studies import Tiny

from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.study import audit as module
from mil_toolkit.study.audit import NEAR, audit, near_images, whitened, worth_telling
from mil_toolkit.study.records import Finding
from mil_toolkit.study.tune import tune


def test_nothing_is_found_in_sound_data(tmp_path: Path) -> None:
    assert audit(sound(), make_cache(tmp_path, sound(), embeddings())) == []


# Images under several patients.


def test_an_identical_image_of_two_patients_is_a_leak(tmp_path: Path) -> None:
    bags, alike = embeddings(), [("P003", "2.png"), ("P010", "7.png"), ("P010", "8.png")]
    bags[10][7] = bags[10][8] = bags[3][2]
    cache = make_cache(tmp_path, sound(), bags, dict.fromkeys(alike, b"the same"))
    (found,) = audit(sound(), cache)  # and not also as near-identical
    assert (found.kind, found.level, found.count) == ("identical images", "leak", 2)
    assert found.where == ("P003/2.png = P010/7.png", "P003/2.png = P010/8.png")
    assert "2 pairs" in found.text and "2 patients" in found.text


def test_copies_within_a_patient_are_not_reported(tmp_path: Path) -> None:
    bags, alike = embeddings(), [("P003", "2.png"), ("P003", "3.png")]
    bags[3][2] = bags[3][3]
    assert audit(sound(), make_cache(tmp_path, sound(), bags, dict.fromkeys(alike, b"the same"))) == []


def test_copies_within_a_group_are_a_note_and_across_groups_a_leak(tmp_path: Path) -> None:
    bags, alike = embeddings(), [("P002", "0.png"), ("P003", "0.png"), ("P004", "0.png")]
    cache = make_cache(tmp_path, sound(), bags, dict.fromkeys(alike, b"the same"))
    groups = [f"G{number // 2}" for number in range(PATIENTS)]
    leak, note = audit(sound(groups), cache)
    assert (leak.level, leak.where) == ("leak", ("P002/0.png = P004/0.png",))
    assert (note.level, note.where) == ("note", ("P002/0.png = P003/0.png",))


def test_unlabelled_patients_are_also_compared(tmp_path: Path) -> None:
    alike = [("P003", "2.png"), ("P047", "7.png")]
    cohort = replace(sound(), labels=np.where(np.arange(PATIENTS) == 47, -1, LABELS))
    cache = make_cache(tmp_path, cohort, embeddings(), dict.fromkeys(alike, b"the same"))
    assert only(audit(cohort, cache), "identical images").count == 1


def test_a_copy_that_was_saved_again_is_found(tmp_path: Path) -> None:
    bags, random = embeddings(), np.random.default_rng(1)
    bags[20][4] = bags[7][9] + random.normal(0, 0.1, WIDTH)
    bags[20][5] = bags[20][6] + random.normal(0, 0.1, WIDTH)  # the patient's own: no leak
    (found,) = audit(sound(), make_cache(tmp_path, sound(), bags))
    assert (found.kind, found.level, found.count) == ("near-identical images", "leak", 1)
    assert found.where[0].startswith("P007/9.png ~ P020/4.png (0.9")


def test_directions_common_to_all_images_do_not_make_copies(tmp_path: Path) -> None:
    """As with a random network: all embeddings lie along one axis; cosines after centring are near 1."""
    axis = np.random.default_rng(2).normal(size=WIDTH)
    bags = [
        bag * 0.05 + 3 * axis * np.random.default_rng(i).normal(size=(IMAGES, 1))
        for i, bag in enumerate(embeddings())
    ]
    centred = np.concatenate(bags) - np.concatenate(bags).mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert np.mean(unit @ unit.T > NEAR) > 0.3
    assert audit(sound(), make_cache(tmp_path, sound(), bags)) == []


def test_the_block_size_has_no_influence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bags = embeddings()
    for one, other in ((0, 1), (5, 40), (40, 47), (46, 47)):
        bags[other][one % IMAGES] = bags[one][3] + 0.05
    packed = make_cache(tmp_path, sound(), bags).bags(sound().patient_ids)
    unit = whitened(packed.instances.float())
    cosines = (
        (unit @ unit.T).triu().masked_fill(packed.bag_of_instance[:, None] == packed.bag_of_instance, -1)
    )
    expected = (cosines >= NEAR).nonzero().tolist()
    assert len(expected) >= 4
    for block in (7, 512):
        monkeypatch.setattr(module, "_BLOCK", block)
        found = near_images(packed)
        names = [(packed.image_names[one], packed.image_names[other]) for one, other in expected]
        assert [pair.names for pair in found] == names
        assert [pair.similarity for pair in found] == pytest.approx(
            [float(cosines[one, other]) for one, other in expected]
        )


def test_very_many_similar_images_are_counted_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_PAIRS", 30)
    monkeypatch.setattr(module, "MOST_LISTED", 10)
    bags = embeddings()
    for bag in bags:
        bag[0] = bags[0][0]
    found = only(audit(sound(), make_cache(tmp_path, sound(), bags)), "near-identical images")
    assert found.count == 30 and len(found.where) == 10 and "30 pairs or more" in found.text


def test_too_few_images_are_reported_as_unchecked(tmp_path: Path) -> None:
    few = [bag[:2] for bag in embeddings()]
    found = only(audit(sound(), make_cache(tmp_path, sound(), few)), "near-identical images")
    assert found.level == "unchecked" and "400 images, not 96" in found.text


def test_an_even_share_of_very_many_images_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_IMAGES", 200)
    bags = make_cache(tmp_path, sound(), embeddings()).bags(sound().patient_ids)
    share = module._share(bags)
    assert share.sizes.tolist() == [4] * PATIENTS  # every third of ten
    assert torch.equal(share.instances[4:8], bags.instances[10:20:3])
    assert share.image_names[4:8] == bags.image_names[10:20:3]


def test_whitened_embeddings_are_uncorrelated() -> None:
    x = torch.from_numpy(
        np.random.default_rng(0).normal(size=(300, 12)) @ np.random.default_rng(1).normal(size=(12, 12))
    )
    unit = whitened(x)
    assert unit.shape == (300, 12) and torch.allclose(unit.norm(dim=1), torch.ones(300, dtype=x.dtype))
    shift = whitened(
        x @ torch.diag(torch.arange(1.0, 13, dtype=x.dtype)) + 5
    )  # other scales: the same similarity
    assert torch.allclose(unit @ unit.T, shift @ shift.T, atol=1e-6)
    assert whitened(x[:50]).shape == (50, 5)  # ten images a component


# Metadata.


def test_constant_and_empty_columns_and_missing_values_are_found() -> None:
    findings = audit(sound(site=["LYON"] * PATIENTS, weight=[np.nan] * PATIENTS), None)
    constant = [each for each in findings if each.kind == "constant column"]
    assert [each.where for each in constant] == [("site",), ("weight",)]
    assert "only one value" in constant[0].text and "no value" in constant[1].text
    assert only(findings, "missing values").count == PATIENTS


def test_patients_with_equal_metadata_are_found() -> None:
    age = np.arange(PATIENTS) + 0.25
    sex = ["F", "M"] * (PATIENTS // 2)
    age[30], age[32] = age[10], age[10]
    age[41] = age[10]  # but of the other sex
    cohort = make_cohort(LABELS, {"age": age, "sex": sex})
    assert only(audit(cohort, None), "same metadata").where == ("P010 = P030 = P032",)
    groups = [f"G{number // 20}" for number in range(PATIENTS)]  # 30 and 32 in one, 10 in another
    grouped = make_cohort(LABELS, {"age": age, "sex": sex}, groups)
    assert "across groups" in only(audit(grouped, None), "same metadata").text
    one = make_cohort(LABELS, {"age": age, "sex": sex}, ["G"] * PATIENTS)
    assert not [each for each in audit(one, None) if each.kind == "same metadata"]  # no split separates them
    words = make_cohort(LABELS, {"sex": sex, "side": sex})
    assert not [
        each for each in audit(words, None) if each.kind == "same metadata"
    ]  # equal categories are common


# Checks that are not possible.


def test_without_images_or_a_second_class_checks_are_reported_as_unchecked() -> None:
    (images,) = audit(sound(), None)
    assert (images.kind, images.level) == ("images", "unchecked")
    cohort = replace(sound(), labels=np.ones(PATIENTS, dtype=np.int8))
    assert [each.kind for each in audit(cohort, None)] == ["images", "shortcuts"]
    unlabelled = replace(sound(), labels=-np.ones(PATIENTS, dtype=np.int8))
    assert [each.kind for each in audit(unlabelled, None)] == ["images", "shortcuts"]


# The audit of a study.


def test_a_summary_is_limited_to_the_gravest_findings() -> None:
    lines = worth_telling([Finding("x", "leak", f"{number}.", "Act.") for number in range(8)])
    assert lines == [*(f"leak: {number}. Act." for number in range(5)), "3 more findings."]
    assert worth_telling([Finding("x", "note", "a.")]) == ["1 more finding."]
    assert worth_telling([]) == []


def test_a_leak_is_logged_before_the_study_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cohort, alike = sound(), [("P000", "0.png"), ("P001", "0.png")]
    cache = make_cache(tmp_path, cohort, [bag[:2] for bag in embeddings()], dict.fromkeys(alike, b"the same"))
    config = StudyConfig(
        trials=1, folds=2, outer_folds=0, members=1, settings={"epochs": (1,), "hidden": (32,)}
    )
    with caplog.at_level(logging.WARNING, "mil_toolkit"):
        tuned = tune(cohort, cache, tmp_path / "study", config, "cpu")
    assert "identical images" in caplog.text
    saved = json.loads((tmp_path / "study" / "audit.json").read_text())
    assert [each["kind"] for each in saved] == [each.kind for each in tuned.findings]
    assert saved[0]["where"] == ["P000/0.png = P001/0.png"]


def test_the_command_shows_the_findings(
    tiny: Tiny, tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    study = ("--outer-folds", 0, "--study", tmp_path)
    findings = audit(tiny.cohort, FeatureCache.open(tiny.features))
    assert findings
    done = command("tune", *tiny_options, *study)
    assert done.code == 0 and "audit.json" in done.out
    assert all(f"  {line}" in done.out.splitlines() for line in worth_telling(findings))
    data = command("tune", *tiny_options, *study, "--json").json
    assert data["audit"] == json.loads((tmp_path / "audit.json").read_text())
    assert [each["text"] for each in data["audit"]] == [each.text for each in findings]


def test_the_audit_of_a_table_sees_the_formats_of_its_dates(tmp_path: Path) -> None:
    toml = (
        '[cohort]\nname = "c"\ntable = "t.csv"\nid = "ID"\nlabel = "L"\npositive = 1\nnegative = 0\n'
        '[metadata.age]\ncolumn = "BORN"\nkind = "birth-date"\nformats = ["%m/%d/%Y", "%d-%m-%Y"]\n'
        "reference = 2020-12-31\n"
    )
    (tmp_path / "cohort.toml").write_text(toml)

    def findings(label: int | None) -> list[str]:
        dates = [f"{20 + n % 9}-{1 + n % 12}-{1940 + n}" if n < 29 else f"3/14/{1910 + n}" for n in range(96)]
        labels = [n % 2 if label is None or n > 28 or n % 10 == 0 else label for n in range(96)]
        rows = [f"P{n},{labels[n]},{dates[n]}" for n in range(96)]
        (tmp_path / "t.csv").write_text("\n".join(["ID,L,BORN", *rows]))
        found = audit(read_cohort(tmp_path / "cohort.toml", images=False), None)
        return [finding.text for finding in found if finding.kind == "way of writing"]

    (text,) = findings(0)
    assert "age is written" in text and "%d-%m-%Y: 0 of 29 positive" in text
    (other,) = findings(1)
    assert "%d-%m-%Y: 26 of 29 positive" in other
    assert findings(None) == []

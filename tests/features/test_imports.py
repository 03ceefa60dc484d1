"""Caches from the feature files of other tools."""

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.commands import Command
from support.stored_bags import three_patients, write_trident
from support.studies import Tiny

from mil_toolkit.core.errors import DataError
from mil_toolkit.features import imports
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.export import export_cache
from mil_toolkit.features.imports import import_features
from mil_toolkit.features.layouts import LAYOUTS
from mil_toolkit.features.shards import Recorded
from mil_toolkit.features.upkeep import summarise_cache, verify


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return three_patients(tmp_path / "cache")


@pytest.mark.parametrize("name", LAYOUTS)
def test_importing_an_export_restores_the_embeddings(cache: FeatureCache, name: str, tmp_path: Path) -> None:
    """Bit by bit."""
    assert export_cache(cache, name, tmp_path / "out") == 3
    back = import_features(
        tmp_path / "out", name, tmp_path / "in", "cohort", "net" if name == "clam" else None
    )
    assert back.patient_ids == cache.patient_ids and back.spec["weights"] == f"imported from {name}"
    assert back.spec["backbone"] == ("net" if name == "clam" else cache.folder.name)
    one, other = cache.bags(["c", "a", "b"]), back.bags(["c", "a", "b"])
    assert torch.equal(one.instances, other.instances) and torch.equal(one.offsets, other.offsets)
    assert other.image_names[:2] == ("c:0@0,0", "c:1@64,0")
    assert verify(back.folder) == 1


def test_a_second_import_adds_only_what_is_new(cache: FeatureCache, tmp_path: Path) -> None:
    """And nothing if nothing is new."""
    out = tmp_path / "out"
    export_cache(cache, "trident", out)
    first = import_features(out, "trident", tmp_path, "c")
    assert len(import_features(out, "trident", tmp_path, "c").shards) == 1
    with h5py.File(out / "b.h5", "r+") as file:
        file["features"][...] = 2.5
    (first.folder / ".tmp-0123456789abcdef").write_bytes(b"half a shard")
    second = import_features(out, "trident", tmp_path, "c")
    assert not [*first.folder.glob(".tmp-*")]
    assert second.folder == first.folder and len(second.shards) == 2
    assert (second.bags(["b"]).instances == 2.5).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_import_converts_squeezes_and_joins_files(tmp_path: Path, dtype: type) -> None:
    """Several files of one patient, in the order of their names, some with a leading dimension of one."""
    values = np.random.default_rng(0).standard_normal((5, 4)).astype(dtype)
    write_trident(tmp_path / "f/P1/x.h5", values[:2])
    write_trident(tmp_path / "f/P1/y.h5", values[None, 2:4])
    write_trident(tmp_path / "f/P2.h5", values[4:])
    cache = import_features(tmp_path / "f", "trident", tmp_path / "cache", "c")
    bags = cache.bags(["P1", "P2"])
    assert np.array_equal(bags.instances, values.astype(np.float16)) and bags.sizes.tolist() == [4, 1]
    assert bags.image_names == ("P1/x:0@0,0", "P1/x:1@0,0", "P1/y:0@0,0", "P1/y:1@0,0", "P2:0@0,0")
    assert cache.shards[0].recorded == Recorded(np.dtype(dtype).name, "imported from trident")


@pytest.mark.parametrize("header", ["case_id,slide_id", "PATIENT,FILENAME"])
def test_a_table_assigns_files_to_patients(
    tmp_path: Path, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By names with or without extension; files that are not in the table are counted."""
    for row, name in enumerate(("s1", "s2.svs", "s3")):
        write_trident(tmp_path / f"f/{name}.h5", np.full((1, 2), row, np.float32))
    table = tmp_path / "slides.csv"
    table.write_text(f"{header}\nA,s2.svs.h5\nB,s1\n")
    with caplog.at_level("INFO", "mil_toolkit"):
        cache = import_features(tmp_path / "f", "trident", tmp_path, "c", table=table)
    assert cache.bags(["A", "B"]).instances.tolist() == [[1, 1], [0, 0]]
    assert "1 feature files are in no row" in caplog.text
    table.write_text(f"{header}\nA,s4\nB,s1\nB,s5\n")
    with pytest.raises(DataError) as caught:
        import_features(tmp_path / "f", "trident", tmp_path, "c", table=table)
    assert [line.split(", ")[1].split(":")[0] for line in caught.value.problems] == [
        "row 2 (patient A)",
        "row 4 (patient B)",
    ]
    table.write_text("who,what\n")
    with pytest.raises(DataError, match=r"expected the columns case_id,slide_id or .* got who,what"):
        import_features(tmp_path / "f", "trident", tmp_path, "c", table=table)


def test_the_tensor_files_of_clam_are_enough(cache: FeatureCache, tmp_path: Path) -> None:
    """Older versions of CLAM write nothing else. bfloat16 is converted, and code is refused."""
    export_cache(cache, "clam", tmp_path / "out")
    shutil.rmtree(tmp_path / "out/h5_files")
    back = import_features(tmp_path / "out", "clam", tmp_path, "c", "resnet50_trunc")
    assert torch.equal(back.bags(["a"]).instances, cache.bags(["a"]).instances)
    assert back.bags(["c"]).image_names == ("c:0", "c:1", "c:2")
    torch.save(torch.ones(1, 2, 3, dtype=torch.bfloat16), tmp_path / "out/pt_files/c.pt")
    assert (
        import_features(tmp_path / "out", "clam", tmp_path, "c", "resnet50_trunc").bags(["c"]).instances == 1
    ).all()
    torch.save({"features": torch.ones(2, 3)}, tmp_path / "out/pt_files/a.pt")
    torch.save(os.path.join, tmp_path / "out/pt_files/b.pt")
    with pytest.raises(DataError) as caught:
        import_features(tmp_path / "out", "clam", tmp_path, "c", "resnet50_trunc")
    assert "a.pt cannot be read: it holds dict instead of one tensor" in caught.value.problems[0]
    assert "b.pt cannot be read" in caught.value.problems[1]


def test_the_encoder_must_be_known(tmp_path: Path) -> None:
    write_trident(tmp_path / "f/a.h5", np.ones((2, 3)), encoder=None)
    with pytest.raises(DataError, match="Name it with --encoder"):
        import_features(tmp_path / "f", "trident", tmp_path, "c")
    assert import_features(tmp_path / "f", "trident", tmp_path, "c", "uni_v1").spec["backbone"] == "uni_v1"
    write_trident(tmp_path / "f/a.h5", np.ones((2, 3)), encoder="conch")
    with pytest.raises(DataError, match="--encoder uni_v1: the files say conch"):
        import_features(tmp_path / "f", "trident", tmp_path, "c", "uni_v1")


def test_large_bags_are_published_during_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "SHARD_LIMITS", imports.SHARD_LIMITS._replace(images=4))
    for number in range(5):
        write_trident(tmp_path / f"f/P{number}.h5", np.full((2, 3), number, np.float32))
    cache = import_features(tmp_path / "f", "trident", tmp_path, "c")
    assert sorted(len(shard.patient_ids) for shard in cache.shards) == [1, 2, 2]
    assert cache.bags(["P3"]).instances.unique().tolist() == [3.0]


def test_imported_features_can_be_tuned(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    """Export, import, and mil-tune on the result."""
    done = command(
        "cache", "export", tiny.features, "--format", "stamp", "--output", tmp_path / "out", "--json"
    )
    assert done.json == {"output": str(tmp_path / "out"), "patients": 27}
    options = ("--format", "stamp", "--cohort", tiny.cohort.name, "--cache", tmp_path / "cache")
    told = command("cache", "import", tmp_path / "out", *options, "--json")
    assert told.json["patients"] == 27 and told.json["images"] == summarise_cache(tiny.features).images
    features = command("cache", "import", tmp_path / "out", *options).out.removesuffix("\n")
    assert features == told.json["features"]
    numbers = ("--trials", 1, "--epochs", 1, "--folds", 2, "--outer-folds", 0, "--members", 1)
    study = ("--study", tmp_path / "study", "--set", "hidden=32")
    tuned = command("tune", tiny.cohort_toml, "--features", features, *numbers, *study, "--json")
    assert tuned.code == 0, tuned.err
    assert json.loads((tmp_path / "study/config.json").read_text())["features"]["spec"]["weights"] == (
        "imported from stamp"
    )


@pytest.mark.parametrize("name", ["../outside", "a/b", "..", "", "/tmp/x", ".hidden", "a\nb"])
def test_the_cohort_must_name_a_folder_within_the_cache(tmp_path: Path, name: str, command: Command) -> None:
    write_trident(tmp_path / "f/a.h5", np.ones((2, 3)))
    options = ("--format", "trident", f"--cohort={name}", "--cache", tmp_path / "cache")
    done = command("cache", "import", tmp_path / "f", *options)
    assert done.code == 2 and "because it names a folder" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_what_was_deleted_at_the_source_is_named_or_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A patient without files stays and is named; a slide of a patient that has others is dropped."""
    for name in ("P1/x", "P1/y", "P2", "P3"):
        write_trident(tmp_path / f"f/{name}.h5", np.ones((2, 3)))
    import_features(tmp_path / "f", "trident", tmp_path / "cache", "c")
    assert "earlier import" not in caplog.text
    for name in ("P1/y", "P3"):
        (tmp_path / f"f/{name}.h5").unlink()
    cache = import_features(tmp_path / "f", "trident", tmp_path / "cache", "c")
    assert cache.bags(["P1"]).sizes.tolist() == [2] and cache.patient_ids == ("P1", "P2", "P3")
    assert "keeps 1 patient of an earlier import that this one does not have: P3. To drop" in caplog.text


def test_a_patient_that_left_the_table_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("s1", "s2"):
        write_trident(tmp_path / f"f/{name}.h5", np.ones((2, 3)))
    table = tmp_path / "slides.csv"
    for text in ("patient,path\nA,s1\nB,s2\n", "patient,path\nA,s1\n"):
        table.write_text(text)
        import_features(tmp_path / "f", "trident", tmp_path / "cache", "c", table=table)
    assert "of an earlier import that this one does not have: B." in caplog.text


def test_ids_of_folders_are_compared_in_the_normal_form_of_a_cohort(tmp_path: Path) -> None:
    write_trident(tmp_path / "f/Mu\u0308ller.h5", np.ones((2, 3)))
    assert import_features(tmp_path / "f", "trident", tmp_path / "cache", "c").patient_ids == ("M\u00fcller",)

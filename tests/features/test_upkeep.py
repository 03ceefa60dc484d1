"""What a cache holds, whether it is whole, what may go; and the files of other tools, there and back."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.commands import Command
from support.studies import Tiny

from mil_toolkit.cli.cache import FORMATS
from mil_toolkit.core import files
from mil_toolkit.core.errors import BusyError, DataError, UsageError
from mil_toolkit.core.locks import shared
from mil_toolkit.features import interop, upkeep
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.interop import LAYOUTS, SYNTHETIC, export_cache, import_features
from mil_toolkit.features.shards import EmbeddedBag, Recorded, StoredImage, encode_shard
from mil_toolkit.features.upkeep import describe, prune, verify

SPEC = {
    "schema": 1,
    "backbone": "net",
    "weights": "random",
    "image_size": 64,
    "crop": 0,
    "preprocess": "none",
    "width": 3,
}
RECORDED = Recorded("float32", "pillow 13")


def bag(patient: str, size: int = 2, seed: int = 0) -> EmbeddedBag:
    random = np.random.default_rng(seed)
    images = tuple(StoredImage(f"{row}.png", random.bytes(32), row, row) for row in range(size))
    return EmbeddedBag(patient, images, random.standard_normal((size, 3)).astype(np.float16))


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """Three patients in two shards."""
    cache = FeatureCache.create(tmp_path / "cache", "cohort", SPEC)
    cache.publish([bag("a", 5, 1), bag("b", 1, 2)], RECORDED)
    cache.publish([bag("c", 3, 3)], RECORDED)
    cache.refresh()
    return cache


# Verify, info and prune.


def test_a_whole_cache_is_verified(cache: FeatureCache) -> None:
    assert verify(cache.folder) == 2


def test_every_flipped_bit_of_every_byte_is_found(tmp_path: Path) -> None:
    """By what verify does with each shard, one bit at a time."""
    cache = FeatureCache.create(tmp_path, "cohort", SPEC)
    path = cache.publish([bag("a", 1)], RECORDED)
    content, said = path.read_bytes(), f"{path} is damaged: its bytes do not match its name."
    descriptor, missed = os.open(path, os.O_WRONLY), []
    for place, byte in enumerate(content):
        for bit in range(8):
            os.pwrite(descriptor, bytes([byte ^ 1 << bit]), place)
            problems = upkeep._problems(path, cache.spec_digest, 3)
            missed += [] if len(problems) == 1 and problems[0].startswith(said) else [(place, bit)]
        os.pwrite(descriptor, bytes([byte]), place)
    os.close(descriptor)
    assert not missed and len(content) > 5000 and verify(cache.folder) == 1


def test_every_truncation_is_found(cache: FeatureCache) -> None:
    path = cache.shards[0].path
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="do not match its name"):
            verify(cache.folder)


def test_no_flipped_bit_brings_an_old_embedding_back(tmp_path: Path) -> None:
    """Nor keeps a reader busy for ever, as it can HDF5: damaged bytes are refused before HDF5 sees them."""
    cache = FeatureCache.create(tmp_path, "cohort", SPEC)
    cache.publish([bag("a", 1, seed=1)], RECORDED)
    cache.refresh()
    new = cache.publish([bag("a", 1, seed=2)], RECORDED)
    content = new.read_bytes()
    random = np.random.default_rng(0)
    for place in random.permutation(len(content))[:1000].tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        new.write_bytes(changed)
        with pytest.raises(DataError, match="do not match its name"):
            FeatureCache.open(cache.folder)


def test_all_problems_are_told_at_once(cache: FeatureCache) -> None:
    """Swapped shards, a renamed one, one of another spec."""
    one, two = (shard.path for shard in cache.shards)
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    (cache.folder / "copy.h5").write_bytes(content)
    other = encode_shard([bag("d")], "0" * 64, 1, RECORDED)
    (cache.folder / f"{files.digest(other)}.h5").write_bytes(other)
    with pytest.raises(DataError) as caught:
        verify(cache.folder)
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4 and told.count("do not match its name") == 2
    assert "copy.h5 is read by nothing" in told and "belongs to another spec" in told


def test_an_edited_spec_is_found(cache: FeatureCache) -> None:
    files.publish_json(cache.folder / "spec.json", SPEC | {"crop": 7})
    with pytest.raises(DataError) as caught:
        verify(cache.folder)
    assert [line.split(" belongs")[1][:16] for line in caught.value.problems] == [" to another spec"] * 2


def test_embeddings_that_are_not_their_bags_are_found(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By each bag's own digest, in a shard that some other program wrote under the right name."""
    monkeypatch.setattr(EmbeddedBag, "digest", b"\1" * 32)
    wrong = bag("d")
    wrong.embeddings[0, 0] = np.nan
    cache.publish([wrong], RECORDED)
    monkeypatch.undo()
    with pytest.raises(DataError) as caught:
        verify(cache.folder)
    assert "patient d does not match its digest" in str(caught.value) and "not finite" in str(caught.value)


def test_prune_removes_what_no_longer_counts(cache: FeatureCache) -> None:
    """A shard with one bag that counts stays as a whole; embeddings are the same before and after."""
    cache.publish([bag("a", 2, 9)], RECORDED)
    cache.refresh()
    assert prune(cache.folder) == (0, 0)
    old = cache.shards[0].path, cache.shards[1].path
    cache.publish([bag("b", 2, 8)], RECORDED)
    (cache.folder / ".tmp-dead").write_bytes(b"half a shard")
    cache.refresh()
    before, held = cache.bags(["a", "b", "c"]), {*cache.folder.glob("*.h5")}
    removed, freed = prune(cache.folder)
    left = {*cache.folder.glob("*.h5")}
    assert removed == 1 and freed > 0 and len(held - left) == 1 and held - left < {*old, *held}
    assert torch.equal(FeatureCache.open(cache.folder).bags(["a", "b", "c"]).instances, before.instances)
    assert torch.equal(cache.bags(["a", "b", "c"]).instances, before.instances)
    assert not [*cache.folder.glob(".tmp-*")]


def test_prune_waits_for_no_writer(cache: FeatureCache) -> None:
    """It says that there is one; and a writer's shards stay while it plans with them."""
    with shared(cache.folder), pytest.raises(BusyError):
        prune(cache.folder)


def test_prune_leaves_a_damaged_cache_alone(cache: FeatureCache) -> None:
    """The older embeddings may be all that is left."""
    cache.publish([bag("a", 2, 9), bag("b", 2, 9)], RECORDED)
    cache.refresh()
    newest = max(cache.shards, key=lambda shard: shard.sequence).path
    newest.write_bytes(newest.read_bytes()[:-1])
    held = {*cache.folder.glob("*.h5")}
    with pytest.raises(DataError, match="do not match its name"):
        prune(cache.folder)
    assert {*cache.folder.glob("*.h5")} == held


# Other tools' files.


@pytest.mark.parametrize("name", LAYOUTS)
def test_there_and_back(cache: FeatureCache, name: str, tmp_path: Path) -> None:
    """Every bit of every embedding."""
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


def test_layouts(cache: FeatureCache, tmp_path: Path) -> None:
    """Datasets, types and attributes as the tools' own code reads them."""
    for name in LAYOUTS:
        export_cache(cache, name, tmp_path / name)
    with h5py.File(tmp_path / "clam/h5_files/a.h5") as clam:
        assert clam["features"].dtype == np.float32 and clam["features"].shape == (5, 3)
        assert clam["coords"].dtype == np.int32
        assert clam["coords"][()].tolist() == [[0, 0], [64, 0], [128, 0], [0, 64], [64, 64]]
        twin = torch.load(tmp_path / "clam/pt_files/a.pt", weights_only=True)
        assert twin.dtype == torch.float32 and np.array_equal(twin, clam["features"][()])
        assert twin.untyped_storage().nbytes() == twin.nbytes
    with h5py.File(tmp_path / "trident/a.h5") as trident:
        assert trident["features"].dtype == np.float32 and trident["coords"].dtype == np.int64
        assert {*trident["features"].attrs} == {"name", "savetodir", "encoder"}
        assert trident["coords"].attrs["patch_size_level0"] == trident["coords"].attrs["patch_size"] == 64
        assert {"level0_magnification", "target_magnification", "overlap"} < {*trident["coords"].attrs}
    with h5py.File(tmp_path / "stamp/a.h5") as stamp:
        assert stamp["feats"].dtype == np.float16 and stamp["coords"].dtype == np.float32
        attributes = dict(stamp.attrs)
        assert attributes["unit"] == "um" and attributes["feat_type"] == "tile"
        assert attributes["tile_size_um"] == 64.0 and attributes["tile_size_px"] == 64
        assert attributes["stamp_version"] == "2.1.0" and attributes["extractor"] == cache.folder.name
    for path in tmp_path.glob("*/**/a.h5"):
        with h5py.File(path) as file:
            assert file["coords"].attrs["synthetic"] == SYNTHETIC


def test_an_import_again_adds_what_is_new(cache: FeatureCache, tmp_path: Path) -> None:
    """And nothing where nothing is."""
    out = tmp_path / "out"
    export_cache(cache, "trident", out)
    first = import_features(out, "trident", tmp_path, "c")
    assert len(import_features(out, "trident", tmp_path, "c").shards) == 1
    with h5py.File(out / "b.h5", "r+") as file:
        file["features"][...] = 2.5
    second = import_features(out, "trident", tmp_path, "c")
    assert second.folder == first.folder and len(second.shards) == 2
    assert (second.bags(["b"]).instances == 2.5).all()


def write_trident(path: Path, features: np.ndarray, encoder: str | None = "uni_v1") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["coords"] = np.zeros((features.shape[-2], 2), np.int64)
        if encoder:
            file["features"].attrs["encoder"] = encoder


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_import_upcasts_squeezes_and_joins(tmp_path: Path, dtype: type) -> None:
    """Several files of one patient, in the order of their names, some with a leading one."""
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
def test_a_table_says_whose_files_they_are(
    tmp_path: Path, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By their names with or without the ending; what it does not name is counted."""
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


def test_clams_tensors_alone_are_enough(cache: FeatureCache, tmp_path: Path) -> None:
    """Older versions of CLAM keep nothing else; bfloat16 and what carries code aside."""
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


def _soft(file: h5py.File) -> None:
    file.move("features", "other")
    file["features"] = h5py.SoftLink("/other")


def _external(file: h5py.File) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink("elsewhere.h5", "/features")


def _virtual(file: h5py.File) -> None:
    del file["features"]
    layout = h5py.VirtualLayout((2, 3), np.float32)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "features", (2, 3))
    file.create_virtual_dataset("features", layout)


def _stored_elsewhere(file: h5py.File) -> None:
    del file["features"]
    file.create_dataset("features", (2, 3), np.float32, external=[("/etc/passwd", 0, 24)])


def _set(values: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["features"]
        file["features"] = values

    return change


def _without_coords(file: h5py.File) -> None:
    del file["coords"]


def _more_coords(file: h5py.File) -> None:
    del file["coords"]
    file["coords"] = np.zeros((3, 2))


REFUSED: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "soft link": (_soft, "features is a link"),
    "external link": (_external, "features is a link"),
    "virtual dataset": (_virtual, "features keeps its data in other files"),
    "external data": (_stored_elsewhere, "features keeps its data in other files"),
    "NaN": (_set(np.full((2, 3), np.nan)), "6 values are not finite"),
    "infinity": (_set(np.full((2, 3), -np.inf)), "6 values are not finite"),
    "too large": (_set(np.full((2, 3), 7e4)), "values of up to 7e+04 exceed float16"),
    "integers": (
        _set(np.ones((2, 3), np.int32)),
        "expected features (N, D) of floating-point numbers, got int32",
    ),
    "a vector": (_set(np.ones(3)), "got float64 (3,)"),
    "two bags": (_set(np.ones((2, 2, 3))), "got float64 (2, 2, 3)"),
    "nothing": (_set(np.ones((0, 3))), "got float64 (0, 3)"),
    "another width": (_set(np.ones((2, 4))), "width 4 instead of 3, as in most files"),
    "no coords": (_without_coords, "has no dataset coords"),
    "other coords": (_more_coords, "coords (3, 2) do not fit 2 features"),
}


def test_what_cannot_be_taken_is_refused_all_at_once(tmp_path: Path) -> None:
    """Every file with its reason, and nothing written."""
    for number in range(30):
        write_trident(tmp_path / f"f/good{number}.h5", np.ones((2, 3), np.float32))
    for name, (change, _) in REFUSED.items():
        write_trident(tmp_path / f"f/{name}.h5", np.ones((2, 3), np.float32))
        with h5py.File(tmp_path / f"f/{name}.h5", "r+") as file:
            change(file)
            if isinstance(file.get("features", getlink=True), h5py.HardLink):
                file["features"].attrs["encoder"] = "uni_v1"
    (tmp_path / "f/text.h5").write_text("no HDF5")
    write_trident(tmp_path / "f/foreign.h5", np.ones((2, 3), np.float32), "conch_v1")
    with pytest.raises(DataError) as caught:
        import_features(tmp_path / "f", "trident", tmp_path / "cache", "c")
    told = dict(line.removeprefix(f"{tmp_path}/f/").split(".h5", 1) for line in caught.value.problems)
    assert told.keys() == {*REFUSED, "text", "foreign"}
    for name, (_, message) in REFUSED.items():
        assert message in told[name]
    assert "cannot be read" in told["text"] and "encoder conch_v1 instead of uni_v1" in told["foreign"]
    assert not (tmp_path / "cache").exists()


def test_the_encoder_must_be_known(tmp_path: Path) -> None:
    write_trident(tmp_path / "f/a.h5", np.ones((2, 3)), encoder=None)
    with pytest.raises(DataError, match="Name it with --encoder"):
        import_features(tmp_path / "f", "trident", tmp_path, "c")
    assert import_features(tmp_path / "f", "trident", tmp_path, "c", "uni_v1").spec["backbone"] == "uni_v1"
    write_trident(tmp_path / "f/a.h5", np.ones((2, 3)), encoder="conch")
    with pytest.raises(DataError, match="--encoder uni_v1: the files say conch"):
        import_features(tmp_path / "f", "trident", tmp_path, "c", "uni_v1")


def test_ids_that_are_no_file_names_are_listed(cache: FeatureCache, tmp_path: Path) -> None:
    cache.publish([bag("x/y"), bag("..")], RECORDED)
    cache.refresh()
    with pytest.raises(DataError) as caught:
        export_cache(cache, "stamp", tmp_path / "out")
    assert len(caught.value.problems) == 2 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_export_replaces_exports_alone(name: str, cache: FeatureCache, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    for _ in range(2):
        export_cache(cache, name, tmp_path / "own")
    other = tmp_path / "other"
    files = [other / layout.folder / "b.h5"]
    if name == "clam":
        files.append(other / "pt_files" / "c.pt")
        files[1].parent.mkdir(parents=True)
        files[1].write_bytes(b"another encoder's")
    files[0].parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(files[0], "w") as file:
        file[layout.features] = np.ones((2, 3))
        file["coords"] = np.ones((2, 2))
    before = [path.read_bytes() for path in files]
    with pytest.raises(UsageError, match="there already, and no export") as caught:
        export_cache(cache, name, other)
    assert all(path.name in str(caught.value) for path in files)
    assert [path.read_bytes() for path in files] == before
    assert sorted(path for path in other.rglob("*") if path.is_file()) == files


def test_large_bags_are_published_as_the_import_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interop, "INSTANCES_PER_SHARD", 4)
    for number in range(5):
        write_trident(tmp_path / f"f/P{number}.h5", np.full((2, 3), number, np.float32))
    cache = import_features(tmp_path / "f", "trident", tmp_path, "c")
    assert sorted(len(shard.patient_ids) for shard in cache.shards) == [1, 2, 2]
    assert cache.bags(["P3"]).instances.unique().tolist() == [3.0]


# The command.


def test_info_tells_text_and_json(cache: FeatureCache, command: Command) -> None:
    told = command("cache", "info", cache.folder, "--json")
    assert told.code == 0 and told.json == describe(cache.folder)
    assert told.json["patients"] == 3 and told.json["images"] == 9 and told.json["shards"] == 2
    assert told.json["bytes"] == sum(path.stat().st_size for path in cache.folder.glob("*.h5"))
    text = command("cache", "info", cache.folder)
    assert "patients: 3\nimages: 9\n" in text.out and 'backbone: "net"' in text.out
    assert command("cache", "--json", "info", cache.folder).json == told.json


def test_verify_and_prune_by_command(cache: FeatureCache, command: Command) -> None:
    assert command("cache", "verify", cache.folder, "--json").json == {"shards": 2}
    assert command("cache", "prune", cache.folder, "--json").json == {"removed": 0, "bytes": 0}
    with shared(cache.folder):
        assert command("cache", "prune", cache.folder).code == 75
    for shard in cache.shards:
        shard.path.write_bytes(b"")
    done = command("cache", "verify", cache.folder, "--json")
    assert done.code == 3 and done.out == "" and done.err.count("do not match its name") == 2
    assert command("cache", "verify", cache.folder.parent).code == 3


def test_the_commands_formats_are_those_of_the_table() -> None:
    assert tuple(LAYOUTS) == FORMATS


def test_imported_features_are_tuned(tiny: Tiny, tmp_path: Path, command: Command) -> None:
    """Out through one layout, in again, and through mil-tune."""
    done = command(
        "cache", "export", tiny.features, "--format", "stamp", "--output", tmp_path / "out", "--json"
    )
    assert done.json == {"output": str(tmp_path / "out"), "patients": 27}
    options = ("--format", "stamp", "--cohort", tiny.cohort.name, "--cache", tmp_path / "cache")
    told = command("cache", "import", tmp_path / "out", *options, "--json")
    assert told.json["patients"] == 27 and told.json["images"] == describe(tiny.features)["images"]
    features = command("cache", "import", tmp_path / "out", *options).out.removesuffix("\n")
    assert features == told.json["features"]
    numbers = ("--trials", 1, "--epochs", 1, "--folds", 2, "--outer-folds", 0, "--members", 1)
    study = ("--study", tmp_path / "study", "--set", "hidden=32")
    tuned = command("tune", tiny.cohort_toml, "--features", features, *numbers, *study, "--json")
    assert tuned.code == 0, tuned.err
    assert json.loads((tmp_path / "study/config.json").read_text())["features"]["spec"]["weights"] == (
        "imported from stamp"
    )

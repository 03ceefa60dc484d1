"""Every image once: what is embedded, what is not, what is published and what is said."""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mil_toolkit.backbones.backbones import build_backbone
from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.cli.extract import main
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config import ExtractionConfig
from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.core.files import digest_file
from mil_toolkit.features import extract as extraction
from mil_toolkit.features import plan as plan_module
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.extract import Extraction, extract
from mil_toolkit.features.pixels import decode, prepare
from mil_toolkit.features.rehashes import Rehashes
from mil_toolkit.features.sharding import Share, imbalance, parse_share, share_of
from mil_toolkit.features.shards import UNKNOWN_MTIME, EmbeddedBag, Recorded, StoredImage

CONFIG = ExtractionConfig(backbone="resnet18", weights="random", image_size=32)
BAGS = {"P1": 3, "P2": 1, "P3": 5, "P4": 2}
REAL = Path(__file__).parents[3] / "shared" / "lymphocytosis"
LONG_AGO = time.time() - 10_000_000


def draw(path: Path, seed: int) -> None:
    """A random image whose mtime is old enough to be trusted."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    os.utime(path, (LONG_AGO + seed, LONG_AGO + seed))


def write_cohort(folder: Path, bags: Mapping[str, int]) -> Path:
    """A cohort.toml with so many images a patient; images that are there already stay."""
    for patient, size in bags.items():
        for row in range(size):
            path = folder / "images" / patient / f"{row}.png"
            if not path.exists():
                draw(path, 100 * int(patient[1:]) + row)
    rows = [f"{patient},{number % 2}" for number, patient in enumerate(bags)]
    (folder / "table.csv").write_text("\n".join(["ID,LABEL", *rows]) + "\n")
    text = '[cohort]\nname = "c"\ntable = "table.csv"\nimages = ["images"]\nid = "ID"\nlabel = "LABEL"\n'
    (folder / "cohort.toml").write_text(text + "positive = 1\nnegative = 0\n")
    return folder / "cohort.toml"


backbone = functools.cache(build_backbone)


@pytest.fixture(autouse=True)
def _built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "build_backbone", backbone)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """The declaration of a tiny cohort."""
    return write_cohort(tmp_path / "cohort", BAGS)


def run(toml: Path, **options: object) -> Extraction:
    """Extract into a cache beside the cohort."""
    options = {"precision": "float32", "device": "cpu", "batch_size": 4, **options}
    return extract(read_cohort(toml), CONFIG, toml.parents[1] / "cache", **options)  # type: ignore[arg-type]


def bags_of(extraction: Extraction) -> dict[str, dict[str, np.ndarray]]:
    """Embeddings by patient and image name, as the cache returns them."""
    cache = FeatureCache.open(extraction.folder)
    packed = cache.bags(cache.patient_ids)
    rows = iter(zip(packed.image_names, packed.instances.numpy(), strict=True))
    return {
        p: dict(next(rows) for _ in range(n)) for p, n in zip(packed.patient_ids, packed.sizes, strict=True)
    }


def expected(toml: Path) -> dict[str, dict[str, np.ndarray]]:
    """The oracle: each image on its own, in a batch of four that is black otherwise."""
    embedder = Embedder(backbone("resnet18", "random"), torch.device("cpu"), torch.float32)

    def embed(path: Path) -> np.ndarray:
        batch = np.zeros((4, 32, 32, 3), dtype=np.uint8)
        batch[0] = prepare(decode(path.read_bytes()), 32, 0, "none")
        return embedder(torch.from_numpy(batch))[0].numpy()

    folders = sorted((toml.parent / "images").iterdir())
    return {folder.name: {path.name: embed(path) for path in sorted(folder.iterdir())} for folder in folders}


def same(one: Mapping[str, Mapping[str, np.ndarray]], other: Mapping[str, Mapping[str, np.ndarray]]) -> bool:
    """Whether patients, images, their order and every bit of their embeddings agree."""
    names = [[*bag] for bag in one.values()] == [[*bag] for bag in other.values()]
    return (
        one.keys() == other.keys()
        and names
        and all(
            np.array_equal(row, other[patient][name]) for patient in one for name, row in one[patient].items()
        )
    )


def test_every_image_is_embedded_as_if_it_were_alone(toml: Path) -> None:
    """Batches of four across patients, against one image at a time, bit by bit."""
    first = run(toml)
    assert (first.patients, first.images, first.extracted) == (4, 11, 11)
    assert same(bags_of(first), expected(toml))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_bit(toml: Path, workers: int) -> None:
    """Nor the order of a bag."""
    assert same(bags_of(run(toml, workers=workers)), expected(toml))


@pytest.mark.parametrize("batch_size", [1, 100])
def test_batch_size_changes_nothing_but_rounding(toml: Path, batch_size: int) -> None:
    """The kernels depend on it."""
    for patient, bag in bags_of(run(toml, batch_size=batch_size, workers=1)).items():
        for name, row in bag.items():
            assert np.allclose(row, expected(toml)[patient][name], rtol=2e-3, atol=2e-3)


def test_bfloat16_is_recorded_and_close(toml: Path) -> None:
    """The shard says how its embeddings were computed."""
    half = bags_of(found := run(toml, precision="bfloat16"))
    (shard,) = FeatureCache.open(found.folder).shards
    assert shard.recorded.precision == "bfloat16" and shard.recorded.decoder.startswith("pillow ")
    for patient, bag in expected(toml).items():
        for name, row in bag.items():
            a, b = row.astype(float), half[patient][name].astype(float)
            assert a @ b > 0.999 * np.sqrt((a @ a) * (b @ b))


def test_nothing_is_done_twice(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchanged cohort costs a stat an image: no file is opened, no shard is written."""
    first = run(toml)
    shards = sorted(first.folder.iterdir())
    monkeypatch.setattr(plan_module, "digest_file", None)
    monkeypatch.setattr(extraction, "decode", None)
    assert run(toml).extracted == 0
    assert sorted(first.folder.iterdir()) == shards


def test_one_more_patient_costs_that_patient(toml: Path) -> None:
    """And leaves the others' shard as it is."""
    run(toml)
    write_cohort(toml.parent, BAGS | {"P5": 2})
    second = run(toml)
    assert second.extracted == 2 and same(bags_of(second), expected(toml))


def test_a_changed_image_is_embedded_again(toml: Path) -> None:
    """Alone; the rest of its bag is taken from the cache."""
    run(toml)
    draw(toml.parent / "images/P3/2.png", 999)
    second = run(toml)
    assert second.extracted == 1 and same(bags_of(second), expected(toml))
    assert run(toml).extracted == 0


def test_an_image_that_changes_back_costs_nothing(toml: Path) -> None:
    """Its first embedding is still in an older shard."""
    path = toml.parent / "images/P3/2.png"
    content, first = path.read_bytes(), run(toml)
    draw(path, 999)
    run(toml)
    path.write_bytes(content)
    third = run(toml)
    assert third.extracted == 0 and same(bags_of(third), expected(toml))
    assert FeatureCache.open(first.folder).versions("P3")[0].shard.sequence == 3


def test_touched_images_are_hashed_once(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The side file remembers; without it they are hashed again, no more."""
    hashed: list[Path] = []
    monkeypatch.setattr(plan_module, "digest_file", lambda path: (hashed.append(path), digest_file(path))[1])
    folder = run(toml).folder
    for path in (toml.parent / "images").rglob("*.png"):
        os.utime(path, (LONG_AGO + 7, LONG_AGO + 7))
    assert run(toml).extracted == 0 and len(hashed) == 11
    assert run(toml).extracted == 0 and len(hashed) == 11
    (folder / "rehashes.json").write_text('{"P1": {"0.png": [1, 2]}}')
    assert run(toml).extracted == 0 and len(hashed) == 22


def test_a_moved_image_folder_is_not_embedded_again(toml: Path, tmp_path: Path) -> None:
    """Names are those within the patient's folder."""
    run(toml)
    moved = tmp_path / "elsewhere" / "cohort"
    toml.parent.rename(moved.parent.mkdir() or moved)
    cohort = read_cohort(moved / "cohort.toml")
    again = extract(cohort, CONFIG, tmp_path / "cache", precision="float32", device="cpu")
    assert again.extracted == 0


def test_removed_and_renamed_images_cost_nothing(toml: Path) -> None:
    """The bag follows."""
    run(toml)
    folder = toml.parent / "images/P3"
    (folder / "0.png").unlink()
    (folder / "1.png").rename(folder / "9.png")
    second = run(toml)
    assert second.extracted == 0
    assert [*bags_of(second)["P3"]] == ["2.png", "3.png", "4.png", "9.png"]
    assert same(bags_of(second), expected(toml))


def test_a_change_behind_size_and_mtime_needs_rehash(toml: Path) -> None:
    """The documented limit of a stat, and the way around it."""
    run(toml)
    path = toml.parent / "images/P1/0.png"
    before = path.stat()
    draw(path, 999)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert run(toml).extracted == 0
    again = run(toml, rehash=True)
    assert again.extracted == 1 and same(bags_of(again), expected(toml))
    assert run(toml, rehash=True).extracted == 0


def test_a_fresh_mtime_is_not_trusted(toml: Path) -> None:
    """A second change within the clock's resolution is found, though size and mtime stay."""
    path = toml.parent / "images/P1/0.png"
    fresh = time.time() + 600  # still fresh after any delay of this test
    Image.new("RGB", (40, 40), (1, 2, 3)).save(path)
    os.utime(path, (fresh, fresh))
    first = run(toml)
    stored = FeatureCache.open(first.folder).winners(["P1"])[0].images
    assert [image.mtime_ns == UNKNOWN_MTIME for image in stored] == [True, False, False]
    before = path.stat()
    Image.new("RGB", (40, 40), (3, 2, 1)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    second = run(toml)
    assert second.extracted == 1 and same(bags_of(second), expected(toml))


def test_an_older_writers_bag_does_not_stay(toml: Path) -> None:
    """The final check: where another writer published other content last, ours is published again."""
    first = run(toml)
    cache = FeatureCache.open(first.folder)
    stale = EmbeddedBag("P1", (StoredImage("0.png", b"\1" * 32, 1, 1),), np.ones((1, 512), np.float16))
    cache.publish([stale], Recorded("float32", "pillow 1"))
    cache.refresh()
    assert cache.winners(["P1"])[0].digest == stale.digest
    again = run(toml)
    assert again.extracted == 0 and same(bags_of(again), expected(toml))


def test_a_writer_that_comes_between_is_answered(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process publishes stale content with the same sequence number while this one runs."""
    stale = EmbeddedBag("P1", (StoredImage("0.png", b"\1" * 32, 1, 1),), np.ones((1, 512), np.float16))
    publish, done = FeatureCache.publish, []

    def interfere(cache: FeatureCache, bags: Sequence[EmbeddedBag], recorded: Recorded) -> Path:
        path = publish(cache, bags, recorded)
        if not done:
            done.append(True)
            other = FeatureCache.open(cache.folder)
            publish(other, [stale], recorded)
        return path

    monkeypatch.setattr(FeatureCache, "publish", interfere)
    assert same(bags_of(run(toml)), expected(toml))


def test_images_that_never_stand_still_end_in_an_error(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in an endless run."""
    seeds = iter(range(1000, 2000))
    carry_out = extraction._Run.carry_out

    def carry_out_and_change(run: extraction._Run, plans: Sequence[extraction.Plan]) -> None:
        carry_out(run, plans)
        path = toml.parent / "images/P2/0.png"
        draw(path, next(seeds))
        os.utime(path, (LONG_AGO, LONG_AGO + next(seeds)))

    monkeypatch.setattr(extraction._Run, "carry_out", carry_out_and_change)
    with pytest.raises(DataError, match="changed while they were read, 3 times over: patients P2"):
        run(toml)


def test_another_precision_is_kept_and_told_but_not_mixed(
    toml: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A changed bag is embedded as a whole where the rest of it was computed otherwise."""
    run(toml, precision="bfloat16")
    draw(toml.parent / "images/P3/2.png", 999)
    with caplog.at_level("WARNING", "mil_toolkit"):
        second = run(toml, precision="float32")
    assert second.extracted == 5
    assert "were computed in bfloat16 with pillow" in caplog.text and "cosine" in caplog.text
    assert all(np.array_equal(row, expected(toml)["P3"][name]) for name, row in bags_of(second)["P3"].items())


@pytest.mark.parametrize(
    ("name", "limit", "patients"),
    [
        ("PATIENTS_PER_SHARD", 2, [("P1", "P2"), ("P3", "P4")]),
        ("IMAGES_PER_SHARD", 4, [("P1", "P2"), ("P3",), ("P4",)]),
        ("IMAGES_PER_SHARD", 5, [("P1", "P2", "P3"), ("P4",)]),
    ],
)
def test_shards_are_published_as_the_run_goes(
    toml: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, patients: list[tuple[str, ...]]
) -> None:
    """By patients, by images."""
    monkeypatch.setattr(extraction, name, limit)
    found = run(toml)
    assert sorted(shard.patient_ids for shard in FeatureCache.open(found.folder).shards) == patients
    assert same(bags_of(found), expected(toml))


def test_shards_are_published_by_time(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every finished patient at once where the time is always up."""
    monkeypatch.setattr(extraction, "SECONDS_PER_SHARD", 0.0)
    assert len(FeatureCache.open(run(toml, batch_size=1).folder).shards) == 4


# Images that cannot be read.


def break_some(toml: Path) -> list[str]:
    """Three bad images; returns what is said of each."""
    folder = toml.parent / "images"
    whole = (folder / "P1/1.png").read_bytes()
    (folder / "P1/1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "P2/0.png").write_bytes(b"")
    (folder / "P3/4.png").write_text("no image")
    return ["P1/1.png: cannot be decoded", "P2/0.png: the file is empty", "P3/4.png: not an image of"]


def test_all_bad_images_are_named_and_the_rest_is_published(toml: Path) -> None:
    """One run tells everything; only the patients without a bad image are in the cache."""
    said = break_some(toml)
    with pytest.raises(DataError) as caught:
        run(toml)
    assert len(caught.value.problems) == 4
    for part, line in zip(said, sorted(caught.value.problems[:3]), strict=True):
        assert part in line
    assert "--on-error skip" in caught.value.problems[3]
    (folder,) = (toml.parents[1] / "cache/c").iterdir()
    assert FeatureCache.open(folder).patient_ids == ("P4",)


def test_bad_images_can_be_left_out(toml: Path) -> None:
    """A patient without any other is reported, not stored empty; a second run adds nothing."""
    break_some(toml)
    found = run(toml, on_error="skip")
    assert len(found.skipped) == 3 and found.left_out == ("P2",)
    bags = bags_of(found)
    assert {patient: [*bag] for patient, bag in bags.items()} == {
        "P1": ["0.png", "2.png"],
        "P3": ["0.png", "1.png", "2.png", "3.png"],
        "P4": ["0.png", "1.png"],
    }
    files = sorted(found.folder.iterdir())
    again = run(toml, on_error="skip")
    assert again.skipped == found.skipped and again.extracted == 0
    assert sorted(found.folder.iterdir()) == files


def test_mended_images_join_their_bag(toml: Path) -> None:
    """After a run that left them out."""
    break_some(toml)
    run(toml, on_error="skip")
    for name, seed in (("P1/1.png", 101), ("P2/0.png", 200), ("P3/4.png", 304)):
        draw(toml.parent / "images" / name, seed)
    second = run(toml)
    assert second.extracted == 3 and not second.skipped and same(bags_of(second), expected(toml))


def test_a_broken_image_takes_its_old_embedding_with_it(toml: Path) -> None:
    """Left out, it is out of the bag; a patient with nothing but old embeddings is an error."""
    run(toml)
    break_some(toml)
    with pytest.raises(DataError, match="patient P2: no image is readable, and the cache holds older ones"):
        run(toml, on_error="skip")
    draw(toml.parent / "images/P2/0.png", 200)
    assert [*bags_of(run(toml, on_error="skip"))["P1"]] == ["0.png", "2.png"]


def test_an_image_that_vanishes_is_named(toml: Path) -> None:
    """Between the reading of the cohort and that of the image."""
    cohort = read_cohort(toml)
    (toml.parent / "images/P3/1.png").unlink()
    with pytest.raises(DataError, match=r"P3/1\.png: No such file"):
        extract(cohort, CONFIG, toml.parents[1] / "cache", precision="float32", device="cpu")


def test_too_small_an_image_for_the_crop_is_named(toml: Path) -> None:
    """With its size."""
    draw(toml.parent / "images/P1/0.png", 1)
    Image.new("RGB", (20, 30)).save(toml.parent / "images/P1/0.png")
    with pytest.raises(DataError, match=r"P1/0\.png: 20 x 30 pixels are fewer than a crop of 36"):
        extract(read_cohort(toml), replace(CONFIG, crop=36), toml.parents[1] / "cache", device="cpu")


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_crop_larger_than_every_image_is_a_wrong_option(toml: Path, dry_run: bool) -> None:
    """With the sizes that there are, before anything is written."""
    Image.new("RGB", (20, 30)).save(toml.parent / "images/P1/0.png")
    (toml.parent / "images/P1/1.png").write_bytes(b"")
    config = replace(CONFIG, crop=41)
    message = r"--crop 41: every image is smaller\. .* 48 x 40 \(9\), 20 x 30 \(1\)\. Choose a smaller crop"
    with pytest.raises(UsageError, match=message):
        extract(read_cohort(toml), config, toml.parents[1] / "cache", device="cpu", dry_run=dry_run)
    assert not (toml.parents[1] / "cache").exists()


def test_embeddings_beyond_float16_are_not_stored(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinity in one embedding would spoil every product with it."""
    monkeypatch.setattr(Embedder, "forward", lambda _, pixels: torch.full((len(pixels), 512), torch.inf))
    with pytest.raises(DataError) as caught:
        run(toml)
    cause, advice = caught.value.problems
    assert cause.startswith("11 of 11 images cannot be used: its embedding exceeds float16.")
    assert "P1/0.png, " in cause and cause.endswith("P3/0.png and 6 more.")
    assert advice == "11 images cannot be used. Mend or remove such images."


# Shares.


def test_shares_together_are_the_whole(toml: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every patient in exactly one, and the imbalance told."""
    with caplog.at_level("INFO", "mil_toolkit"):
        parts = [run(toml, share=Share(index, 3)) for index in range(3)]
    assert sum(part.patients for part in parts) == 4 and sum(part.extracted for part in parts) == 11
    assert same(bags_of(parts[0]), expected(toml))
    assert "times the mean share" in caplog.text
    assert run(toml).extracted == 0


SHARES = [3, 0, 0, 1, 3, 3, 2, 1]


def test_a_patients_share_depends_on_its_id_alone() -> None:
    """Fixed for good: other processes, perhaps with other versions, must agree."""
    assert [share_of(f"P{number}", 4) for number in range(8)] == SHARES
    counts = np.bincount([share_of(f"P{number}", 8) for number in range(8000)])
    assert len(counts) == 8 and counts.min() > 850
    assert imbalance([("a", 5)], 4) == 4.0 and imbalance([], 3) == 0.0


RANKS = {"RANK": "1", "WORLD_SIZE": "4"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "5"}
TASKS = {"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}


@pytest.mark.parametrize(
    ("text", "environment", "share"),
    [
        ("1/1", {}, Share(0, 1)),
        ("3/8", RANKS, Share(2, 8)),
        ("auto", RANKS, Share(1, 4)),
        ("auto", RANKS | ARRAY, Share(1, 4)),
        ("auto", ARRAY | TASKS, Share(2, 3)),
        ("auto", ARRAY | {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "2"}, Share(2, 3)),
        ("auto", TASKS, Share(2, 3)),
    ],
)
def test_parse_share(text: str, environment: dict[str, str], share: Share) -> None:
    """What the user says, or torchrun, or a Slurm array, or Slurm's tasks, in this order."""
    assert parse_share(text, environment) == share


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("0/4", {}, "I from 1 to N"),
        ("5/4", {}, "I from 1 to N"),
        ("1/0", {}, "I from 1 to N"),
        ("half", {}, "I from 1 to N"),
        ("auto", {}, "neither torchrun"),
        ("auto", ARRAY | {"SLURM_ARRAY_TASK_ID": "9"}, "array with gaps"),
    ],
)
def test_impossible_shares_are_refused(text: str, environment: dict[str, str], message: str) -> None:
    """With what would do."""
    with pytest.raises(UsageError, match=message):
        parse_share(text, environment)


# Options.


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"preprocess": "blur"}, {}, "'blur' is none of none, saturation-mask"),
        ({"image_size": 16}, {}, "^--image-size must be at least 32, not 16.$"),
        ({"crop": -1}, {}, "^--crop must be at least 0, not -1.$"),
        ({}, {"batch_size": 0}, "^--batch-size must be at least 1, not 0.$"),
        ({}, {"workers": -1}, "^--workers must be at least 0, not -1.$"),
        ({}, {"on_error": "ignore"}, "neither fail nor skip"),
    ],
)
def test_impossible_options_are_refused(
    toml: Path, change: dict[str, object], options: dict[str, object], message: str
) -> None:
    """Before anything is built or written."""
    with pytest.raises(UsageError, match=message):
        extract(read_cohort(toml), replace(CONFIG, **change), toml.parents[1] / "cache", **options)  # type: ignore[arg-type]
    assert not (toml.parents[1] / "cache").exists()


def test_every_option_that_changes_an_embedding_changes_the_folder(toml: Path, tmp_path: Path) -> None:
    """Embeddings of two specs never mix."""
    build_backbone("resnet18", "random")
    path = tmp_path / "own.pth"
    torch.save(
        {k: v + 0.01 for k, v in build_backbone("resnet18", "random").network.state_dict().items()}, path
    )
    changes: list[dict[str, object]] = [
        {},
        {"image_size": 40},
        {"crop": 30},
        {"preprocess": "saturation-mask"},
        {"weights": str(path)},
        {"backbone": "resnet34"},
    ]
    cohort = read_cohort(toml)
    folders = {extract(cohort, replace(CONFIG, **each), tmp_path, dry_run=True).folder for each in changes}  # type: ignore[arg-type]
    assert len(folders) == len(changes)


def test_a_dry_run_writes_nothing(toml: Path) -> None:
    """It counts what is missing, with and without a cache."""
    found = run(toml, dry_run=True)
    assert found.extracted == 11 and not found.folder.parents[1].exists()
    run(toml)
    files = sorted(found.folder.iterdir())
    assert run(toml, dry_run=True).extracted == 0
    draw(toml.parent / "images/P1/0.png", 77)
    os.utime(toml.parent / "images/P2/0.png", (LONG_AGO, LONG_AGO + 9))
    assert run(toml, dry_run=True).extracted == 1
    assert sorted(found.folder.iterdir()) == files


def test_rehashes_survive_any_file(tmp_path: Path) -> None:
    """What cannot be read is left aside; names may hold any bytes."""
    name = os.fsdecode(b"\xff\n.png")
    rehashes = Rehashes(tmp_path)
    rehashes.remember("P1", name, 5, 7, b"\2" * 32)
    rehashes.save()
    assert Rehashes(tmp_path).get("P1", name, 5, 7) == b"\2" * 32
    assert Rehashes(tmp_path).get("P1", name, 5, 8) is None
    for text in ("{", "[]", '{"P1": 3}', '{"P1": {"a": ["5", 7, "00"]}}', '{"P1": {"a": [5, 7, "zz"]}}'):
        rehashes.path.write_text(text)
        assert Rehashes(tmp_path).get("P1", "a", 5, 7) is None


# The command.

ARGUMENTS = ["--backbone", "resnet18", "--weights", "random", "--image-size", "32", "--device", "cpu"]


def command(toml: Path, *more: str) -> int:
    """mil-extract on the tiny cohort."""
    return main([str(toml), *ARGUMENTS, "--cache", str(toml.parents[1] / "cache"), *more])


def test_the_command_prints_the_folder_alone(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that FEATURES=$(mil-extract cohort.toml) works; the summary is on stderr."""
    assert command(toml) == 0
    out, err = capsys.readouterr()
    assert FeatureCache.open(Path(out.removesuffix("\n"))).patient_ids == tuple(BAGS)
    assert "4 patients, 11 images: 11 embedded, 0 skipped" in err


def test_the_command_prints_json(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object with the stated keys."""
    assert command(toml, "--json", "--on-error", "skip", "--workers", "2", "--batch-size", "3") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["patients"] == 4 and told["images"] == told["extracted"] == 11 and told["skipped"] == []
    assert told["images_per_second"] > 0 and Path(told["features"]).is_dir()


def test_exit_codes(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2 usage, 3 bad data, 4 with images skipped; never a traceback, nothing on stdout but a result."""
    assert command(toml, "--shard", "9/4") == 2
    assert command(toml, "--weights", "absent.pth") == 2
    assert command(toml.with_name("absent.toml")) == 3
    break_some(toml)
    assert command(toml) == 3
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and "P1/1.png: cannot be decoded" in err
    assert command(toml, "--on-error", "skip") == 4
    out, err = capsys.readouterr()
    assert Path(out.removesuffix("\n")).is_dir()
    assert "skipped" in err and "patient P2 has no readable image" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_cuda_is_asked_for_where_there_is_none(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A word, no fall-back."""
    assert command(toml, "--device", "cuda") == 2
    assert "this machine has 0 usable for CUDA" in capsys.readouterr().err


def test_shard_auto_reads_the_environment(
    toml: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torchrun would set it."""
    total = 0
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert command(toml, "--shard", "auto", "--json") == 0
        total += json.loads(capsys.readouterr().out)["extracted"]
    assert total == 11


def test_help_needs_no_torch() -> None:
    """It answers at once, since nothing heavy is imported."""
    code = "import sys; from mil_toolkit.cli.extract import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'h5py', 'pandas')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--on-error" in done.stdout


def test_the_real_cohort(tmp_path: Path) -> None:
    """A few patients of it, twice; skipped where it is not at hand."""
    if not REAL.is_dir():
        assert os.environ.get("CI") != "true", "the real cohort is missing"
        pytest.skip("the real cohort is not beside the repository")
    folder = tmp_path / "cohort"
    patients = sorted(path.name for path in (REAL / "trainset").iterdir())[:3]
    (folder / "images").mkdir(parents=True)
    for patient in patients:
        (folder / "images" / patient).symlink_to(REAL / "trainset" / patient)
    toml = write_cohort(folder, dict.fromkeys(patients, 0))
    first = extract(read_cohort(toml), replace(CONFIG, image_size=64), tmp_path / "cache", device="cpu")
    assert first.extracted == first.images >= 48
    again = extract(read_cohort(toml), replace(CONFIG, image_size=64), tmp_path / "cache", device="cpu")
    assert again.extracted == 0

"""`extract` with other orientations of each image."""

import hashlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.commands import Command
from support.tiny_images import CONFIG, backbone, bags_of, break_some, draw, run, same, write_cohort

from mil_toolkit.backbones.embedder import Embedder
from mil_toolkit.cohort.cohort import read_cohort
from mil_toolkit.config.extraction import ExtractionConfig
from mil_toolkit.core.errors import UsageError
from mil_toolkit.features import extract as extract_module
from mil_toolkit.features.cache import FeatureCache
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.export import export_cache
from mil_toolkit.features.extract import Extraction, extract
from mil_toolkit.features.orientations import symmetries_of, turn
from mil_toolkit.features.pixels import prepare
from mil_toolkit.features.upkeep import summarise_cache, verify

pytestmark = pytest.mark.usefixtures("built_once")
AUGMENTED = replace(CONFIG, augment=3)


def run_augmented(toml: Path, config: ExtractionConfig = AUGMENTED, **options: object) -> Extraction:
    options = {"precision": "float32", "device": "cpu", "batch_size": 4, **options}
    return extract(read_cohort(toml), config, toml.parents[1] / "cache", **options)  # type: ignore[arg-type]


def orientations(extraction: Extraction) -> dict[tuple[str, str], np.ndarray]:
    """Return the embeddings (1 + A, D) by patient and image name."""
    cache = FeatureCache.open(extraction.folder)
    return {
        (bag.patient_id, name): embeddings
        for bag in cache.winners(cache.patient_ids)
        for name, embeddings in zip(bag.read_names(), bag.orientations(0, bag.size), strict=True)
    }


def expected(toml: Path, augment: int = 3) -> dict[tuple[str, str], np.ndarray]:
    """Embed each image in each orientation alone, in a batch of four whose other images are black."""
    embedder = Embedder(backbone("resnet18", "random"), torch.device("cpu"), torch.float32, (4, 32))

    def embed(path: Path) -> np.ndarray:
        pixels, rows = prepare(decode(path.read_bytes()), 32, 0, "none"), []
        content = hashlib.sha256(path.read_bytes()).digest()
        for symmetry in symmetries_of(content, augment):
            batch = np.zeros((4, 32, 32, 3), dtype=np.uint8)
            batch[0] = turn(pixels, symmetry)
            rows.append(embedder(torch.from_numpy(batch))[0].numpy())
        return np.stack(rows)

    paths = sorted((toml.parent / "images").glob("*/*.png"))
    return {(path.parent.name, path.name): embed(path) for path in paths}


def equal(one: dict[tuple[str, str], np.ndarray], other: dict[tuple[str, str], np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_every_orientation_is_embedded_as_if_it_were_alone(toml: Path) -> None:
    """And the image as it is gets the bits that it has without augmentation."""
    plain, augmented = run(toml), run_augmented(toml)
    assert (augmented.images, augmented.extracted) == (11, 11) and augmented.folder != plain.folder
    assert equal(orientations(augmented), expected(toml))
    assert same(bags_of(augmented), bags_of(plain))
    assert all(len({row.tobytes() for row in rows}) == 4 for rows in orientations(augmented).values())
    assert verify(augmented.folder) == verify(plain.folder) == 1


def test_the_spec_and_the_folder_say_it(toml: Path) -> None:
    folder = run_augmented(toml).folder
    summary = summarise_cache(folder)
    assert summary.spec["augment"] == {"count": 3, "rule": "square-symmetries-1"}
    assert "-augment3-" in folder.name and (summary.patients, summary.images) == (4, 11)
    assert "augment" not in summarise_cache(run(toml).folder).spec


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_change_any_bit(
    toml: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_module, "available_cores", lambda: 4)
    assert equal(orientations(run_augmented(toml, threads=threads)), expected(toml))


def test_only_what_is_missing_or_changed_is_embedded_again(toml: Path) -> None:
    run_augmented(toml)
    assert run_augmented(toml).extracted == 0
    images = toml.parent / "images"
    draw(images / "P3" / "2.png", 999)
    write_cohort(toml.parent, {"P1": 3, "P2": 1, "P3": 5, "P4": 3})
    (images / "P1" / "0.png").rename(images / "P1" / "9.png")  # the same content, so the same orientations
    again = run_augmented(toml)
    assert again.extracted == 2
    assert equal(orientations(again), expected(toml))


def test_unreadable_images_are_left_out_in_all_orientations(toml: Path) -> None:
    break_some(toml)
    done = run_augmented(toml, on_error="skip")
    assert len(done.skipped) == 3 and done.left_out == ("P2",)
    present = orientations(done)
    whole = {("P1", "0.png"), ("P1", "2.png"), *(("P3", f"{row}.png") for row in range(4))}
    assert {*present} == whole | {("P4", "0.png"), ("P4", "1.png")}
    assert all(rows.shape == (4, 512) for rows in present.values())


def test_all_eight_symmetries_are_the_most(toml: Path) -> None:
    rows = orientations(run_augmented(toml, replace(CONFIG, augment=7)))
    assert equal(rows, expected(toml, 7))
    for count in (-1, 8):
        with pytest.raises(UsageError, match=f"--augment must be between 0 and 7, not {count}"):
            run_augmented(toml, replace(CONFIG, augment=count))


def test_exported_features_are_those_of_the_images_as_they_are(toml: Path, tmp_path: Path) -> None:
    files = []
    for number, done in enumerate((run(toml), run_augmented(toml))):
        export_cache(FeatureCache.open(done.folder), "trident", tmp_path / str(number))

        with h5py.File(tmp_path / str(number) / "P3.h5") as file:
            files.append(file["features"][()])
    assert np.array_equal(*files)


def test_the_command_embeds_orientations(toml: Path, tmp_path: Path, command: Command) -> None:
    options = ["--backbone", "resnet18", "--weights", "random", "--image-size", 32, "--cache", tmp_path / "c"]
    done = command("extract", toml, *options, "--augment", 2)
    folder = Path(done.out.strip())
    assert done.code == 0 and FeatureCache.open(folder).spec["augment"]["count"] == 2
    assert '"count": 2' in command("cache", "info", folder).out
    refused = command("extract", toml, *options, "--augment", 8)
    assert refused.code == 2 and "--augment must be between 0 and 7, not 8" in refused.err

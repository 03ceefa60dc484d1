"""The synthetic cohort: the same bytes for the same seed, and a signal only where there should be one."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import mannwhitneyu

from mil_toolkit.cohort import synthetic
from mil_toolkit.cohort.cohort import Cohort, read_cohort
from mil_toolkit.cohort.synthetic import draw_cohort
from mil_toolkit.cohort.synthetic_outcomes import TUMORAL_IMAGES
from mil_toolkit.core.errors import UsageError

PATIENTS, UNLABELLED = 40, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn cohort of small images."""
    folder = tmp_path_factory.mktemp("synthetic") / "cohort"
    draw_cohort(folder, PATIENTS, UNLABELLED, seed=4, image_size=40, images=(6, 18))
    return folder


@pytest.fixture(scope="module")
def cohort(folder: Path) -> Cohort:
    """The cohort as the other stages read it."""
    return read_cohort(folder / "cohort.toml")


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def truth(folder: Path) -> dict[str, list[int]]:
    """The signals of each patient's images, in the order of their names."""
    signals: dict[str, list[int]] = {}
    with (folder / "truth.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            signals.setdefault(row["patient"], []).append(int(row["signal"]))
    return signals


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path) -> None:
    settings = {"patients": 4, "unlabelled": 1, "image_size": 24, "images": (1, 3)}
    first, second, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    draw_cohort(first, seed=1, **settings)  # type: ignore[arg-type]
    draw_cohort(second, seed=1, **settings)  # type: ignore[arg-type]
    draw_cohort(other, seed=2, **settings)  # type: ignore[arg-type]
    assert content(first) == content(second)
    assert content(first) != content(other)


def test_the_cohort_has_the_requested_patients_and_images(folder: Path, cohort: Cohort) -> None:
    assert (len(cohort.labelled()), len(cohort.unlabelled())) == (PATIENTS, UNLABELLED)
    assert int((cohort.labels == 1).sum()) == 24
    sizes = {len(images) for images in cohort.images.values()}
    assert min(sizes) >= 6 and max(sizes) <= 18 and len(sizes) > 3
    with Image.open(cohort.images["P001"][0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (40, 40))


def test_some_metadata_are_missing_but_no_birth_dates(cohort: Cohort) -> None:
    missing = cohort.metadata.isna().sum()
    assert missing["age"] == 0
    assert 0 < missing["sex"] + missing["lymphocyte_count"] < 0.2 * len(cohort)
    assert cohort.metadata["age"].between(17, 96).all()


def test_the_truth_is_the_label_image_by_image(folder: Path, cohort: Cohort) -> None:
    signals = truth(folder)
    assert {patient: len(images) for patient, images in cohort.images.items()} == {
        patient: len(shown) for patient, shown in signals.items()
    }
    for patient, label in zip(cohort.patient_ids, cohort.labels, strict=True):
        share = np.mean(signals[patient])
        if label == 0:
            assert share == 0
        elif label == 1:
            one = 1 / len(signals[patient])  # the count is rounded up
            assert TUMORAL_IMAGES[0] <= share < TUMORAL_IMAGES[1] + one


def test_tumoral_images_show_larger_and_paler_nuclei(folder: Path, cohort: Cohort) -> None:
    """Their violet fills more of the image than in others, so the two can be told apart."""
    violet: dict[int, list[float]] = {0: [], 1: []}
    for patient, signals in truth(folder).items():
        for path, signal in zip(cohort.images[patient], signals, strict=True):
            with Image.open(path) as image:
                red, green, blue = np.moveaxis(np.asarray(image, dtype=float), -1, 0)
            violet[signal].append(float(((red > 95) & (green < 120) & (blue > green + 25)).mean()))
    auc = mannwhitneyu(violet[1], violet[0]).statistic / (len(violet[0]) * len(violet[1]))
    assert auc > 0.9


def test_metadata_carry_part_of_the_signal_and_the_bag_size_a_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "_draw_bag", lambda *_: None)  # 1,000 patients without their images
    draw_cohort(tmp_path / "many", patients=1000, unlabelled=0)
    many = read_cohort(tmp_path / "many" / "cohort.toml", images=False)
    sizes = {patient: len(signals) for patient, signals in truth(tmp_path / "many").items()}
    tumoral = many.labels == 1

    def auc(values: np.ndarray) -> float:
        known = ~np.isnan(values)
        ones, zeros = values[known & tumoral], values[known & ~tumoral]
        return float(mannwhitneyu(ones, zeros).statistic / (len(ones) * len(zeros)))

    assert 0.7 < auc(many.metadata["age"].to_numpy()) < 0.85
    assert 0.7 < auc(many.metadata["lymphocyte_count"].to_numpy()) < 0.85
    assert 0.55 < auc(np.array([sizes[patient] for patient in many.patient_ids], dtype=float)) < 0.7
    assert abs(auc((many.metadata["sex"] == "M").to_numpy(dtype=float)) - 0.5) < 0.06


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    draw_cohort(tmp_path / "empty", patients=2, unlabelled=0, image_size=16, images=(1, 1))
    before = content(tmp_path / "empty")
    with pytest.raises(UsageError, match="not an empty folder"):
        draw_cohort(tmp_path / "empty")
    assert content(tmp_path / "empty") == before
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        draw_cohort(tmp_path / "file")


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = 0

    def interrupted(*_: object) -> None:
        nonlocal drawn
        drawn += 1
        if drawn == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_draw_bag", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw_cohort(tmp_path / "deep" / "cohort", patients=4, unlabelled=0)
    assert list((tmp_path / "deep").iterdir()) == []


def test_cells_that_are_placed_uniformly_lie_where_truth_csv_says(tmp_path: Path) -> None:
    draw_cohort(tmp_path / "c", 6, 0, seed=2, image_size=64, images=(3, 4), uniform=True)
    with (tmp_path / "c" / "truth.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    places = np.array([[float(row[name]) for name in ("row", "column", "radius")] for row in rows])
    assert places[:, :2].min() < 20 and places[:, :2].max() > 44  # not only at the centre
    assert ((places[:, 2] > 0.1 * 64) & (places[:, 2] < 0.28 * 64)).all()
    darker = []
    for row, (down, right, radius) in zip(rows, places, strict=True):
        path = tmp_path / "c" / "images" / row["patient"] / row["image"]
        pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
        rows_, columns = np.mgrid[:64, :64]
        inside = np.hypot(rows_ - down, columns - right) < 0.6 * radius
        darker.append(pixels[inside].mean() < pixels[~inside].mean() - 30)
    assert np.mean(darker) > 0.9
    assert read_cohort(tmp_path / "c" / "cohort.toml").patient_ids[0] == "P001"

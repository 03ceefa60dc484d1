"""Which files of another tool's folder are read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import Command
from support.foreign_files import write_features

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.features.feature_files import find_feature_files
from mil_toolkit.features.imports import import_features
from mil_toolkit.features.layouts import SOURCES


def write_tensor(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(values), path)


def slides(count: int) -> dict[str, np.ndarray]:
    return {f"s{number}": np.full((2, 3), number, np.float32) for number in range(1, count + 1)}


def test_the_union_of_both_folders_of_clam_is_imported(tmp_path: Path, command: Command) -> None:
    """One slide in h5_files, three in pt_files; the slides that one folder lacks are counted and named."""
    for name, features in slides(3).items():
        write_tensor(tmp_path / f"f/pt_files/{name}.pt", features)
    write_features(tmp_path / "f/h5_files/s1.h5", slides(1)["s1"], encoder=None)
    options = ("--format", "clam", "--encoder", "net", "--cohort", "c", "--cache", tmp_path / "cache")
    done = command("cache", "import", tmp_path / "f", *options, "--json")
    assert done.code == 0 and done.json["patients"] == 3
    assert "f/h5_files lacks 2 of 3 slides, read from pt_files instead: s2, s3." in done.err
    write_features(tmp_path / "f/h5_files/s4.h5", encoder=None)
    done = command("cache", "import", tmp_path / "f", *options, "--json")
    assert done.json["patients"] == 4
    assert "f/pt_files lacks 1 of 4 slides, read from h5_files instead: s4." in done.err


def test_an_empty_h5_files_leaves_the_tensors(tmp_path: Path) -> None:
    (tmp_path / "f/h5_files").mkdir(parents=True)
    write_tensor(tmp_path / "f/pt_files/s1.pt", slides(1)["s1"])
    assert import_features(tmp_path / "f", "clam", tmp_path, "c", "net").patient_ids == ("s1",)


@pytest.mark.parametrize("kind", ["other values", "other rows", "unreadable"])
def test_a_twin_with_other_features_is_named(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The HDF5 file is imported."""
    for name, features in slides(3).items():
        write_features(tmp_path / f"f/h5_files/{name}.h5", features, encoder=None)
        write_tensor(tmp_path / f"f/pt_files/{name}.pt", features)
    twin = tmp_path / "f/pt_files/s2.pt"
    changes = {"other values": np.zeros((2, 3), np.float32), "other rows": np.ones((5, 3), np.float32)}
    write_tensor(twin, changes[kind]) if kind in changes else twin.write_bytes(b"PK")
    cache = import_features(tmp_path / "f", "clam", tmp_path, "c", "net")
    assert (cache.bags(["s2"]).instances == 2).all()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and "For 1 file, " in warnings[0]
    assert "h5_files/s2.h5." in warnings[0] and "s1" not in warnings[0]


def test_twins_with_the_same_features_are_not_mentioned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, features in slides(2).items():
        write_features(tmp_path / f"f/h5_files/{name}.h5", features, encoder=None)
        write_tensor(tmp_path / f"f/pt_files/{name}.pt", features)
    assert import_features(tmp_path / "f", "clam", tmp_path, "c", "net").patient_ids == ("s1", "s2")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_twins_in_one_folder_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for ending in ("h5", "npy"):
        path = tmp_path / f"f/P1.{ending}"
        write_features(path) if ending == "h5" else np.save(path, np.zeros((2, 3), np.float32))
    cache = import_features(tmp_path / "f", "bags", tmp_path, "c")
    assert cache.bags(["P1"]).instances.tolist() == [[1, 1, 1]] * 2 and "P1.h5" in caplog.text


@pytest.mark.parametrize("junk", ["._P1.h5", ".P1.h5", "__MACOSX/P1.h5", "@eaDir/P1.h5", ".cache/P2.h5"])
def test_hidden_files_are_passed_over(tmp_path: Path, junk: str) -> None:
    write_features(tmp_path / "f/P1.h5")
    (tmp_path / "f" / junk).parent.mkdir(exist_ok=True)
    (tmp_path / "f" / junk).write_bytes(b"\0\5\26\7")
    assert import_features(tmp_path / "f", "trident", tmp_path, "c").patient_ids == ("P1",)


def test_endings_in_upper_case_are_read(tmp_path: Path) -> None:
    write_features(tmp_path / "f/P1.H5")
    assert [*find_feature_files(tmp_path / "f", SOURCES["trident"])] == ["P1"]


def test_a_folder_without_files_names_where_they_were_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        find_feature_files(tmp_path / "nowhere", SOURCES["clam"])
    for name in ("h5_files", "pt_files"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"h5_files and .*/pt_files: no files that end in \.h5 or \.pt"):
        find_feature_files(tmp_path, SOURCES["clam"])

"""What the files of an import must have in common."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from support.foreign_files import Attribute, write_features

from mil_toolkit.core.errors import DataError, UsageError
from mil_toolkit.features.imports import import_features

NAMES: dict[str, Attribute] = {
    "text": "uni_v1",
    "bytes": b"uni_v1",
    "NumPy bytes": np.bytes_("uni_v1"),
    "array of bytes": np.array([b"uni_v1"]),
    "array of text": np.array(["uni_v1"], dtype=h5py.string_dtype()),
    "spaces": " uni_v1\n",
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("format", ["trident", "stamp"])
def test_the_name_of_the_encoder_is_read_from_every_type(tmp_path: Path, kind: str, format: str) -> None:
    """And files with names of different types agree."""
    for name, encoder in (("a", NAMES[kind]), ("b", "uni_v1")):
        if format == "stamp":
            path = tmp_path / f"f/{name}.h5"
            write_features(path, name="feats", encoder=None, file={"extractor": encoder})
        else:
            write_features(tmp_path / f"f/{name}.h5", encoder=encoder)
    assert import_features(tmp_path / "f", format, tmp_path, "c").spec["backbone"] == "uni_v1"


@pytest.mark.parametrize("format", ["clam", "trident", "bags"])
@pytest.mark.parametrize("encoder", ["conch", b"conch"])
def test_the_option_does_not_override_what_the_files_say(
    tmp_path: Path, format: str, encoder: Attribute
) -> None:
    """Whichever tool the files are said to be from; both names are reported."""
    write_features(tmp_path / "f/a.h5", encoder=encoder)
    with pytest.raises(DataError, match=r"--encoder uni: the files say conch, as .*a\.h5 does"):
        import_features(tmp_path / "f", format, tmp_path, "c", "uni")
    assert import_features(tmp_path / "f", format, tmp_path, "c", " conch ").spec["backbone"] == "conch"


def test_the_option_names_the_encoder_of_files_that_do_not_say(tmp_path: Path) -> None:
    write_features(tmp_path / "f/a.h5", encoder="uni_v1")
    for name, encoder in (("b", None), ("c", "None"), ("d", "")):
        write_features(tmp_path / f"f/{name}.h5", encoder=encoder)
    with pytest.raises(DataError) as caught:
        import_features(tmp_path / "f", "trident", tmp_path, "c")
    assert [line.split(":")[0][-4:] for line in caught.value.problems] == ["b.h5", "c.h5", "d.h5"]
    assert import_features(tmp_path / "f", "trident", tmp_path, "c", "uni_v1").spec["backbone"] == "uni_v1"
    with pytest.raises(DataError, match="--encoder conch: the files say uni_v1"):
        import_features(tmp_path / "f", "trident", tmp_path, "c", "conch")


def test_a_file_with_two_names_is_refused(tmp_path: Path) -> None:
    write_features(tmp_path / "f/a.h5", encoder="uni_v1", file={"extractor": "conch"})
    with pytest.raises(DataError, match=r"a\.h5 cannot be read: it names several encoders: conch, uni_v1"):
        import_features(tmp_path / "f", "trident", tmp_path, "c")


@pytest.mark.parametrize("encoder", ["", "  "])
def test_the_option_must_not_be_blank(tmp_path: Path, encoder: str) -> None:
    write_features(tmp_path / "f/a.h5", encoder=None)
    with pytest.raises(UsageError, match="--encoder is empty"):
        import_features(tmp_path / "f", "trident", tmp_path, "c", encoder)

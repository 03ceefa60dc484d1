"""What float16 cannot hold."""

from pathlib import Path

import numpy as np
import pytest
from support.foreign_files import write_features

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.half_precision import to_float16
from mil_toolkit.features.imports import import_features

RANDOM = np.random.default_rng(0).standard_normal((50, 4))


@pytest.mark.parametrize("scale", [1e-8, 1e-6, 1e-12, 1e-300])
def test_features_that_are_too_small_are_refused_with_slide_and_value(tmp_path: Path, scale: float) -> None:
    """Whether they become zero or only lose digits; every such file is named."""
    for number, factor in enumerate((1, scale, scale)):
        write_features(tmp_path / f"f/P{number}.h5", RANDOM * factor)
    with pytest.raises(DataError) as caught:
        import_features(tmp_path / "f", "trident", tmp_path / "cache", "c")
    assert len(caught.value.problems) == 2 and not (tmp_path / "cache").exists()
    assert f"f/P1.h5: values of at most {np.abs(RANDOM * scale).max():.3g} are too small" in str(caught.value)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-4, 1e4])
def test_features_of_usual_size_are_imported_without_a_warning(
    tmp_path: Path, scale: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if some values are tiny beside others of their column, or all are zero."""
    features = np.abs(RANDOM) * scale
    features[::3] = 1e-12
    features[:, 2] = 0
    write_features(tmp_path / "f/P1.h5", features)
    cache = import_features(tmp_path / "f", "trident", tmp_path, "c")
    assert np.allclose(cache.bags(["P1"]).instances, features, rtol=2**-10, atol=1e-7)
    assert "too small" not in caplog.text


def test_columns_that_are_too_small_in_all_files_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A column that is small in one file but not in another is not among them."""
    one = RANDOM * [1, 1e-8, 1e-9, 1]
    other = RANDOM * [1, 2e-8, 1, 1]
    write_features(tmp_path / "f/P1.h5", one)
    write_features(tmp_path / "f/P2.h5", other)
    import_features(tmp_path / "f", "trident", tmp_path, "c")
    assert "1 of 4 columns hold only values that are too small for float16" in caplog.text
    assert f"The largest value is {np.abs(other[:, 1]).max():.3g}, in column 1 of" in caplog.text
    assert "f/P2.h5." in caplog.text


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_small_values_that_float16_holds_exactly_are_not_lost(tmp_path: Path, dtype: type) -> None:
    """As in files of STAMP, and in exports of a cache."""
    features = (RANDOM * 1e-6).astype(np.float16).astype(dtype)
    write_features(tmp_path / "f/P1.h5", features)
    cache = import_features(tmp_path / "f", "trident", tmp_path, "c")
    assert np.array_equal(cache.bags(["P1"]).instances, features)


def test_values_beyond_float16_are_refused() -> None:
    with pytest.raises(DataError, match=r"x: values of up to 7e\+04 exceed float16"):
        to_float16(Path("x"), np.full((2, 3), 7e4))

"""The logs that commands leave beside what they write."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.commands import Command
from support.studies import Tiny
from support.tiny_images import BAGS, write_cohort

from mil_toolkit.core.run_log import LOG


def runs(folder: Path) -> list[list[str]]:
    """Return the messages of each run in the log of a folder, in order."""
    lines = [re.sub(r"^\S+ \S+ \[\d+\] ", "", line) for line in (folder / LOG).read_text().splitlines()]
    begun = [place for place, line in enumerate(lines) if line.startswith("mil_toolkit ")]
    return [lines[first:last] for first, last in zip(begun, [*begun[1:], len(lines)], strict=True)]


def test_tuning_logs_its_stages_in_the_study(
    tiny_options: Sequence[object], tmp_path: Path, command: Command
) -> None:
    study = tmp_path / "study"
    assert command("tune", *tiny_options, "--study", study, "--outer-folds", 0, "--quiet").code == 0
    (lines,) = runs(study)
    text = "\n".join(lines)
    assert ": mil-tune " in lines[0] and f"--study {study}" in lines[0]
    for stage in ("Reading the cohort", "The audit of the data", "The searches", "The report"):
        assert re.search(rf"^{stage} took \d", text, re.MULTILINE), stage
    assert "torch" in text and lines[-1].startswith("Ended with exit code 0 after ")

    assert command("tune", *tiny_options, "--study", study, "--outer-folds", 0, "--seed", 7).code == 3
    assert len(runs(study)) == 1  # a command that refuses to begin leaves nothing


def test_fits_append_to_the_log_of_the_study_and_not_to_the_bundle(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    study = Path(shutil.copytree(tiny.study, tmp_path / "study"))
    (study / LOG).write_text("2026-01-01 00:00:00+00:00 [1] an older line\n")
    call = ("fit", tiny.cohort_toml, "--study", study, "--features", tiny.features)
    assert command(*call).code == 0
    first = {path.name: path.read_bytes() for path in (study / "model").iterdir()}
    assert command(*call).code == 0
    assert {path.name: path.read_bytes() for path in (study / "model").iterdir()} == first
    assert LOG not in first and (study / LOG).read_text().startswith("2026-01-01 ")
    assert [lines[-1][:23] for lines in runs(study)] == ["Ended with exit code 0 "] * 2
    assert all(any("Fitting the head took" in line for line in lines) for lines in runs(study))


def test_an_extraction_logs_in_its_cache_if_it_embeds_anything(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cohort(tmp_path, BAGS)
    monkeypatch.chdir(tmp_path)
    call = ("extract", "cohort.toml", "--backbone", "resnet18", "--weights", "random", "--image-size", "32")
    folder = Path(command(*call).out.strip())
    (lines,) = runs(folder)
    assert "--backbone resnet18" in lines[0] and any(line.startswith("Embedding took") for line in lines)
    assert command(*call).code == 0 and len(runs(folder)) == 1  # nothing was left to embed
    assert command("cache", "verify", folder).code == 0


def test_a_fit_without_a_place_for_its_log_says_so_and_goes_on(
    tiny: Tiny, tmp_path: Path, command: Command
) -> None:
    study = Path(shutil.copytree(tiny.study, tmp_path / "study"))
    (study / LOG).unlink(missing_ok=True)
    (study / LOG).mkdir()
    output = tmp_path / "model"
    call = ("fit", tiny.cohort_toml, "--study", study, "--features", tiny.features, "--output", output)
    done = command(*call)
    assert done.code == 0 and done.err.count("This command runs without a log.") == 1
    assert str(study / LOG) in done.err and (output / "config.json").exists()

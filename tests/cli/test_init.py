"""The command mil-init: its output, its exit codes, and what it refuses."""

import json
import os
from pathlib import Path

import pytest
from support.drafts import with_column, write_data

from mil_toolkit.cli.init import main


def test_the_command_prints_the_doubts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write_data(tmp_path, with_column("N", "1", "2", "5", "9"))
    output = tmp_path / "cohort.toml"
    assert main([str(table), str(images), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{output}: 4 patients.")
    assert "- LABEL 1 is taken as positive, 0 as negative." in printed
    assert "cannot be read" not in printed


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write_data(tmp_path, with_column("N", "1", "2", "5", "9"), "P1 P2 P3")
    assert main([str(table), str(images), "--output", str(tmp_path / "c.toml"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["output"], printed["patients"]) == (str(tmp_path / "c.toml"), 4)
    assert any("LABEL 1" in doubt for doubt in printed["doubts"])
    assert printed["problems"] == ["table.csv: patient P4 has no images in images."]


def test_an_existing_file_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write_data(tmp_path, with_column("N", "1", "2", "5", "9"))
    output = tmp_path / "cohort.toml"
    output.write_text("mine")
    assert main([str(table), str(images), "--output", str(output)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert output.read_text() == "mine"


def test_bad_data_exits_with_3_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write_data(tmp_path, "ID,LABEL\nP1,1,2\nP2\n")
    arguments = [str(table), str(images), "--output", str(tmp_path / "cohort.toml")]
    assert main(arguments) == 3
    errors = capsys.readouterr().err
    assert "row 2: 3 cells" in errors and "row 3: 1 cell," in errors and "Traceback" not in errors
    assert main([str(table), str(tmp_path / "none"), str(table), *arguments[2:]]) == 3
    assert capsys.readouterr().err.count("cannot be read") == 2
    assert main([str(tmp_path / "none.csv"), *arguments[1:]]) == 3
    assert "cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "cohort.toml").exists()


def test_an_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write_data(tmp_path, with_column("N", "1", "2", "5", "9"))
    assert main([str(table), str(images), "--output", str(table / "cohort.toml")]) == 2
    errors = capsys.readouterr().err
    assert "cannot be written" in errors and "Traceback" not in errors


def test_a_path_that_is_not_unicode_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, images = write_data(tmp_path / os.fsdecode(b"caf\xe9"), with_column("N", "1", "2", "5", "9"))
    assert main([str(table), str(images), "--output", str(tmp_path / "cohort.toml")]) == 3
    assert "is not UTF-8" in capsys.readouterr().err

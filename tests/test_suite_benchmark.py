"""The benchmark of this test suite, on a suite of two tests."""

import subprocess
import sys
from pathlib import Path

from support.paths import ROOT

BURN = "import time\nwhile time.process_time() < {}: pass\n"


def test_processor_time_is_counted_by_folder_and_file_with_that_of_children(tmp_path: Path) -> None:
    own, others = tmp_path / "tests" / "own", tmp_path / "tests" / "others" / "deeper"
    for folder in (own, others):
        folder.mkdir(parents=True)
    (own / "test_own.py").write_text("def test_own(): pass\n")
    child = f"subprocess.run([sys.executable, '-c', {BURN.format(0.3)!r}], check=True)"
    (others / "test_child.py").write_text(f"import subprocess, sys\ndef test_child(): {child}\n")
    (others / "test_fails.py").write_text("def test_fails(): assert 0\n")
    script = [sys.executable, str(ROOT / "benchmarks" / "suite.py"), "--most", "2", "tests"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # as pytest's own
    folders, files = (
        {line.split(maxsplit=1)[1]: float(line.split()[0]) for line in table.splitlines()[1:] if line}
        for table in done.stdout.split("processor seconds  ")[1:]
    )
    assert folders.keys() == {"(start and collection)", "tests/own", "tests/others"}
    assert folders["tests/others"] >= 0.3 and files["tests/others/deeper/test_child.py"] >= 0.3
    assert len(files) == 3 and files["in all"] >= folders["(start and collection)"] > 0

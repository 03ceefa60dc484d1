"""Sections of tests/bad_inputs.md, each of which the tests that produce its messages hold to what happens."""

import re
from collections.abc import Iterable, Sequence

from support.paths import ROOT

TABLE = ROOT / "tests" / "bad_inputs.md"


def check_section(title: str, text: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Compare a section of the table with what the tests found.

    Where it is outdated, the table with the new section is written beside the repository's, as
    `bad_inputs.md.new`, and the test fails.

    title: its heading; text: what stands before its table; heads, rows: of the table
    """
    section = "\n".join(
        [f"## {title}", "", text, "", _row(heads), _row(["---"] * len(heads)), *map(_row, rows), ""]
    )
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    table = TABLE.read_text()
    found = pattern.search(table)
    if found and found[0].rstrip("\n") == section.rstrip("\n"):
        return
    new = f"{table[: found.start()]}{section}\n{table[found.end() :]}" if found else f"{table}\n{section}"
    proposed = TABLE.with_name(TABLE.name + ".new")
    proposed.write_text(new.rstrip("\n") + "\n")
    raise AssertionError(f"{TABLE.name} is outdated: mv {proposed} {TABLE}")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

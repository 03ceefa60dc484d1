"""Reports as text, and changes to the files of a study that they show."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mil_toolkit.report.page import write_report


def written(study: Path, path: Path, **options: Any) -> str:
    """Write a report, and return its HTML."""
    write_report(study, path, **options)
    return path.read_text()


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    """Change the value in a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def text_of(html: str) -> str:
    """Return roughly what a reader sees: no markup, scripts or pictures."""
    without = re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", without))


def thumbnails(html: str) -> list[bytes]:
    """Return the content of all pictures."""
    return [base64.b64decode(uri) for uri in re.findall(r"data:image/jpeg;base64,([^\"]+)", html)]

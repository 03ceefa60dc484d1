"""Studies that are interrupted again and again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mil_toolkit.core.files import publish
from mil_toolkit.study import folder as folder_module


def interrupts_until_done(run: Callable[[], object], study: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a study until it is finished, with an interrupt at the end of some trials; return their number."""
    written = list[Path]()

    def stop(path: Path, content: bytes) -> None:
        if path.suffix == ".jsonl":  # a trial ends; some are stopped, once each
            written.append(path)
            if written.count(path) == 1 and len(written) % 2 == 0:
                raise KeyboardInterrupt
        publish(path, content)

    monkeypatch.setattr(folder_module, "publish", stop)
    stops = 0
    while not (study / "DONE").exists():
        try:
            run()
        except KeyboardInterrupt:
            stops += 1
    return stops

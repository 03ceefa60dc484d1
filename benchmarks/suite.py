"""Print the processor time that tests take, by folder and by file.

    python benchmarks/suite.py [--most 20] [PATH ...]

The tests run one after the other in this process. The time is that of this process and of all processes that
it started and that have ended. Fixtures count for the first test that uses them, and what they do at the end
for the last one. Other load of the machine lengthens processor time too, by up to a factor of two.
"""

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Generator, Mapping
from pathlib import PurePath

import pytest

BEFORE = "(start and collection)"


class Recorder:
    """Plugin of pytest that adds up processor seconds by the path of the test file."""

    def __init__(self) -> None:
        self.seconds = defaultdict[str, float](float)

    def pytest_collection_finish(self) -> None:
        """Record what came before the first test."""
        self.seconds[BEFORE] = spent()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Record a test with its fixtures."""
        before = spent()
        result = yield
        self.seconds[item.nodeid.partition("::")[0]] += spent() - before
        return result


def spent() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def by_folder(seconds: Mapping[str, float]) -> dict[str, float]:
    """Add up the seconds of files by the first two folders of their paths."""
    folders = defaultdict[str, float](float)
    for path, value in seconds.items():
        folders["/".join(PurePath(path).parent.parts[:2]) or path] += value
    return folders


def main() -> int:
    """Run the tests, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", default=["tests"], metavar="PATH")
    parser.add_argument("--most", type=int, default=20, help="files to print, those that take longest")
    arguments = parser.parse_args()
    recorder = Recorder()
    options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    code = pytest.main([*options, *arguments.paths], plugins=[recorder])
    for title, seconds, most in (
        ("folder", by_folder(recorder.seconds), None),
        ("file", recorder.seconds, arguments.most),
    ):
        print(f"\nprocessor seconds  {title}")
        for path, value in sorted(seconds.items(), key=lambda item: -item[1])[:most]:
            print(f"{value:17.1f}  {path}")
    print(f"{sum(recorder.seconds.values()):17.1f}  in all")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

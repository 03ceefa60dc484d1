"""The images of a cohort whose patients have a folder each."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mil_toolkit.cohort.cells import normal_form
from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.listing import holds, is_image, list_folder
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.text import each_or_most, printable


@dataclass(frozen=True)
class _Folder:
    """A patient's folder: its root as declared, and its path."""

    root: str
    path: Path


def readable_roots(declared: Declaration, problems: Problems) -> dict[str, Path]:
    """Return the paths of the declared image folders; those that are missing or listed twice are reported."""
    roots: dict[str, Path] = {}
    for root in declared.cohort.images:
        path = declared.path(root)
        try:
            if not path.is_dir():
                problems.add(
                    f"{printable(root)} is not a folder ({printable(path)}); it is listed in [cohort] images."
                )
            elif any(path.samefile(other) for other in roots.values()):
                problems.add(f"{printable(root)} is listed twice in [cohort] images.")
            else:
                roots[root] = path
        except (OSError, ValueError) as error:
            problems.add(f"{printable(root)} cannot be read: {error}.")
    return roots


class FolderScan:
    """Finds the images of patients below image folders.

    ignored: after `images`, the files that are not images
    """

    def __init__(self, table: str, patients: Collection[str], problems: Problems):
        """Prepare a scan for these patients of the table with this name."""
        self._table = table
        self._patients = set(patients)
        self._problems = problems
        self.ignored: list[str] = []

    def images(self, roots: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
        """Return the images of each patient with a folder, by their names within the patient."""
        folders = self._patient_folders(roots)
        return {patient: self._images_of_patient(patient, folders[patient]) for patient in folders}

    def _patient_folders(self, roots: Mapping[str, Path]) -> dict[str, list[_Folder]]:
        """Return the folders of each patient; ids and folder names are compared in Unicode normal form C."""
        folders: dict[str, list[_Folder]] = defaultdict(list)
        unknown: list[str] = []
        for root, path in roots.items():
            for entry in list_folder(path, self._problems):
                place = f"{printable(root)}/{printable(entry.name)}"
                patient = normal_form(entry.name)
                if entry.name.startswith(".") or not holds(entry.is_dir):
                    self._note_loose_file(entry, place)
                elif patient not in self._patients:
                    unknown.append(place)
                elif any(folder.root == root for folder in folders[patient]):
                    self._problems.add(
                        f"{place} is a second folder of patient {printable(patient)} in {printable(root)}."
                    )
                else:
                    folders[patient].append(_Folder(root, Path(entry.path)))
        self._report_unknown(unknown, len(unknown) + len(folders))
        return folders

    def _note_loose_file(self, entry: os.DirEntry[str], place: str) -> None:
        if holds(entry.is_dir):  # hidden, such as .ipynb_checkpoints
            return
        if is_image(entry.name):
            advice = "Move it into one, or list the images in an image_table."
            self._problems.add(f"{place} is not in a patient's folder. {advice}")
        else:
            self.ignored.append(place)

    def _report_unknown(self, unknown: Sequence[str], count: int) -> None:
        each = (f"{place} has no row in {self._table}." for place in unknown)
        summary = f"folders have no row in {self._table}. Does it belong to these images? Affected:"
        self._problems.extend(each_or_most(unknown, count, each, summary))

    def _images_of_patient(self, patient: str, folders: Sequence[_Folder]) -> dict[str, Path]:
        images: dict[str, Path] = {}
        entered: set[str] = set()
        for folder in folders:
            prefix = f"{Path(folder.root).as_posix()}/" if len(folders) > 1 else ""
            for name, entry in self._files_below(folder.path, entered, prefix):
                if not is_image(entry.name):
                    self.ignored.append(entry.path)
                elif not holds(entry.is_file):
                    self._problems.add(f"{printable(entry.path)} is not a regular file, or is a broken link.")
                elif name in images:
                    self._problems.add(
                        f"patient {printable(patient)} has two images named {printable(name)}."
                    )
                else:
                    images[name] = Path(entry.path)
        return images

    def _files_below(
        self, folder: Path, entered: set[str], prefix: str
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield every file below a folder with `prefix` and its path from there.

        A folder that links reach several times is entered once, so that circles of links end.
        """
        real = os.path.realpath(folder)
        if real in entered:
            return
        entered.add(real)
        for entry in list_folder(folder, self._problems):
            if not holds(entry.is_dir):
                yield prefix + entry.name, entry
            elif not entry.name.startswith("."):
                yield from self._files_below(Path(entry.path), entered, f"{prefix}{entry.name}/")

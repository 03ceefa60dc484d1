"""The images of a cohort whose patients have a folder each."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mil_toolkit.cohort.class_folders import folders_with_patients
from mil_toolkit.cohort.declaration import Declaration
from mil_toolkit.cohort.listing import (
    holds,
    is_hidden,
    is_image,
    is_system_file,
    is_system_folder,
    list_folder,
)
from mil_toolkit.cohort.problems import Problems
from mil_toolkit.core.cells import normal_form
from mil_toolkit.core.reading import unreadable
from mil_toolkit.core.text import each_or_most, printable


@dataclass(frozen=True)
class _Folder:
    """A patient's folder: its root as declared, and its path."""

    root: str
    path: Path


@dataclass
class Notes:
    """What a scan passed over or read in places that the user may not expect, by path.

    other: files without an image extension; hidden: hidden files
    system: system folders, which were not entered
    nested: folders with images below a patient's folder, which were read
    """

    other: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)

    def add_file(self, name: str, place: str) -> None:
        """Note a file that is not an image; system files are not worth a message."""
        if is_hidden(name):
            self.hidden.append(place)
        elif not is_system_file(name):
            self.other.append(place)


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
        except OSError as error:
            problems.add_error(unreadable(path, error))
        except ValueError:  # a null byte
            problems.add(f"{printable(root)} cannot be the path of a folder.")
    return roots


def _contains_any(folder: str, paths: Collection[str]) -> bool:
    """Return whether any of these resolved paths is the folder or lies below it."""
    real = os.path.realpath(folder)
    return any(path == real or path.startswith(real + os.sep) for path in paths)


class FolderScan:
    """Finds the images of patients below image folders.

    notes: after `images`, what was passed over
    class_folders: after `images`, folders of classes that contain the folders of patients without one
    """

    def __init__(self, table: str, patients: Collection[str], excluded: Collection[str], problems: Problems):
        """Prepare a scan for these patients of the table with this name.

        excluded: ids of rows that are not patients of the cohort; their folders are not read
        """
        self._table = printable(table)
        self._patients = set(patients)
        self._excluded = set(excluded)
        self._problems = problems
        self.notes = Notes()
        self.class_folders: list[str] = []

    def images(self, roots: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
        """Return the images of each patient with a folder, by their names within the patient."""
        folders = self._patient_folders(roots)
        return {patient: self._images_of_patient(patient, folders[patient]) for patient in folders}

    def _patient_folders(self, roots: Mapping[str, Path]) -> dict[str, list[_Folder]]:
        """Return the folders of each patient; ids and folder names are compared in Unicode normal form C."""
        folders: dict[str, list[_Folder]] = defaultdict(list)
        unknown: list[_Folder] = []
        declared = [os.path.realpath(path) for path in roots.values()]
        for root, path in roots.items():
            for entry in list_folder(path, self._problems):
                place = f"{printable(root)}/{printable(entry.name)}"
                patient = normal_form(entry.name)
                if is_hidden(entry.name) or not holds(entry.is_dir):
                    self._note_loose_file(entry, place)
                elif patient not in self._patients:
                    if patient not in self._excluded and not _contains_any(entry.path, declared):
                        unknown.append(_Folder(root, Path(entry.path)))
                elif any(folder.root == root for folder in folders[patient]):
                    self._problems.add(
                        f"{place} is a second folder of patient {printable(patient)} in {printable(root)}."
                    )
                else:
                    folders[patient].append(_Folder(root, Path(entry.path)))
        self._report_unknown(unknown, folders)
        return folders

    def _note_loose_file(self, entry: os.DirEntry[str], place: str) -> None:
        if holds(entry.is_dir):  # hidden, such as .ipynb_checkpoints
            return
        if is_image(entry.name):
            advice = "Move it into one, or list the images in an image_table."
            self._problems.add(f"{place} is not in a patient's folder. {advice}")
        else:
            self.notes.add_file(entry.name, place)

    def _report_unknown(self, unknown: Sequence[_Folder], folders: Collection[str]) -> None:
        """Report folders without a row: system folders, folders of classes, and others."""
        others: list[str] = []
        for folder in unknown:
            place = f"{printable(folder.root)}/{printable(folder.path.name)}"
            if is_system_folder(folder.path.name):
                self.notes.system.append(place)
                continue
            inside = folders_with_patients(folder.path, self._patients.difference(folders))
            below = [path.relative_to(folder.path.parent).as_posix() for path in inside]
            self.class_folders += [f"{Path(folder.root).as_posix()}/{path}" for path in below]
            if not below:
                others.append(place)
        each = (f"{place} has no row in {self._table}." for place in others)
        summary = f"folders have no row in {self._table}. Does it belong to these images? Affected:"
        self._problems.extend(each_or_most(others, len(others) + len(folders), each, summary))

    def images_below(self, folder: Path, patient: str) -> dict[str, Path]:
        """Return the images in the only folder of a patient, and in folders below it, by their names."""
        return self._images_of_patient(patient, [_Folder("", folder)])

    def _images_of_patient(self, patient: str, folders: Sequence[_Folder]) -> dict[str, Path]:
        images: dict[str, Path] = {}
        nested: dict[str, None] = {}  # keys in the order in which they came
        entered: set[str] = set()
        for folder in folders:
            prefix = f"{Path(folder.root).as_posix()}/" if len(folders) > 1 else ""
            for name, entry in self._files_below(folder.path, entered, prefix):
                if not is_image(entry.name):
                    self.notes.add_file(entry.name, entry.path)
                elif not holds(entry.is_file):
                    self._problems.add(f"{printable(entry.path)} is not a regular file, or is a broken link.")
                elif name in images:
                    self._problems.add(
                        f"patient {printable(patient)} has two images named {printable(name)}."
                    )
                else:
                    images[name] = Path(entry.path)
                    if (parent := os.path.dirname(entry.path)) != str(folder.path):
                        nested[parent] = None
        self.notes.nested += nested
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
            elif is_system_folder(entry.name):
                self.notes.system.append(entry.path)
            elif not is_hidden(entry.name):
                yield from self._files_below(Path(entry.path), entered, f"{prefix}{entry.name}/")

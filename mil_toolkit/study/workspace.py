"""`Workspace`: what the parts of a running study share."""

from dataclasses import dataclass

import torch

from mil_toolkit.config.study import StudyConfig
from mil_toolkit.core.devices import pick_device, training_dtype
from mil_toolkit.search.space import Space
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import Search
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.patients import Patients


@dataclass(frozen=True)
class Workspace:
    """A study with its labelled patients and search space, and the device and precision of training.

    numbered: whether the device was chosen by its number
    """

    study: Study
    patients: Patients
    space: Space
    device: torch.device
    dtype: torch.dtype
    numbered: bool = False

    @classmethod
    def of(cls, study: Study, patients: Patients, device: str) -> "Workspace":
        """Return the workspace on a device by name; raises UsageError for one that cannot be used."""
        place = pick_device(device)
        space = Space.of(study.config, patients)
        return cls(study, patients, space, place, training_dtype(place), ":" in device)

    @property
    def config(self) -> StudyConfig:
        """The study's options."""
        return self.study.config

    def inputs(self, search: Search) -> Inputs:
        """Return the inputs of the heads that train on a search's inner folds."""
        trains = [split.train for split in search.inner]
        return Inputs(self.patients.take(search.patients), trains, self.device, self.dtype)


class LatestInputs:
    """The inputs of one search at a time: those of a search can take gigabytes."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self._search: Search | None = None
        self._inputs: Inputs | None = None

    def of(self, search: Search) -> Inputs:
        """Return the inputs of a search, and let go of those of another."""
        if self._inputs is None or self._search is not search:
            self._search, self._inputs = search, self.workspace.inputs(search)
        return self._inputs

    def release(self) -> None:
        """Let go of the inputs."""
        self._search = self._inputs = None

"""`Space`: what Optuna may suggest, and what it never has to."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import optuna

from mil_toolkit.config import HeadConfig, Settings, StudyConfig, Tunable, Value, is_active, tunables
from mil_toolkit.core.errors import UsageError
from mil_toolkit.training.patients import Patients


@dataclass(frozen=True)
class SearchedInterval:
    """The interval in which a search moves a hyperparameter; log: on a logarithmic scale."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Space:
    """The search space left by the fields of HeadConfig, the user's settings and the data."""

    settings: Settings
    images: bool = True
    metadata: bool = True

    @classmethod
    def of(cls, config: StudyConfig, patients: Patients) -> "Space":
        """The space of a study on these patients."""
        return cls(config.settings, patients.bags is not None, not patients.metadata.empty)

    def suggest(self, trial: optuna.Trial | optuna.trial.FixedTrial) -> HeadConfig:
        """A configuration; fields without effect keep their default and are not suggested."""
        values: dict[str, Any] = {}
        for name, about in tunables(HeadConfig).items():
            if is_active(values, about):
                values[name] = self._suggest(trial, name, about)
        return HeadConfig(**values)

    def _suggest(self, trial: optuna.Trial | optuna.trial.FixedTrial, name: str, about: Tunable) -> Any:
        options = self._options(name, about)
        if len(options) == 1:
            return options[0]
        if options:
            return trial.suggest_categorical(name, options)
        assert about.low is not None and about.high is not None
        if isinstance(getattr(HeadConfig(), name), int):
            return trial.suggest_int(name, int(about.low), int(about.high), log=about.log)
        return trial.suggest_float(name, about.low, about.high, log=about.log)

    def _options(self, name: str, about: Tunable) -> Sequence[Any]:
        """The values to choose from; none for an interval."""
        if name == "image_branch" and not self.images:
            return (False,)
        if name == "metadata_branch" and not self.metadata:
            return ("none",)
        if name in self.settings:
            return self.settings[name]
        return () if about.low is not None else about.search or (getattr(HeadConfig(), name),)

    def described(self) -> dict[str, list[Value] | SearchedInterval]:
        """Return, for every field, the list of values or the interval that a search tries."""
        return {name: self._choices(name, field) for name, field in tunables(HeadConfig).items()}

    def _choices(self, name: str, field: Tunable) -> list[Value] | SearchedInterval:
        options = list(self._options(name, field))
        if options or field.low is None or field.high is None:
            return options
        return SearchedInterval(field.low, field.high, field.log)

    def defaults(self) -> dict[str, Any]:
        """The default of each field that may be suggested; where a setting excludes it, the first allowed value."""
        values = {}
        for name, about in tunables(HeadConfig).items():
            options, default = self._options(name, about), getattr(HeadConfig(), name)
            if len(options) != 1:
                values[name] = default if not options or default in options else options[0]
        return values

    def planned(self, sampler: str) -> list[dict[str, Any]]:
        """What the first trials try: a grid search all of its grid, any other one the defaults.

        Raises UsageError for a space that cannot be searched, before anything is written.
        """
        first = self.suggest(optuna.trial.FixedTrial(self.defaults()))
        if not first.image_branch and first.metadata_branch == "none":
            raise UsageError("neither images nor metadata are left: set image_branch or metadata_branch.")
        return self.grid() if sampler == "grid" else [self.defaults()]

    def grid(self) -> list[dict[str, Any]]:
        """Every different configuration of the lists; raises UsageError that names every interval without one."""
        lists = {name: self._options(name, about) for name, about in tunables(HeadConfig).items()}
        intervals = [name for name, options in lists.items() if not options]
        if intervals:
            raise UsageError(f"--sampler grid needs --set NAME=VALUE[,VALUE...] for {', '.join(intervals)}.")
        searched = {name: options for name, options in lists.items() if len(options) > 1}
        points = [dict(zip(searched, values, strict=True)) for values in product(*searched.values())]
        # Fields without effect make points that differ by them alone the same configuration.
        return list({self.suggest(optuna.trial.FixedTrial(point)): point for point in points}.values())

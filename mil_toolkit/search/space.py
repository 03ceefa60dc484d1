"""`Space`: the search space of a study's head."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from mil_toolkit.config.head import HeadConfig, is_active, view_names
from mil_toolkit.config.presets import STARTS
from mil_toolkit.config.study import StudyConfig
from mil_toolkit.config.tunable import Settings, Tunable, Value, tunables
from mil_toolkit.core.errors import UsageError

if TYPE_CHECKING:
    import optuna

    from mil_toolkit.training.patients import Patients  # imports pandas

_FEATURES = "features"  # the field of HeadConfig
Parameters = dict[str, Value]  # values of the hyperparameters that a search varies


@dataclass(frozen=True)
class SearchedInterval:
    """The interval in which a search varies a hyperparameter; log: on a logarithmic scale."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Space:
    """The search space left by the fields of HeadConfig, the user's settings and the data.

    images, metadata: whether the patients have any
    orientations: whether the images have several
    classes: whether the head has a logit for each of several classes
    """

    settings: Settings
    images: bool = True
    metadata: bool = True
    orientations: bool = False
    classes: bool = False

    @classmethod
    def of(cls, config: StudyConfig, patients: "Patients") -> "Space":
        """Return the space of a study on these patients."""
        return cls(config.settings, *shown_by(patients))

    def suggest(self, trial: "optuna.Trial | optuna.trial.FixedTrial") -> HeadConfig:
        """Return a trial's configuration; fields without effect keep their default and are not suggested."""
        values: dict[str, Any] = {}
        for name, field in tunables(HeadConfig).items():
            if is_active(values, field):
                values[name] = self._suggest(trial, name, field)
        return HeadConfig(**values)

    def config_of(self, parameters: Mapping[str, Value]) -> HeadConfig:
        """Return the configuration with these values of the hyperparameters that the search varies."""
        from optuna.trial import FixedTrial  # to read a study or a bundle, Optuna is not needed

        return self.suggest(FixedTrial(dict(parameters)))

    def _suggest(self, trial: "optuna.Trial | optuna.trial.FixedTrial", name: str, field: Tunable) -> Value:
        options = self._options(name, field)
        if len(options) == 1:
            return options[0]
        if options:
            return trial.suggest_categorical(name, options)  # type: ignore[return-value]  # no option is None
        assert field.low is not None and field.high is not None
        if isinstance(getattr(HeadConfig(), name), int):
            return trial.suggest_int(name, int(field.low), int(field.high), log=field.log)
        return trial.suggest_float(name, field.low, field.high, log=field.log)

    def _options(self, name: str, field: Tunable) -> Sequence[Value]:
        """Return the values to choose from; none for an interval."""
        if name == "image_branch" and not self.images:
            return (False,)
        if name == "metadata_branch" and not self.metadata:
            return ("none",)
        if (field.joins_views and not self._joins_views) or (field.of_classes and not self.classes):
            return (getattr(HeadConfig(), name),)
        if name == "augment" and not self.orientations:
            return (True,)  # without effect
        if name in self.settings:
            return self.settings[name]
        return () if field.low is not None else field.search or (getattr(HeadConfig(), name),)

    @property
    def _joins_views(self) -> bool:
        """Whether a search may use several views together."""
        return any(len(view_names(str(value))) > 1 for value in self.settings.get(_FEATURES, ()))

    def contains(self, name: str, value: object) -> bool:
        """Return whether a search may give a hyperparameter this value."""
        field = tunables(HeadConfig).get(name)
        if field is None:
            return False
        options = self._options(name, field)
        if options or field.low is None or field.high is None:
            return any(value == option and type(value) is type(option) for option in options)
        if isinstance(value, bool) or not isinstance(value, float | int):
            return False
        whole = isinstance(getattr(HeadConfig(), name), int)
        return field.low <= value <= field.high and not (whole and isinstance(value, float))

    def described(self) -> dict[str, list[Value] | SearchedInterval]:
        """Return, for every field, the list of values or the interval that a search tries.

        Without a choice of features, what concerns views is left out, without orientations `augment`, and
        what older versions lack (`Tunable.is_later`) where it is not varied, as in studies of these versions.
        """
        fields, unused = tunables(HeadConfig), set[str]()
        if _FEATURES not in self.settings:
            unused |= {_FEATURES, *(name for name, field in fields.items() if field.joins_views)}
        if not self.orientations:
            unused.add("augment")
        unused |= {name for name, field in fields.items() if field.is_later and not self._varies(name)}
        return {name: self._choices(name, field) for name, field in fields.items() if name not in unused}

    def _varies(self, name: str) -> bool:
        """Return whether a configuration of the space may differ from the default in an active field."""
        options = self._options(name, tunables(HeadConfig)[name])
        return tuple(options) != (getattr(HeadConfig(), name),) and self._can_matter(name)

    def _can_matter(self, name: str) -> bool:
        """Return whether a field has an effect in some configuration of the space."""
        fields = tunables(HeadConfig)
        return all(
            set(allowed) & set(self._options(other, fields[other]))
            for other, allowed in fields[name].needs.items()
        )

    def _choices(self, name: str, field: Tunable) -> list[Value] | SearchedInterval:
        options = list(self._options(name, field))
        if options or field.low is None or field.high is None:
            return options
        return SearchedInterval(field.low, field.high, field.log)

    def defaults(self) -> Parameters:
        """Return the default of each varied field; where a setting excludes it, the first allowed value."""
        values: Parameters = {}
        for name, field in tunables(HeadConfig).items():
            options, default = self._options(name, field), getattr(HeadConfig(), name)
            if len(options) != 1:
                values[name] = default if not options or default in options else options[0]
        return values

    def planned(self, sampler: str) -> list[Parameters]:
        """Return what the first trials try: the grid of a grid search, else defaults and starting points.

        Raises UsageError for a space that cannot be searched, before anything is written.
        """
        first = self.config_of(self.defaults())
        if not first.image_branch and first.metadata_branch == "none":
            raise UsageError("neither images nor metadata are left: set image_branch or metadata_branch.")
        return self.grid() if sampler == "grid" else self._distinct([self.defaults(), *self.starts()])

    def starts(self) -> list[Parameters]:
        """Return the starting points of STARTS that lie in the space, as values of the varied fields."""
        return [self._parameters(start) for start in STARTS.values() if self._holds(start)]

    def _holds(self, start: Mapping[str, Value]) -> bool:
        """Return whether the space has a configuration with these values, all of them with an effect."""
        if not all(self.contains(name, value) for name, value in start.items()):
            return False
        config = self.config_of(self._parameters(start))
        return all(getattr(config, name) == value for name, value in start.items())

    def _parameters(self, start: Mapping[str, Value]) -> Parameters:
        """Return the varied fields with these values, all others with their defaults."""
        defaults = self.defaults()
        return defaults | {name: value for name, value in start.items() if name in defaults}

    def grid(self) -> list[Parameters]:
        """Return every distinct configuration of the lists; raises UsageError that names every interval."""
        lists = {name: self._options(name, field) for name, field in tunables(HeadConfig).items()}
        intervals = [name for name, options in lists.items() if not options and self._can_matter(name)]
        if intervals:
            raise UsageError(f"--sampler grid needs --set NAME=VALUE[,VALUE...] for {', '.join(intervals)}.")
        searched = {name: options for name, options in lists.items() if len(options) > 1}
        points = [dict(zip(searched, values, strict=True)) for values in product(*searched.values())]
        return self._distinct(points)

    def _distinct(self, points: Iterable[Parameters]) -> list[Parameters]:
        """Return the points of different configurations; fields without effect make no difference."""
        return list({self.config_of(point): point for point in reversed([*points])}.values())[::-1]


def shown_by(patients: "Patients") -> tuple[bool, bool, bool, bool]:
    """Return whether patients have images, metadata, several orientations of their images, and classes."""
    images, metadata = patients.bags is not None, not patients.metadata.empty
    return images, metadata, patients.has_orientations, patients.outcome.has_class_logits

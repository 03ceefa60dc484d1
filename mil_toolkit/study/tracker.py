"""`TRACKERS`: where else the metrics of a study are logged."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.core.errors import UsageError, import_extra
from mil_toolkit.core.files import digest_json
from mil_toolkit.core.records import Json, to_json
from mil_toolkit.study.folder import EpochScores, Study
from mil_toolkit.study.records import StudyScores


class Tracker(Protocol):
    """Logs the trials and the scores of a study."""

    def __init__(self, study: Study): ...

    @classmethod
    def check(cls) -> None:
        """Raise UsageError if this tracker cannot be used."""

    def log_trial(self, search: str, number: int, config: HeadConfig, epochs: Sequence[EpochScores]) -> None:
        """Log a trial: its configuration, and the scores after each of its epochs."""

    def log_scores(self, scores: StudyScores) -> None:
        """Log the scores of the study, with everything that identifies it."""


class NoTracker:
    """Logs nothing."""

    def __init__(self, study: Study):
        pass

    @classmethod
    def check(cls) -> None:
        """Return; this tracker can always be used."""

    def log_trial(self, search: str, number: int, config: HeadConfig, epochs: Sequence[EpochScores]) -> None:
        """Do nothing."""

    def log_scores(self, scores: StudyScores) -> None:
        """Do nothing."""


class Wandb:
    """Weights & Biases: one run for each trial and one for the scores, all in one group.

    Without a network (WANDB_MODE=offline) the runs stay in `wandb/` of the study folder. A trial that is
    run again continues its run.
    """

    def __init__(self, study: Study):
        self._study, self._description = study, to_json(study.description)
        self._wandb = import_extra("wandb", "wandb", "--tracker wandb")
        # The command line, which may hold a password, and the machine are not part of the study.
        self._settings = self._wandb.Settings(
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            disable_git=True,
            save_code=False,
            console="off",
            silent=True,
        )

    @classmethod
    def check(cls) -> None:
        """Raise UsageError if wandb is not installed or not logged in."""
        wandb = import_extra("wandb", "wandb", "--tracker wandb")
        if wandb.setup().settings.mode in ("offline", "disabled"):
            return
        try:
            logged_in = wandb.login(prompt=False)
        except wandb.errors.Error as error:
            raise UsageError(_advise(error)) from None
        if not logged_in:
            raise UsageError("--tracker wandb: run `wandb login` first, or set WANDB_MODE=offline.")

    def log_trial(self, search: str, number: int, config: HeadConfig, epochs: Sequence[EpochScores]) -> None:
        """Log a run whose steps are the epochs."""
        with self._run(f"{search}/{number}", "trial", asdict(config)) as run:
            for scores in epochs:
                metrics = {name.replace("_", "/", 1): value for name, value in scores.items()}
                run.log(metrics, step=int(scores["epoch"]))

    def log_scores(self, scores: StudyScores) -> None:
        """Log a run whose summary holds the scores and whose configuration identifies the study."""
        with self._run("scores", "study", self._description) as run:
            run.summary.update(to_json(scores))

    def _run(self, name: str, kind: str, config: Json) -> Any:
        """Start or resume a run; return wandb's own object, which is a context manager."""
        group = self._study.folder.resolve().name
        try:
            return self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "mil_toolkit"),
                group=group,
                name=f"{group}/{name}",
                job_type=kind,
                id=digest_json([self._description, group, name])[:16],
                resume="allow",
                dir=self._study.folder,
                config=config,
                settings=self._settings,
                reinit="create_new",
            )
        except (self._wandb.errors.Error, OSError) as error:
            raise UsageError(_advise(error)) from None


def _advise(error: Exception) -> str:
    return f"--tracker wandb: {error} Or set WANDB_MODE=offline."


TRACKERS: dict[str, type[Tracker]] = {"none": NoTracker, "wandb": Wandb}

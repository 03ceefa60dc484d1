"""`TRACKERS`: Weights & Biases, or nothing."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mil_toolkit.config import HeadConfig
from mil_toolkit.core.errors import UsageError, import_extra
from mil_toolkit.core.files import digest_json
from mil_toolkit.study.folder import Study


class Tracker:
    """Is told each trial and the study's scores; this one keeps nothing."""

    def __init__(self, study: Study):
        self.study = study

    @classmethod
    def check(cls) -> None:
        """Raise UsageError where it cannot be used."""

    def log_trial(
        self, search: str, number: int, config: HeadConfig, rows: Sequence[Mapping[str, float]]
    ) -> None:
        """Take a trial: its configuration, and the metrics of each of its epochs."""

    def log_scores(self, scores: Mapping[str, Any]) -> None:
        """Take what the study was told, and what scores.json holds."""


class Wandb(Tracker):
    """Weights & Biases: a run for each trial and one for the scores, all in one group.

    Without a network (WANDB_MODE=offline) they stay in `wandb/` of the study folder. A trial that is run again goes to
    the same run.
    """

    def __init__(self, study: Study):
        super().__init__(study)
        self._wandb = import_extra("wandb", "wandb", "--tracker wandb")
        # Neither the command line, which may hold a password, nor the machine is anything of the study's.
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
        """Raise UsageError where wandb is missing or not logged in."""
        wandb = import_extra("wandb", "wandb", "--tracker wandb")
        if wandb.setup().settings.mode in ("offline", "disabled"):
            return
        try:
            found = wandb.login(prompt=False)
        except wandb.errors.Error as error:
            raise UsageError(f"--tracker wandb: {error} Or set WANDB_MODE=offline.") from None
        if not found:
            raise UsageError("--tracker wandb: run `wandb login` first, or set WANDB_MODE=offline.")

    def log_trial(
        self, search: str, number: int, config: HeadConfig, rows: Sequence[Mapping[str, float]]
    ) -> None:
        """A run whose steps are the epochs."""
        with self._run(f"{search}/{number}", "trial", asdict(config)) as run:
            for row in rows:
                run.log(
                    {name.replace("_", "/", 1): value for name, value in row.items()}, step=int(row["epoch"])
                )

    def log_scores(self, scores: Mapping[str, Any]) -> None:
        """A run whose summary is the scores and whose configuration is all that the study was told."""
        with self._run("scores", "study", dict(self.study.described)) as run:
            run.summary.update(scores)

    def _run(self, name: str, kind: str, config: Mapping[str, Any]) -> Any:
        group = self.study.folder.resolve().name
        try:
            return self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "mil_toolkit"),
                group=group,
                name=f"{group}/{name}",
                job_type=kind,
                id=digest_json([self.study.described, group, name])[:16],
                resume="allow",
                dir=self.study.folder,
                config=config,
                settings=self._settings,
                reinit="create_new",
            )
        except (self._wandb.errors.Error, OSError) as error:
            raise UsageError(f"--tracker wandb: {error} Or set WANDB_MODE=offline.") from None


TRACKERS: dict[str, type[Tracker]] = {"none": Tracker, "wandb": Wandb}

"""How one command runs a study."""

from dataclasses import dataclass, field

from mil_toolkit.core.errors import UsageError


@dataclass(frozen=True)
class RunConfig:
    """How one command runs a study: none of it changes the results.

    storage: URL of the database of the trials; None stores them in the study folder
    workers: searches that run at once, each in a process of its own; 1 runs them one after the other in this
        process, None as many as cores and memory allow. With a shared storage: processes that share the
        trials of all searches, by default 1
    timeout: seconds after which a search starts no more trials
    tracker: service that the metrics are sent to, a name of TRACKER_NAMES
    """

    storage: str | None = field(default=None, repr=False)  # it may contain a password
    workers: int | None = 1
    timeout: float | None = None
    tracker: str = "none"

    def __post_init__(self) -> None:
        problems = []
        if self.workers is not None and self.workers < 1:
            problems.append(f"--workers must be at least 1, not {self.workers}.")
        if self.timeout is not None and not self.timeout > 0:
            problems.append(f"--timeout must be above 0 seconds, not {self.timeout}.")
        if problems:
            raise UsageError("\n".join(problems))


ALONE = RunConfig()  # a single process, with the trials in the study folder

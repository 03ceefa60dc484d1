"""The configuration of fine-tuning."""

from dataclasses import dataclass

from mil_toolkit.config.settings import option_flag
from mil_toolkit.config.tunable import Tunable, tunable_field, tunables
from mil_toolkit.core.errors import UsageError


@dataclass(frozen=True)
class FinetuneConfig:
    """How a backbone is trained together with the heads that a study chose, which keep their own training."""

    unfreeze: str = tunable_field(
        "",
        Tunable(
            "first part of the backbone to train, together with all later parts, or all; by default layer4,"
            " or the last block of a network without one"
        ),
    )
    epochs: int = tunable_field(
        5, Tunable("maximum number of epochs; inner cross-validation chooses the number", minimum=1)
    )
    backbone_rate: float = tunable_field(3e-5, Tunable("learning rate of the backbone, by AdamW", maximum=1))
    jitter: float = tunable_field(
        0.1,
        Tunable(
            "each image's colour channels are brightened or darkened by up to this share",
            maximum=1,
            maximum_excluded=True,
        ),
    )
    chunk: int = tunable_field(
        32,
        Tunable(
            "number of images that pass through the backbone at once; limits the memory needed", minimum=1
        ),
    )

    def __post_init__(self) -> None:
        problems = [
            f"{option_flag(name)} must be {tunable.bounds}, not {getattr(self, name)}."
            for name, tunable in tunables(FinetuneConfig).items()
            if not isinstance(getattr(self, name), str) and not tunable.contains(getattr(self, name))
        ]
        if problems:
            raise UsageError("\n".join(problems))

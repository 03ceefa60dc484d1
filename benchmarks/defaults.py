"""Which default deserves its place: candidates, a rule written down before they ran, and their nested scores.

    python benchmarks/defaults.py COHORT.toml --features CACHE_FOLDER [--crop CACHE_FOLDER] [--work FOLDER]

Every candidate is one fixed configuration, run by the procedure of mil-tune with a single trial: in each outer fold
the inner folds choose its epoch, calibration and threshold, five members are refitted, and the outer patients are
predicted once. Five outer folds, three repeats, the same splits for all.

The rule: the default is the candidate with the lowest outer balanced log-loss; a simpler one (higher in the list)
is taken instead where it lies within 0.005 nats of it. Balanced accuracy and AUC are shown and decide nothing: one
patient of the smaller class moves them too far. The winner's own score is a development score, since it was chosen
here; other patients have to confirm it.
"""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from mil_toolkit.cohort import read_cohort
from mil_toolkit.features import FeatureCache
from mil_toolkit.hparams import PRESETS, HeadConfig, StudyConfig, tunables
from mil_toolkit.tuning import tune

LOGISTIC: dict[str, Any] = {"metadata_branch": "direct", "logistic_start": True}
CANDIDATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # settings of the head, of the study
    "founding head": ({name: values[-1] for name, values in PRESETS["founding"].items()}, {}),
    "metadata network": ({"metadata_branch": "mlp"}, {}),
    "metadata network, concatenated": ({"metadata_branch": "mlp", "fusion": "concat"}, {}),
    "logistic start, mean": (LOGISTIC | {"pooling": "mean"}, {}),
    "logistic start, attention": (LOGISTIC, {}),
    "logistic start, attention, one member": (LOGISTIC, {"members": 1}),
    "logistic start, attention, concatenated": (LOGISTIC | {"fusion": "concat"}, {}),
    "logistic start, attention, no dropout": (
        LOGISTIC | {"instance_dropout": 0.0, "embedding_dropout": 0.0},
        {},
    ),
    "logistic start, attention, instance dropout 0.5": (LOGISTIC | {"instance_dropout": 0.5}, {}),
    "logistic start, attention, 32 components": (LOGISTIC | {"components": 32}, {}),
    "logistic start, attention, weight decay 0.01": (LOGISTIC | {"weight_decay": 0.01}, {}),
    "logistic start, attention, epoch by AUC": (LOGISTIC, {"objective": "auc"}),
    "logistic start, gated attention": (LOGISTIC | {"pooling": "gated-attention"}, {}),
}
COLUMNS = ("balanced_log_loss", "balanced_accuracy", "auc")


def fixed(changes: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Every field that a search would move, at its default or as changed."""
    default = HeadConfig()
    names = [each.name for each in fields(HeadConfig) if tunables(HeadConfig)[each.name].searched]
    return {name: (getattr(default, name),) for name in names} | {
        name: (value,) for name, value in changes.items()
    }


def main() -> None:
    """Run every candidate and print one Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--crop", type=Path, help="features of a centre crop, for one more candidate")
    parser.add_argument("--work", type=Path, default=Path("studies/defaults"), help="folder of the studies")
    arguments = parser.parse_args()
    cohort = read_cohort(arguments.cohort, images=False)
    runs = [(name, *candidate, arguments.features) for name, candidate in CANDIDATES.items()]
    if arguments.crop:
        runs.append(("logistic start, attention, crop", LOGISTIC, {}, arguments.crop))
    print("| candidate | " + " | ".join(COLUMNS) + " | gain in balanced accuracy over metadata logistic |")
    print("| --- " * (len(COLUMNS) + 2) + "|")
    for number, (name, head, study, features) in enumerate(runs):
        config = StudyConfig(trials=1, repeats=3, settings=fixed(head), **study)
        tuned = tune(cohort, FeatureCache.open(features), arguments.work / f"{number:02d}", config)
        scores = [shown(tuned.scores["outer"][column]) for column in COLUMNS]
        gain = tuned.scores["gains"]["metadata_logistic"]["differences"]["balanced_accuracy"]
        print(f"| {name} | {' | '.join(scores)} | {shown(gain)} |", flush=True)


def shown(score: dict[str, Any]) -> str:
    """A score with its interval."""
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


if __name__ == "__main__":
    main()

"""mil-demo: run all stages on a synthetic cohort."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.cli.command import Outcome, add_device, command_parser, run
from mil_toolkit.config.metrics import DEFAULT_OUTCOME, OUTCOME_METRICS
from mil_toolkit.core.records import Json, to_json
from mil_toolkit.evaluation.records import Estimate, Score
from mil_toolkit.evaluation.words import metric_words, number, with_interval

if TYPE_CHECKING:
    from mil_toolkit.demo import AttentionCheck, Demo

_SHARE = (
    "The target of the synthetic cohort follows from the share of a patient's images that show the tumoral"
    " morphology (truth.csv, which no stage reads), and from nothing else."
)
_LIMITS = (
    "This shows that the procedure works on synthetic images. On your data, only your own study can show it."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-demo."""
    parser = command_parser(
        "mil-demo",
        "Draw a synthetic cohort whose tumoral images are known, and run every stage on it: extract, tune,"
        " ablate, fit, predict and report. Needs no data and no network.",
    )
    parser.add_argument(
        "--outcome",
        choices=list(OUTCOME_METRICS),
        default=DEFAULT_OUTCOME,
        help="what is predicted: two classes (binary), three classes with a morphology each (classes),"
        " or a grade (ordered), a number or a time (survival) that depends on the share of tumoral images",
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for all files")
    add_device(parser)
    return run(parser, _demo, argv)


def _demo(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.cli.tune import summary
    from mil_toolkit.core.devices import use_available_cores
    from mil_toolkit.demo import run_demo

    use_available_cores()
    demo = run_demo(arguments.output, device=arguments.device, outcome=arguments.outcome)
    places = _places(demo)
    lines = [summary(demo.tuned), "", _mean_pooling(demo), *_truth_lines(demo)]
    lines += ["", *(f"{name + ':':13s}{path}" for name, path in places.items())]
    lines += ["", f"Open {demo.report} in a browser."]
    data: dict[str, Json] = {name: str(path) for name, path in places.items()}
    return Outcome("\n".join(lines), data | _truth_data(demo))


def _truth_data(demo: "Demo") -> dict[str, Json]:
    """Return the comparison with the truth for --json."""
    truth = demo.truth
    if truth.concordance is not None:
        return {"true_concordance": to_json(truth.concordance)}
    if truth.attention is not None:
        return {"attention_found": to_json(truth.attention)}
    classes: dict[str, Json] = {name: to_json(check) for name, check in truth.classes.items()}
    return {"attention_found": classes} if classes else {}


def _places(demo: "Demo") -> dict[str, Path]:
    places = {
        "cohort": demo.cohort,
        "features": demo.features,
        "study": demo.tuned.study.folder,
        "bundle": demo.bundle,
        "predictions": demo.predictions,
        "submission": demo.submission,
        "attention": demo.attention,
        "report": demo.report,
    }
    return {name: path for name, path in places.items() if path is not None}


def _mean_pooling(demo: "Demo") -> str:
    """Return how the same model scores without attention."""
    mean = demo.ablation.scores.variants["pooling-mean"]
    assert mean.difference is not None  # only the full model has none
    study, differences = demo.tuned.study, mean.difference.differences
    metrics = dict.fromkeys((study.config.primary_metric, study.outcome.scoring.discrimination))
    scores = [
        f"{metric_words(metric)} {number(mean.scores[metric].value)},"
        f" {with_interval(differences[metric], '+')} against the full model"
        for metric in metrics
    ]
    return f"With mean pooling instead of attention: {'; '.join(scores)}."


def _truth_lines(demo: "Demo") -> list[str]:
    """Return how the results compare with what is known of the synthetic patients."""
    truth = demo.truth
    if truth.attention is not None:
        return [_attention_words(truth.attention)]
    if truth.concordance is not None:
        return [_concordance_words(truth.concordance), _LIMITS]
    return [_class_words(truth.classes) if truth.classes else _SHARE, _LIMITS]


def _class_words(checks: Mapping[str, "AttentionCheck"]) -> str:
    aucs = [
        f"{name} {with_interval(Estimate(check.auc, check.low, check.high))}, first in {check.first} of"
        f" {check.patients} patients ({check.by_chance:.0f} by chance)"
        for name, check in checks.items()
    ]
    return (
        "The images of each class's morphology are known (truth.csv, which no stage reads). Models that did"
        " not see the patient during training gave these images more attention of the patient's class than"
        " the patient's other images, with an AUC (0.500 by chance) and as the image of highest attention,"
        f" for {'; '.join(aucs)}."
    )


def _concordance_words(score: Score) -> str:
    return (
        "The hazard of the synthetic patients is known: it depends on the share of images that show the"
        " tumoral morphology (truth.csv, which no stage reads) and on age. The true risk has a Harrell's C of"
        f" {with_interval(score)} on the held-out patients; a model exceeds it only by chance."
    )


def _attention_words(check: "AttentionCheck") -> str:
    auc = with_interval(Estimate(check.auc, check.low, check.high))
    return (
        "The tumoral images of the synthetic cohort are known (truth.csv, which no stage reads). Models that"
        " did not see the patient during training gave tumoral images more attention than the patient's other"
        f" images with an AUC of {auc}; chance and mean pooling give 0.500. The image of highest attention is"
        f" tumoral in {check.first} of {check.patients} tumoral patients; for an image drawn at random,"
        f" {check.by_chance:.0f} are expected.\n{_LIMITS}"
    )

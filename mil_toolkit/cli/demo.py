"""mil-demo: run all stages on a synthetic cohort."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.cli.command import Outcome, add_device, command_parser, run
from mil_toolkit.core.records import Json, to_json
from mil_toolkit.evaluation.records import Estimate
from mil_toolkit.evaluation.words import number, with_interval

if TYPE_CHECKING:
    from mil_toolkit.demo import AttentionCheck, Demo
    from mil_toolkit.study.records import AblationScores


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-demo."""
    parser = command_parser(
        "mil-demo",
        "Draw a synthetic cohort whose tumoral images are known, and run every stage on it: extract, tune,"
        " ablate, fit, predict and report. Needs no data and no network.",
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for all files")
    add_device(parser)
    return run(parser, _demo, argv)


def _demo(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.cli.tune import summary
    from mil_toolkit.core.devices import use_available_cores
    from mil_toolkit.demo import run_demo

    use_available_cores()
    demo = run_demo(arguments.output, device=arguments.device)
    places = _places(demo)
    lines = [
        summary(demo.tuned),
        "",
        _mean_pooling(demo.ablation.scores),
        _attention_words(demo.attention_check),
    ]
    lines += ["", *(f"{name + ':':13s}{path}" for name, path in places.items())]
    lines += ["", f"Open {demo.report} in a browser."]
    data: dict[str, Json] = {name: str(path) for name, path in places.items()}
    return Outcome("\n".join(lines), data | {"attention_found": to_json(demo.attention_check)})


def _places(demo: "Demo") -> dict[str, Path]:
    return {
        "cohort": demo.cohort,
        "features": demo.features,
        "study": demo.tuned.study.folder,
        "bundle": demo.bundle,
        "predictions": demo.predictions,
        "submission": demo.submission,
        "attention": demo.attention,
        "report": demo.report,
    }


def _mean_pooling(ablation: "AblationScores") -> str:
    """Return how the same model scores without attention."""
    mean = ablation.variants["pooling-mean"]
    assert mean.difference is not None  # only the full model has none
    differences = mean.difference.differences
    scores = [
        f"{name} {number(mean.scores[metric].value)}, {with_interval(differences[metric], '+')} against the"
        " full model"
        for metric, name in (("balanced_accuracy", "balanced accuracy"), ("auc", "AUC"))
    ]
    return f"With mean pooling instead of attention: {'; '.join(scores)}."


def _attention_words(check: "AttentionCheck") -> str:
    auc = with_interval(Estimate(check.auc, check.low, check.high))
    return (
        "The tumoral images of the synthetic cohort are known (truth.csv, which no stage reads). Models that"
        " did not see the patient during training gave tumoral images more attention than the patient's other"
        f" images with an AUC of {auc}; chance and mean pooling give 0.500. The image of highest attention is"
        f" tumoral in {check.first} of {check.patients} tumoral patients; for an image drawn at random,"
        f" {check.by_chance:.0f} are expected.\nThis shows that the procedure works on synthetic images. On"
        " your data, only your own study can show it."
    )

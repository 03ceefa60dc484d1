"""Run all stages on a synthetic cohort."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mil_toolkit.cli.command import Outcome, command_parser, run
from mil_toolkit.evaluation.words import number, with_interval

if TYPE_CHECKING:
    from mil_toolkit.demo import Found


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-demo."""
    parser = command_parser(
        "mil-demo",
        "Draw a synthetic cohort whose truth is known, and run every stage on it: extract, tune, ablate, fit,"
        " predict and report. Needs no data and no network.",
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for all of it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    return run(parser, _demo, argv)


def _demo(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.cli.tune import summary
    from mil_toolkit.core.devices import use_available_cores
    from mil_toolkit.demo import run_demo

    use_available_cores()
    demo = run_demo(arguments.output, device=arguments.device)
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
    lines = [summary(demo.tuned), "", _mean_pooling(demo.ablation.scores), _found(demo.found), ""]
    lines += [f"{name + ':':13s}{place}" for name, place in places.items()]
    lines += ["", f"Open {demo.report} in a browser."]
    data: dict[str, Any] = {name: str(place) for name, place in places.items()}
    return Outcome("\n".join(lines), data | {"attention_found": asdict(demo.found)})


def _mean_pooling(ablation: Mapping[str, Any]) -> str:
    """What the same model comes to without attention."""
    mean = ablation["variants"]["pooling-mean"]
    scores, less = mean["scores"], mean["difference"]["differences"]
    told = [
        f"{name} {number(scores[metric]['value'])}, {with_interval(less[metric], '+')} against the full model"
        for metric, name in (("balanced_accuracy", "balanced accuracy"), ("auc", "AUC"))
    ]
    return f"With mean pooling in the place of attention: {'; '.join(told)}."


def _found(found: "Found") -> str:
    return (
        f"Which images are tumoral is known here (truth.csv, which no stage reads). Models that never saw the patient"
        f" gave the tumoral ones more attention than the patient's others with an AUC of {with_interval(asdict(found) | {'value': found.auc})};"
        f" chance, and mean pooling, has 0.500. The image of most attention is tumoral in {found.first} of"
        f" {found.patients} tumoral patients; drawn at random it would be in {found.by_chance:.0f}."
        "\nThis shows that the procedure works, on drawings. What it finds in yours, only your own study says."
    )

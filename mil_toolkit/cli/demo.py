# Floor 5.5: mil-demo; it prints what mil-tune prints.
"""Run all stages on a synthetic cohort."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mil_toolkit.cli.command import Outcome, command_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-demo."""
    parser = command_parser(
        "mil-demo", "Draw a synthetic cohort and run extract, tune, fit and predict on it."
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for all of it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    return run(parser, _demo, argv)


def _demo(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.cli.tune import summary
    from mil_toolkit.demo import run_demo
    from mil_toolkit.devices import use_available_cores

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
    }
    lines = [summary(demo.tuned), "", *(f"{name + ':':13s}{place}" for name, place in places.items())]
    return Outcome("\n".join(lines), {name: str(place) for name, place in places.items()})

# Floor 5: mil-fit.
"""Fit the configuration that a study chose on all labelled patients."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mil_toolkit.cli.command import Outcome, add_features, command_parser, run, with_report


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-fit."""
    parser = command_parser("mil-fit", "Fit what a study chose on all labelled patients, as a bundle.")
    add = parser.add_argument
    add("cohort", type=Path, metavar="COHORT.toml", help="the cohort")
    add_features(parser)
    add("--study", type=Path, required=True, metavar="studies/NAME", help="folder of the study")
    add("--output", type=Path, help="folder of the bundle; by default model/ in the study's folder")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    return run(parser, _fit, argv)


def _fit(arguments: argparse.Namespace) -> Outcome:
    from mil_toolkit.cohort import read_cohort
    from mil_toolkit.devices import use_available_cores
    from mil_toolkit.features import open_features
    from mil_toolkit.fitting import fit

    use_available_cores()
    cohort = read_cohort(arguments.cohort, images=False)
    cache = open_features(arguments.features, cohort.name)
    output = arguments.output or arguments.study / "model"
    bundle = fit(cohort, cache, arguments.study, output, arguments.device)
    data = {
        "bundle": str(output),
        "members": bundle.head.members,
        "epochs": bundle.about["epoch"],
        "threshold": bundle.decision.threshold,
    }
    text = (
        f"{output}: {data['members']} members, {data['epochs']} epochs, {bundle.about['patients']} patients,"
        f" threshold {data['threshold']:.3f}.\nNext: mil-predict {output} COHORT.toml"
    )
    return with_report(Outcome(text, data), arguments.study)

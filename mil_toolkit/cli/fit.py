"""mil-fit: fit the configuration that a study chose on all labelled patients."""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from mil_toolkit.cli.command import (
    Outcome,
    add_device,
    add_features,
    command_parser,
    run,
    with_report,
)
from mil_toolkit.config.finetune import FinetuneConfig
from mil_toolkit.config.metrics import OUTCOME_METRICS
from mil_toolkit.config.tunable import tunables
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.records import Json, to_json
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.words import loss_words, metric_words, with_interval

if TYPE_CHECKING:
    from mil_toolkit.bundle.bundle import ModelBundle
    from mil_toolkit.bundle.records import About
    from mil_toolkit.study.records import FinetuningScores


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-fit."""
    return run(_parser(), _fit, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "mil-fit",
        "Fit the configuration that a study chose on all labelled patients, and save it as a bundle.",
    )
    add = parser.add_argument
    add("cohort", type=Path, metavar="COHORT.toml", help="the cohort")
    add_features(parser, "what the study was made with")
    add("--study", type=Path, required=True, metavar="studies/NAME", help="folder of the study")
    add("--output", type=Path, help="folder of the bundle (default: model/ in the study folder)")
    add(
        "--onnx",
        action="store_true",
        help="also write head.onnx and, if the backbone is available, whole.onnx",
    )
    add(
        "--weights",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="checkpoint of the backbone, if its weights came from a file; one for each view if they differ",
    )
    add(
        "--anonymous",
        action="store_true",
        help="store nothing by which training patients could be recognised; mil-predict then cannot tell"
        " external validation from scores on training patients, and has no --abstain",
    )
    add_device(parser)
    _add_finetuning(parser)
    return parser


def _add_finetuning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "fine-tuning",
        "Train the backbone together with the heads, on the images. Without --finetune it stays frozen.",
    )
    group.add_argument(
        "--finetune",
        action="store_true",
        help="fine-tune the backbone; the result is kept if it is better on separate patients",
    )
    group.add_argument(
        "--outer", action="store_true", help="also fine-tune in every outer fold, to score fine-tuning"
    )
    for field, tunable in zip(fields(FinetuneConfig), tunables(FinetuneConfig).values(), strict=True):
        default = f" (default: {field.default})" if field.default else ""
        group.add_argument(_flag(field.name), type=type(field.default), help=tunable.help + default)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _fit(arguments: argparse.Namespace) -> Outcome:
    finetune = _finetune_config(arguments)
    from mil_toolkit.bundle.fit import fit
    from mil_toolkit.cohort.cohort import read_cohort
    from mil_toolkit.cohort.image_places import check_outside_images, image_folders
    from mil_toolkit.core.devices import pick_device, use_available_cores
    from mil_toolkit.core.own_folders import check_outside_own_folders
    from mil_toolkit.study.sources import open_study_features

    pick_device(arguments.device)  # before the data are read
    use_available_cores()
    cohort = read_cohort(arguments.cohort, images=arguments.finetune)
    features = open_study_features(arguments.features, arguments.study, cohort.name)
    output = arguments.output or arguments.study / "model"
    check_outside_images(image_folders(arguments.cohort), {"--output": output})
    check_outside_own_folders(output, arguments.study)
    if arguments.onnx:
        from mil_toolkit.bundle.onnx import check_exportable, require_exporter
        from mil_toolkit.study.folder import Study

        require_exporter()  # before the model is fitted
        check_exportable(Study.open(arguments.study).final.read_best().config)
    outer, weights = arguments.outer, arguments.weights
    device, anonymous = arguments.device, arguments.anonymous
    checkpoint = next(iter(weights), None)
    bundle = fit(cohort, features, arguments.study, output, device, finetune, outer, checkpoint, anonymous)
    exported = _export(bundle, output, weights) if arguments.onnx else None
    verified = bundle.scores if bundle.backbone is None else None  # those of a fine-tuned model are its own
    outcome = Outcome(_summary(bundle, output), _data(bundle, output, exported))
    return with_report(outcome, arguments.study, verified)


def _export(bundle: "ModelBundle", output: Path, weights: Sequence[Path]) -> list[Path]:
    from mil_toolkit.bundle.onnx import publish_onnx

    return publish_onnx(bundle, output, weights)


def _data(bundle: "ModelBundle", output: Path, exported: list[Path] | None) -> dict[str, Json]:
    data: dict[str, Json] = {
        "bundle": str(output),
        "members": bundle.head.member_count,
        "epochs": bundle.about.epoch,
        **bundle.decision.constants,
    }
    if exported is not None:
        data["onnx"] = [str(path) for path in exported]
    if bundle.finetuning is not None:
        data["finetuned"] = to_json(bundle.finetuning)
    return data


def _summary(bundle: "ModelBundle", output: Path) -> str:
    about = bundle.about
    counts = [
        count_of(bundle.head.member_count, "member"),
        count_of(about.epoch, "epoch"),
        count_of(about.patients, "patient"),
    ]
    lines = [] if bundle.finetuning is None else _finetuning_lines(bundle.finetuning, about)
    counts += [f"{name} {value:.3f}" for name, value in bundle.decision.constants.items()]
    lines.append(f"{output}: {', '.join(counts)}.")
    return "\n".join([*lines, f"Next: mil-predict {output} COHORT.toml"])


def _finetune_config(arguments: argparse.Namespace) -> FinetuneConfig | None:
    """Return the options of fine-tuning, None without --finetune; raises UsageError if some need it."""
    values = {field.name: getattr(arguments, field.name) for field in fields(FinetuneConfig)}
    given = {name: value for name, value in values.items() if value is not None}
    if arguments.finetune:
        return FinetuneConfig(**given)
    options = [_flag(name) for name in given] + (["--outer"] if arguments.outer else [])
    if options:
        raise UsageError(f"{', '.join(options)}: only with --finetune. Otherwise the backbone stays frozen.")
    if arguments.weights and not arguments.onnx:
        raise UsageError("--weights: only with --finetune or --onnx, which use the backbone.")
    return None


def _finetuning_lines(scores: "FinetuningScores", about: "About") -> list[str]:
    """Return which model was kept and why, and the score of the fine-tuned one."""
    differences, separate = scores.comparison.differences, scores.separate
    who = "who were held out in the study"
    if not separate.chose_nothing:
        who = "who helped to choose the configuration of both models"
    metrics = OUTCOME_METRICS[about.predicted.kind]
    names = {metrics.loss: loss_words(metrics.loss), metrics.primary: metric_words(metrics.primary)}
    shown = [f"{words} {with_interval(differences[name], '+')}" for name, words in names.items()]
    return [
        f"Fine-tuned minus frozen on a separate split of {count_of(separate.patients, 'patient')}, {who}:",
        f"{', '.join(shown)}.",
        _kept_words(scores, about, metrics.loss),
        _outer_words(scores, metrics.primary),
    ]


def _kept_words(scores: "FinetuningScores", about: "About", loss: str) -> str:
    from mil_toolkit.study.finetuning import MOST_P_VALUE

    words, difference = loss_words(loss), scores.comparison.differences[loss]
    below = difference.high is not None and difference.high < 0
    if not scores.kept and below and difference.p_value is not None:
        return (
            f"The interval of the {words} lies below zero, but the permutation test does not reject equality"
            f" (p = {difference.p_value:.2g}, above {MOST_P_VALUE}): the backbone stays frozen."
        )
    if not scores.kept or about.finetuned is None:
        return f"The interval of the {words} does not lie below zero: the backbone stays frozen."
    return (
        f"The interval of the {words} lies below zero: the model is fine-tuned from"
        f" {scores.settings.unfreeze} on, for {count_of(about.finetuned.epochs, 'epoch')}."
    )


def _outer_words(scores: "FinetuningScores", metric: str) -> str:
    if isinstance(scores.outer, str):
        return f"Outer score of fine-tuning: {scores.outer}. Add --outer to fine-tune in the outer folds too."
    outer = scores.outer[metric]
    return (
        f"Outer {metric_words(metric)} of fine-tuning: {with_interval(outer)}, on the {outer.patients}"
        " held-out patients who were not used in the comparison."
    )

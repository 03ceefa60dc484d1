"""Fit the configuration that a study chose on all labelled patients."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mil_toolkit.cli.command import Outcome, add_features, command_parser, run, with_report
from mil_toolkit.config import FinetuneConfig, tunables
from mil_toolkit.core.errors import UsageError
from mil_toolkit.core.text import count_of
from mil_toolkit.evaluation.words import with_interval


def main(argv: Sequence[str] | None = None) -> int:
    """Run mil-fit."""
    parser = command_parser("mil-fit", "Fit what a study chose on all labelled patients, as a bundle.")
    add = parser.add_argument
    add("cohort", type=Path, metavar="COHORT.toml", help="the cohort")
    add_features(parser)
    add("--study", type=Path, required=True, metavar="studies/NAME", help="folder of the study")
    add("--output", type=Path, help="folder of the bundle; by default model/ in the study's folder")
    add("--onnx", action="store_true", help="also write head.onnx and, with the backbone, whole.onnx")
    add(
        "--weights",
        type=Path,
        metavar="PATH",
        help="the backbone's checkpoint, where its weights came from a file",
    )
    add("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    _add_finetuning(parser)
    return run(parser, _fit, argv)


def _add_finetuning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "fine-tuning",
        "Train the backbone with the heads, on the images. Without --finetune it stays as it is.",
    )
    group.add_argument("--finetune", action="store_true", help="kept where it is better on a separate split")
    group.add_argument("--outer", action="store_true", help="in every outer fold too, which scores it")
    for field, about in zip(fields(FinetuneConfig), tunables(FinetuneConfig).values(), strict=True):
        default = f" (default: {field.default})" if field.default else ""
        group.add_argument(_flag(field.name), type=type(field.default), help=about.help + default)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _fit(arguments: argparse.Namespace) -> Outcome:
    finetune = _finetuning(arguments)
    from mil_toolkit.bundle.fit import fit
    from mil_toolkit.cohort.cohort import read_cohort
    from mil_toolkit.core.devices import pick_device, use_available_cores
    from mil_toolkit.features.cache import open_features

    pick_device(arguments.device)  # before the data are read
    use_available_cores()
    cohort = read_cohort(arguments.cohort, images=arguments.finetune)
    cache = open_features(arguments.features, cohort.name)
    output = arguments.output or arguments.study / "model"
    if arguments.onnx:
        from mil_toolkit.bundle.onnx import publish_onnx, require_exporter

        require_exporter()  # before the model is fitted
    told = arguments.device, finetune, arguments.outer, arguments.weights
    bundle = fit(cohort, cache, arguments.study, output, *told)
    data = {
        "bundle": str(output),
        "members": bundle.head.member_count,
        "epochs": bundle.about["epoch"],
        "threshold": bundle.decision.threshold,
    }
    if arguments.onnx:
        data["onnx"] = [str(path) for path in publish_onnx(bundle, output, arguments.weights)]
    text = (
        f"{output}: {count_of(bundle.head.member_count, 'member')}, {count_of(bundle.about['epoch'], 'epoch')},"
        f" {count_of(bundle.about['patients'], 'patient')},"
        f" threshold {data['threshold']:.3f}.\nNext: mil-predict {output} COHORT.toml"
    )
    if finetune is not None:
        data["finetuned"] = bundle.scores["finetuned"]
        text = "\n".join([*_finetuned(bundle.scores["finetuned"], bundle.about), text])
    return with_report(Outcome(text, data), arguments.study)


def _finetuning(arguments: argparse.Namespace) -> FinetuneConfig | None:
    """What `--finetune` is told; None without it."""
    given = {field.name: getattr(arguments, field.name) for field in fields(FinetuneConfig)}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.finetune:
        return FinetuneConfig(**given)
    lonely = [_flag(name) for name in given] + (["--outer"] if arguments.outer else [])
    if lonely:
        raise UsageError(f"{', '.join(lonely)}: without --finetune the backbone is not trained.")
    if arguments.weights and not arguments.onnx:
        raise UsageError("--weights: only --finetune and --onnx look at the backbone.")
    return None


def _finetuned(found: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    """Which model was kept and why, and what is known of the fine-tuned one's worth."""
    differences, separate = found["comparison"]["differences"], found["separate"]
    who = "who chose nothing" if separate["chose_nothing"] else "who had a part in choosing the head of both"
    log_loss, balanced = (with_interval(differences[name], "+") for name in ("log_loss", "balanced_accuracy"))
    lines = [
        f"Fine-tuned minus frozen on a separate split of {count_of(separate['patients'], 'patient')}, {who}:"
    ]
    lines.append(f"log-loss {log_loss}, balanced accuracy {balanced}.")
    if found["kept"]:
        lines.append(
            f"The interval of the log-loss lies below zero: the model is fine-tuned from {found['settings']['unfreeze']}"
            f" on, for {count_of(about['finetuned']['epochs'], 'epoch')}."
        )
    else:
        lines.append("The interval of the log-loss does not lie below zero: the backbone stays frozen.")
    if isinstance(found["outer"], str):
        lines.append(
            f"Outer score of the fine-tuned model: {found['outer']}. --outer fine-tunes in the outer folds too."
        )
    else:
        outer = found["outer"]["balanced_accuracy"]
        lines.append(
            f"Outer balanced accuracy of fine-tuning: {with_interval(outer)}, on the {outer['patients']} patients"
            " who took no part in comparing."
        )
    return lines

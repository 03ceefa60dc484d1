"""What a paper needs: the TRIPOD+AI items, a methods paragraph, and the scores as tables to copy."""

import csv
import io
from dataclasses import dataclass

from mil_toolkit.core.text import printable
from mil_toolkit.evaluation.records import Score
from mil_toolkit.evaluation.words import number, with_interval
from mil_toolkit.report.contents import Contents
from mil_toolkit.report.names import metric_name
from mil_toolkit.study.methods import REFERENCES, methods_paragraph
from mil_toolkit.study.tripod import Item, tripod_items


@dataclass(frozen=True)
class ReportingSection:
    """The section for papers; items: empty for studies of older versions.

    csv, latex: the scores as tables
    """

    items: list[Item]
    methods: str
    references: list[str]
    csv: str
    latex: str


def reporting_section(contents: Contents) -> ReportingSection:
    """Return the section for papers."""
    description, patients = contents.study.description, contents.patients
    items = [] if patients is None else tripod_items(description, patients, contents.scores)
    text = methods_paragraph(description.study, description.features, contents.study.outcome)
    cited = [reference for key, reference in REFERENCES.items() if key in text]
    return ReportingSection(
        [Item(item.number, item.topic, printable(item.text)) for item in items],
        printable(text),
        [*cited, REFERENCES["Collins 2024"]],
        _csv(contents),
        _latex(contents),
    )


def _csv(contents: Contents) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["metric", "value", "low", "high", "patients", "repeats"])
    for name in contents.table.scoring.metrics:
        score = contents.own_scores[name]
        bounds = [_plain(value) for value in (score.value, score.low, score.high)]
        writer.writerow([name, *bounds, score.patients, score.repeats])
    return file.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else number(value)


def _latex(contents: Contents) -> str:
    rows = [
        f"{metric_name(name)} & {_latex_score(contents.own_scores[name])} \\\\"
        for name in contents.table.scoring.metrics
    ]
    head = ["\\begin{tabular}{lr}", "\\hline", "Metric & Value (95\\,\\% interval) \\\\", "\\hline"]
    return "\n".join([*head, *rows, "\\hline", "\\end{tabular}", ""])


def _latex_score(score: Score) -> str:
    return with_interval(score) if score.low is not None else number(score.value)

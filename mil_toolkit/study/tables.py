"""Tables of predictions and attention: building, publishing and reading them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from mil_toolkit.core.errors import DataError, Diverged
from mil_toolkit.core.files import publish
from mil_toolkit.evaluation.calibration import Decision
from mil_toolkit.study.folder import outer_folders
from mil_toolkit.study.plan import Search
from mil_toolkit.training.patients import Patients

PREDICTION_COLUMNS = ["repeat", "fold", "patient_id", "label", "probability", "prediction"]
GROUP = "group"  # a further column where groups are declared
_WHOLE, _TEXT = ("repeat", "fold", "label", "prediction"), ("patient_id", "image", GROUP)
_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # how a formula begins in a spreadsheet
_TYPES: dict[str, type] = dict.fromkeys(_WHOLE, int) | dict.fromkeys(_TEXT, str)  # all others: float


def prediction_table(
    search: Search, places: np.ndarray, patients: Patients, logits: np.ndarray, decision: Decision
) -> pd.DataFrame:
    """Return predictions of the patients at `places` (n,) from their logits (n,): PREDICTION_COLUMNS."""
    probabilities = decision.probabilities(logits)
    return probability_table(search, places, patients, probabilities, probabilities >= decision.threshold)


def probability_table(
    search: Search, places: np.ndarray, patients: Patients, probabilities: np.ndarray, decisions: np.ndarray
) -> pd.DataFrame:
    """Return predictions of the patients at `places` from probabilities and decisions: PREDICTION_COLUMNS.

    Shapes: places, probabilities, decisions (n,). GROUP follows where groups are declared.
    """
    repeat, fold = search.path
    ids = [patients.ids[place] for place in places]
    values = (repeat, fold, ids, patients.labels[places], probabilities, decisions.astype(int))
    table = pd.DataFrame(dict(zip(PREDICTION_COLUMNS, values, strict=True)))
    return table if patients.groups is None else table.assign(**{GROUP: patients.groups[places]})


def without_members(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return PREDICTION_COLUMNS, and GROUP where it is there."""
    return predictions[[*PREDICTION_COLUMNS, *({GROUP} & set(predictions))]]


def outer_predictions(search: Search, test: Patients, logits: np.ndarray, decision: Decision) -> pd.DataFrame:
    """Return predictions of an outer fold's held-out patients from the members' logits (K, n).

    PREDICTION_COLUMNS by the mean logit, `threshold`, then each member's probability as `member1`, ... Raises
    Diverged where a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise Diverged(f"{search.name}: the refitted model diverged. Limit learning_rate by --set.")
    table = prediction_table(search, np.arange(len(test)), test, logits.mean(0), decision)
    alone = decision.probabilities(logits)
    members = {f"member{number}": values for number, values in enumerate(alone, 1)}
    return table.assign(threshold=decision.threshold, **members)


def attention_table(patients: Patients, attention: np.ndarray | None) -> pd.DataFrame | None:
    """Return the attention (N,) as a table of `patient_id`, `image`, `attention`; None without images."""
    if attention is None or patients.bags is None:
        return None
    ids = np.repeat(patients.ids, patients.bags.sizes.numpy())
    return pd.DataFrame({"patient_id": ids, "image": patients.bags.image_names, "attention": attention})


def outer_attention(folder: Path) -> pd.DataFrame | None:
    """Return the attention of the outer models of a study folder, none of which was trained on the patient.

    `repeat`, `fold`, `patient_id`, `image`, `attention`, which sums to one in each patient and repeat; None
    where no model looked at images. Raises DataError where a file cannot be read.
    """
    paths = [search.attention for search in outer_folders(folder).values() if search.attention.exists()]
    return pd.concat(map(read_predictions, paths), ignore_index=True) if paths else None


def publish_table(path: Path, table: pd.DataFrame) -> None:
    """Publish a table as CSV: numbers keep all their digits, names that are not valid UTF-8 keep their bytes.

    Text that a spreadsheet would take for a formula gets an apostrophe before it, which `read_predictions`
    takes away again.
    """
    texts = {str(name): each.map(defused) for name, each in table.items() if not is_numeric_dtype(each)}
    publish(path, table.assign(**texts).to_csv(index=False).encode(errors="surrogateescape"))


def defused(text: Any) -> Any:
    """Return text that no spreadsheet takes for a formula, reversibly: an apostrophe is put before it."""
    return f"'{text}" if isinstance(text, str) and _FORMULA.match(text) else text


def _as_it_was(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a table of predictions or attention; raises DataError where it cannot be read.

    Ids and names are text, whatever they look like.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
        for name in set(_TEXT) & set(table):
            table[name] = table[name].map(_as_it_was)
        # Unlike pandas' own parser this is exact to the last bit.
        return table.astype({name: _TYPES.get(name, float) for name in map(str, table)})
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None

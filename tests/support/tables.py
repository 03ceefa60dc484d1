"""Tables of predictions with a known separation of the classes."""

import numpy as np
import pandas as pd

from mil_toolkit.evaluation.table import Table

LABELS = np.repeat([1, 0], [40, 25])


def prediction_rows(shift: float, seed: int = 0, repeats: int = 2) -> pd.DataFrame:
    """Return predictions of 65 patients in shuffled rows; shift: half the distance of the classes' logits."""
    random = np.random.default_rng(seed)
    frames = []
    for repeat in range(1, repeats + 1):
        probability = 1 / (1 + np.exp(-random.normal(shift * (2 * LABELS - 1), 1)))
        frames.append(
            pd.DataFrame(
                {
                    "repeat": repeat,
                    "fold": np.arange(65) % 5,
                    "patient_id": [f"P{place:03d}" for place in range(65)],
                    "label": LABELS,
                    "probability": probability,
                    "prediction": (probability >= 0.5).astype(int),
                }
            ).sample(frac=1, random_state=repeat)
        )
    return pd.concat(frames)


def make_table(shift: float, seed: int = 0, repeats: int = 2) -> Table:
    """Return these predictions as a table."""
    return Table.of(prediction_rows(shift, seed, repeats))

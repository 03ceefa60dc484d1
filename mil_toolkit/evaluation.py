# Floor 1: what predictions of outer folds are worth.
"""Scores of a table of predictions (rules of evidence, 5)."""

from typing import Any

import numpy as np
import pandas as pd

from mil_toolkit.metrics import METRICS


def outer_scores(predictions: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Every metric of outer predictions: each repeat scored, the scores averaged.

    predictions: columns `repeat`, `fold`, `patient_id`, `label`, `probability`, `prediction`. `auc` counts the
    pairs within outer folds alone, since models of different folds have different scales; `auc_pooled` all.
    """
    repeats = [score_predictions(each) for _, each in predictions.groupby("repeat")]
    counted = {"patients": int(predictions["patient_id"].nunique()), "repeats": len(repeats)}
    return {
        name: {"value": float(np.mean([each[name] for each in repeats])), **counted} for name in repeats[0]
    }


def score_predictions(predictions: pd.DataFrame) -> dict[str, float]:
    """Every metric of one repeat's predictions; thresholded ones by the predictions as they were made."""
    labels = predictions["label"].to_numpy()
    probabilities = predictions["probability"].to_numpy()
    decided = predictions["prediction"].to_numpy(float)
    scores = {
        name: metric.score(labels, decided if metric.thresholded else probabilities, 0.5)
        for name, metric in METRICS.items()
    }
    return scores | {"auc": _auc_within_folds(predictions), "auc_pooled": scores["auc"]}


def _auc_within_folds(predictions: pd.DataFrame) -> float:
    """Concordant pairs within folds over all such pairs, ties counting a half."""
    concordant = pairs = 0.0
    for _, fold in predictions.groupby("fold"):
        positive = fold["probability"].to_numpy()[fold["label"] == 1][:, None]
        negative = fold["probability"].to_numpy()[fold["label"] == 0][None]
        concordant += float((positive > negative).sum() + 0.5 * (positive == negative).sum())
        pairs += positive.size * negative.size
    return concordant / pairs

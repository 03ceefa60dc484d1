"""Probabilities of ordered classes from the outputs of a cumulative link model."""

import numpy as np

_LEAST = 1e-9  # probability whose logit is taken, and step between two cumulative logits


def ordered_log_probabilities(outputs: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of C ordered classes, (..., C), from outputs (..., C - 1).

    The first cumulative logit, that of P(class > 0), is the first output; each other one is lower by the
    softplus of its output (McCullagh 1980, section 2). `training.class_losses` computes the same in torch.

    >>> np.exp(ordered_log_probabilities(np.array([0.0]))).tolist()
    [0.5, 0.5]
    """
    steps = np.cumsum(np.logaddexp(0, outputs[..., 1:]), axis=-1)
    above = np.concatenate([outputs[..., :1], outputs[..., :1] - steps], axis=-1)
    most, least = -np.logaddexp(0, -above), -np.logaddexp(0, above)  # P(> c) and P(<= c)
    between = most[..., :-1] + least[..., 1:] - np.logaddexp(0, -outputs[..., 1:])
    return np.concatenate([least[..., :1], between, most[..., -1:]], axis=-1)


def ordered_outputs(probabilities: np.ndarray) -> np.ndarray:
    """Return the outputs (..., C - 1) of a cumulative link model from probabilities of C classes, (..., C).

    The inverse of `ordered_log_probabilities`; it exists for all probabilities above 0: P(class > c) falls.

    >>> np.exp(ordered_log_probabilities(ordered_outputs(np.array([0.2, 0.5, 0.3])))).round(6).tolist()
    [0.2, 0.5, 0.3]
    """
    above = np.cumsum(probabilities[..., :0:-1], axis=-1, dtype=float)[..., ::-1]
    above = np.clip(above, _LEAST, 1 - _LEAST)
    logits = np.log(above) - np.log1p(-above)
    steps = np.maximum(-np.diff(logits, axis=-1), _LEAST)
    return np.concatenate([logits[..., :1], steps + np.log(-np.expm1(-steps))], axis=-1)

"""Evaluation of predictions: metrics, confidence intervals, comparisons, calibration and splits."""

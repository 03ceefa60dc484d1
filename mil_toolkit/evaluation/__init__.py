"""What predictions are worth: metrics, intervals, calibration and splits."""

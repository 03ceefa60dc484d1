"""An experiment and its folder: plan, search, scores, audit and ablation."""

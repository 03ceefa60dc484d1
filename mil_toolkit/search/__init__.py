"""Everything that knows Optuna: search space, storage, trials and samplers."""

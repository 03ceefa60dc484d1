"""`SAMPLERS` and `PRUNERS`: how a search proposes configurations and when it stops a trial."""

from collections.abc import Callable

import optuna

from mil_toolkit.search.internals import SlotHyperband

Sampler = optuna.samplers.BaseSampler
SAMPLERS: dict[str, Callable[[int], Sampler]] = {  # from a seed
    # `constant_liar` avoids points that other workers are evaluating.
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    # All points of a grid are planned trials, so that this sampler never has to propose one.
    "grid": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {  # from the maximum number of epochs
    "median": lambda _: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=5),
    "hyperband": lambda epochs: SlotHyperband(min_resource=min(5, epochs), max_resource=epochs),
    "none": lambda _: optuna.pruners.NopPruner(),
}

"""`SAMPLERS` and `PRUNERS`: how a search proposes configurations and when it stops a trial."""

import copy
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial, TrialState

from mil_toolkit.search.slots import NUMBER


class Hyperband(optuna.pruners.HyperbandPruner):
    """Hyperband whose brackets hang on a trial's slot and leave out what failed, so that stops change nothing."""

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        if trial.state is TrialState.FAIL:
            return -1
        if not self._pruners:
            self._try_initialization(study)
        slot = copy.copy(trial)
        slot.number = trial.user_attrs.get(NUMBER, trial.number)
        return int(super()._get_bracket_id(study, slot))


SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    # The liar lets workers keep away from what others try just now.
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda seed: optuna.samplers.RandomSampler(seed=seed),  # all is enqueued, nothing left to it
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {  # of the epochs at most
    "median": lambda _: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=5),
    "hyperband": lambda epochs: Hyperband(min_resource=min(5, epochs), max_resource=epochs),
    "none": lambda _: optuna.pruners.NopPruner(),
}

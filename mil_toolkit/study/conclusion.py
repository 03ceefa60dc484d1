"""What follows the trials: the choice and the predictions of each search, then the scores of the study."""

import csv
import io
from collections.abc import Mapping, Sequence

import pandas as pd

from mil_toolkit.core.access import exists
from mil_toolkit.core.errors import BusyError
from mil_toolkit.core.files import publish
from mil_toolkit.core.locks import exclusive
from mil_toolkit.core.records import publish_record
from mil_toolkit.core.run_log import stage
from mil_toolkit.core.seeds import members_path
from mil_toolkit.search.slots import Slots
from mil_toolkit.search.trials import FinishedTrial
from mil_toolkit.study.choice import choose
from mil_toolkit.study.folder import Study
from mil_toolkit.study.plan import Search
from mil_toolkit.study.records import Best, StudyScores
from mil_toolkit.study.scores import outer_rivals, study_scores
from mil_toolkit.study.tables import (
    attention_table,
    outer_predictions,
    publish_table,
    read_predictions,
    without_members,
)
from mil_toolkit.study.tracker import Tracker
from mil_toolkit.study.verification import check_outputs
from mil_toolkit.study.workspace import LatestInputs, Workspace
from mil_toolkit.training.procedure import refit

CONCLUDE = ".conclude"  # lock of a search, or of the study, that one process concludes for all


def is_concluded(study: Study, search: Search) -> bool:
    """Return whether a search has chosen and, for an outer fold, predicted its held-out patients."""
    folder = study.search_folder(search)
    return exists(folder.best) and (not len(search.test) or exists(folder.predictions))


def conclude(workspace: Workspace, search: Search, slots: Slots, inputs: LatestInputs) -> bool:
    """Choose, refit and predict; return False where another process is doing so at the moment."""
    folder = workspace.study.search_folder(search)
    try:
        with exclusive(folder.path, CONCLUDE):
            trials = slots.counted
            publish(folder.trials, _trials_csv(trials).encode())
            if not exists(folder.best):
                choose(workspace, search, inputs.of(search), trials, slots.best(trials))
            if len(search.test) and not exists(folder.predictions):
                refit_and_predict(workspace, search, folder.read_best())
    except BusyError:
        return False
    return True


def refit_and_predict(workspace: Workspace, search: Search, best: Best) -> None:
    """Refit an outer fold's choice on all its training patients, and predict its held-out patients."""
    train = workspace.patients.take(search.patients)
    seed = members_path(workspace.config.seed, search.path)
    members, device, dtype = workspace.config.members, workspace.device, workspace.dtype
    head = refit(train, best.config, best.epoch, members, seed, device, dtype)
    test = workspace.patients.take(search.test)
    applied = head.apply(test)
    folder = workspace.study.search_folder(search)
    attention = attention_table(test, applied.attention, test.outcome.class_names)
    if attention is not None:
        repeat, fold = search.path
        attention.insert(0, "fold", fold)
        attention.insert(0, "repeat", repeat)
        publish_table(folder.attention, attention)
    publish_table(folder.predictions, outer_predictions(search, test, applied.logits, best.decision))


@stage("Scoring the study")
def score_study(
    workspace: Workspace,
    searches: Sequence[Search],
    tracker: Tracker,
    shared: bool,
    rivals: Mapping[str, pd.DataFrame] | None = None,
) -> StudyScores:
    """Score the study and mark it as done.

    searches: the final one last; shared: whether other processes may be doing the same, so that the first one
    scores the study for all; rivals: the predictions of the baselines, where they have been computed
    """
    study = workspace.study
    with exclusive(study.folder, CONCLUDE, wait=True):
        if shared and exists(study.done):
            return study.read_scores()
        check_outputs(study, workspace.patients)
        outer = [predictions_of(study, search) for search in searches[:-1]]
        if outer:
            table = without_members(pd.concat(outer), study.outcome.scoring)
            publish_table(study.final.predictions, table)
        if rivals is None:
            rivals = outer_rivals(workspace.config, workspace.patients, searches[:-1]) if outer else {}
        if rivals:
            publish_table(study.rivals, pd.concat([rows.assign(rival=name) for name, rows in rivals.items()]))
        scores = study_scores(study, workspace.patients, outer, rivals)
        publish_record(study.scores_path, scores)
        tracker.log_scores(scores)
        publish(study.done, b"")
    return scores


def predictions_of(study: Study, search: Search) -> pd.DataFrame:
    """Return the predictions of an outer fold's held-out patients."""
    return read_predictions(study.search_folder(search).predictions)


def _trials_csv(trials: Sequence[FinishedTrial]) -> str:
    names = sorted({name for trial in trials for name in trial.parameters})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["number", "value", "state", *names])
    for trial in trials:
        row = [trial.number, trial.value, trial.state]
        writer.writerow([*row, *(trial.parameters.get(name) for name in names)])
    return file.getvalue()

"""Checks of CUDA graphs in training and of several trials in one population; see `card_checks`."""

from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from mil_toolkit.config.head import HeadConfig
from mil_toolkit.training.graphs import Graphs
from mil_toolkit.training.inputs import Inputs
from mil_toolkit.training.joint import POOLINGS_TOGETHER, JointPopulation, JointTrial
from mil_toolkit.training.procedure import run_trial, trial_members
from mil_toolkit.training.together import TrialRequest, run_trials
from support.card_data import CPU, Place, draw_folds, draw_patients
from support.card_limits import Figures, Limit, same
from support.card_training import synchronising_is_an_error

_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")


def graphs(place: Place) -> Figures:
    """Compare training by graphs with training without them, to the bit, and count launches of an epoch."""
    figures = dict[str, Limit]()
    for pooling in POOLINGS_TOGETHER:
        config = HeadConfig(pooling=pooling, hidden=32, components=16)
        by_graphs, as_it_is = (_population(place, config, captured) for captured in (True, False))
        logits = [[*islice(each.epochs(4), 4)] for each in (by_graphs, as_it_is)]
        equal = all(torch.equal(one, other) for one, other in zip(*logits, strict=True))
        figures[f"{pooling}_equal_bits"] = same(equal, True)
    one, other = (_population(place, HeadConfig(), captured) for captured in (True, False))
    figures["launches_by_graphs"] = Limit(float(_launches(place, one)), most=300)
    figures["launches_without"] = Limit(float(_launches(place, other)))
    return figures


def waiting(place: Place) -> Figures:
    """Train a warm epoch by graphs in which nothing may wait for the card.

    All patients are in one mini-batch, so that no epoch has a number of rows that was not captured.
    """
    population = _population(place, HeadConfig(batch_size=place.size(142, 12)), True)
    epochs = population.epochs(5)
    for _ in range(3):
        next(epochs)
    with synchronising_is_an_error(place):
        next(epochs)
    place.wait()
    return {"warm_epoch": Limit(float(next(epochs).isfinite().all()), least=1)}


def together(place: Place) -> Figures:
    """Compare trials in one population with the same trials alone on the device and on the CPU."""
    patients = draw_patients(place.size(90, 12), place.size(2000, 60), place.size(512, 12))
    trains, whole = draw_folds(patients, 3), HeadConfig(epochs=4, hidden=32, components=16)
    inputs, on_cpu = (Inputs(patients, trains, device) for device in (place.device, CPU))
    rates = (3e-3, 1e-3, 6e-3)
    requests = [
        TrialRequest(replace(whole, learning_rate=rate), (0, number)) for number, rate in enumerate(rates)
    ]
    figures = dict[str, Limit]()
    for number, result in enumerate(run_trials(inputs, requests, "balanced_log_loss")):
        assert not isinstance(result, Exception)
        config, seed = requests[number].config, requests[number].seed
        for name, other in (("device", inputs), ("processor", on_cpu)):
            alone = run_trial(other, config, "balanced_log_loss", seed).curves.logits
            error = float(np.abs(result.curves.logits - alone).max())
            figures[f"trial_{number}_{name}"] = Limit(error, most=1e-3)
    return figures


def _population(place: Place, config: HeadConfig, captured: bool) -> JointPopulation:
    """Return the population of one trial; captured: use graphs, if the device has any."""
    patients = draw_patients(place.size(142, 12), place.size(13_453, 60), place.size(512, 12))
    inputs = Inputs(patients, draw_folds(patients, 5), place.device)
    members = trial_members(inputs, (0,))
    population = JointPopulation(inputs, [JointTrial(inputs, config, members, members[0].seed)])
    population._graphs = Graphs(place.device if captured else CPU)
    return population


def _launches(place: Place, population: JointPopulation) -> int:
    """Return the launches of the tenth epoch; 0 on the CPU."""
    epochs = population.epochs(10)
    for _ in range(9):
        next(epochs)
    with torch.profiler.profile(acc_events=True) as profile:
        next(epochs)
        place.wait()
    return sum(event.name.startswith(_LAUNCHES) for event in profile.events() or ())

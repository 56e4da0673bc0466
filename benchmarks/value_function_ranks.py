"""How well value functions predict the order of scores on trajectories."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.frozen import FrozenEstimator
from torch import Tensor

from benchmarks.models import train_base
from benchmarks.tasks import Task, load_split
from sk_metricopt import MetricOptFinetuner
from sk_metricopt.exploration import BaseExploration, Recipe
from sk_metricopt.value_functions import (
    AdapterValueFunction,
    BaseValueFunction,
    BehaviourValueFunction,
    TrajectoryPoints,
)

INTERVALS = (1, 5, 10, 20, 40)
N_TRAJECTORIES, N_STEPS = 6, 200
N_UNSEEN, N_ADAPTED_ON = 2, 5  # trajectories; observations

NETWORKS: dict[str, dict] = {
    "paper": {},
    "paper, no interpolation": {"interpolate": False},
    "paper, no ranks": {"rank_weight": 0.0},
    "paper, no meta-training": {"meta_train": False},
    "paper, no adaptation": {"adapt": False},
}


class Mixes(BaseExploration):
    """Trajectories that differ in rows and in random class weights."""

    def recipes(self, n_classes, use_validation_labels, max_observations, rng) -> list[Recipe]:
        share = 0.5 if use_validation_labels else 0.0
        weights = np.exp(0.5 * rng.standard_normal((N_TRAJECTORIES, n_classes)))
        return [Recipe(share, 0.0, tuple(w)) for w in weights]


class Recorder(BehaviourValueFunction):
    """Notes φ and behaviour of every point."""

    def describe(self, adapter_params: Tensor, scores: Tensor, y: Tensor) -> Tensor:
        self.n_params = adapter_params.shape[1]
        described = super().describe(adapter_params, scores, y)
        return torch.cat([adapter_params, described], dim=1)

    def fit(self, descriptors: np.ndarray, observed: np.ndarray) -> Recorder:
        return super().fit(descriptors[:, self.n_params :], observed)

    def predict(self, descriptors: Tensor) -> Tensor:
        return super().predict(descriptors[:, self.n_params :])

    def learn(self, points: TrajectoryPoints) -> Recorder:
        self.points = points
        return super().learn(points)


def measure_ranks(task: Task, seed: int, setting: str) -> Iterator[dict]:
    """Measure the order predicted from observations every so many steps."""
    recorder = _recorded(task, seed, setting)
    behaviour = _columns(recorder.points, slice(recorder.n_params, None))
    phi = _columns(recorder.points, slice(0, recorder.n_params))
    for interval in INTERVALS:
        makers: dict[str, tuple[Callable[[], BaseValueFunction], TrajectoryPoints]] = {
            name: (lambda p=params: AdapterValueFunction(**p), phi)
            for name, params in NETWORKS.items()
        }
        makers["default"] = (lambda: _Refitted(recorder), behaviour)
        for name, (make, points) in makers.items():
            yield {"variant": name, "budget": interval} | _ranks(make, points, interval)


def _recorded(task: Task, seed: int, setting: str) -> Recorder:
    """Observe trajectories at every step."""
    split = load_split(task, seed)
    finetuner = MetricOptFinetuner(
        FrozenEstimator(train_base(split, seed)),
        scoring=task.scorer,
        exploration=Mixes(),
        value_function=Recorder(),
        guidance_weight=0.0,
        observation_interval=1,
        max_observations=int(N_TRAJECTORIES * N_STEPS / 0.75) + 30,
        use_validation_labels=setting == "labelled",
        random_state=seed,
    )
    finetuner.fit(split.X_train, split.y_train, X_val=split.X_val, y_val=split.y_val)
    return finetuner.value_function_


class _Refitted:
    """The default, fitted anew to whatever is known."""

    reads_rows = True

    def __init__(self, recorder: Recorder):
        self._value = recorder

    def learn(self, points: TrajectoryPoints) -> _Refitted:
        known = points.observed()
        BehaviourValueFunction.fit(self._value, known.descriptors, known.scores)
        return self

    def predict(self, descriptors: Tensor) -> Tensor:
        return BehaviourValueFunction.predict(self._value, descriptors)


def _columns(points: TrajectoryPoints, columns: slice) -> TrajectoryPoints:
    explored = (points.trajectory >= -1) & (points.trajectory < N_TRAJECTORIES)
    rows = [column[explored] for column in vars(points).values()]
    return TrajectoryPoints(rows[0][:, columns], *rows[1:])


def _ranks(make: Callable, points: TrajectoryPoints, interval: int) -> dict[str, float]:
    """Return rank correlations with what was really observed."""
    seen = points.trajectory < N_TRAJECTORIES - N_UNSEEN
    at = points.step % interval == 0
    shown = _with_scores(points, seen & (at | (points.trajectory < 0)), seen)
    value = make().learn(shown)
    between = [
        _rank(value, points, (points.trajectory == k) & ~at)
        for k in range(N_TRAJECTORIES - N_UNSEEN)
    ]
    unseen, adapted = [], []
    for k in range(N_TRAJECTORIES - N_UNSEEN, N_TRAJECTORIES):
        own = np.flatnonzero((points.trajectory == k) & at)[:N_ADAPTED_ON]
        rest = (points.trajectory == k) & (points.step > points.step[own[-1]])
        unseen.append(_rank(value, points, rest))
        known = seen.copy()
        known[own] = True
        news = _with_scores(points, known & (at | (points.trajectory < 0)), known)
        adapted.append(_rank(copy.deepcopy(value).learn(news), points, rest))
    ranks = {"rank_between": between, "rank_unseen": unseen, "rank_adapted": adapted}
    return {
        name: float(np.nanmean(r)) if np.isfinite(r).any() else np.nan for name, r in ranks.items()
    }


def _with_scores(points: TrajectoryPoints, known: np.ndarray, kept: np.ndarray) -> TrajectoryPoints:
    """Return the points that are kept, with the scores that are known."""
    scores = np.where(known, points.scores, np.nan)
    return TrajectoryPoints(
        points.descriptors[kept], scores[kept], points.trajectory[kept], points.step[kept]
    )


def _rank(value, points: TrajectoryPoints, rows: np.ndarray) -> float:
    if rows.sum() < 10 or np.ptp(points.scores[rows]) == 0:
        return np.nan
    predicted = value.predict(torch.as_tensor(points.descriptors[rows])).detach().numpy()
    if np.ptp(predicted) == 0:
        return 0.0
    return float(spearmanr(predicted, points.scores[rows])[0])

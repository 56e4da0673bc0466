"""Points of φ and their observation: from trajectories to the engine's record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._observation import Observation, ObservationEngine
from sk_metricopt.exploration import Recipe
from sk_metricopt.exploration._trajectories import LabelledRows
from sk_metricopt.value_functions import BaseValueFunction


@dataclass
class Point:
    """A candidate on or off a trajectory.

    Attributes
    ----------
    phi : Tensor of shape (T, n_params)
        One φ per twin; the last one is what would be deployed.
    phase : {"initial", "explore", "guide", "judge", "shift"}
    recipe : Recipe or None
        What its trajectory followed.
    index : int
        Of its observation; -1 before.
    """

    phi: Tensor
    phase: str
    step: int = 0
    trajectory: int = -1
    recipe: Recipe | None = None
    index: int = -1


class Observer:
    """Observes points, out of fold where there are folds, and lets the value function learn.

    Parameters
    ----------
    adapted : AdaptedNet
    rows : LabelledRows
        Where gradients come from, and what the value function reads.
    judged : LabelledRows
        The validation rows as probe, on which points are observed. The same as `rows` where
        validation labels may be used.
    engine : ObservationEngine
    value_function : BaseValueFunction
    make_model : callable
        From φ (n_params,) to the estimator it stands for.

    Attributes
    ----------
    points : list of Point
        Observed so far, the model as it came first.
    """

    def __init__(
        self,
        adapted: AdaptedNet,
        rows: LabelledRows,
        judged: LabelledRows,
        engine: ObservationEngine,
        value_function: BaseValueFunction,
        make_model: Callable[[Tensor], object],
    ):
        self.adapted = adapted
        self.rows = rows
        self.judged = judged
        self.engine = engine
        self.value_function = value_function
        self.points: list[Point] = []
        self._make_model = make_model
        self._descriptors: list[np.ndarray] = []

    @property
    def reads_labels(self) -> bool:
        """Whether validation labels may be used for more than the scorer."""
        return self.judged is self.rows

    def observe(self, points: list[Point]) -> None:
        """Observe as many of `points` as the budget allows, in one batched evaluation."""
        points = points[: self.engine.remaining]
        if not points:
            return
        phi = torch.stack([p.phi for p in points])
        scores = self.judged.pooled(self.adapted, phi)
        read = scores if self.reads_labels else self.rows.pooled(self.adapted, phi)
        if not self.points:
            self.value_function.start(read[0], self.rows.probe.y)
        described = self.value_function.describe(phi[:, -1], read, self.rows.probe.y)
        guided = any(p.phase == "guide" for p in points)
        guesses = (
            self.value_function.predict(described).tolist() if guided else [np.nan] * len(points)
        )
        for point, of_point, guess in zip(points, scores, guesses, strict=True):
            point.index = self.record(point, of_point, guess)
        self.points.extend(points)
        self._descriptors.extend(described.cpu().numpy())

    def record(self, point: Point, scores: Tensor, predicted: float = np.nan) -> int:
        """Make one observation of log-scores (n, K); return its index."""
        proba = torch.softmax(scores, -1).cpu().numpy()
        observation = Observation(point.step, point.trajectory, point.phase, np.nan, predicted)
        decided = self.adapted.bridge.decide(proba)
        model = cache(partial(self._make_model, point.phi[-1]))
        keep = point.phase in ("judge", "shift")
        return self.engine.observe(observation, proba, decided, model, keep)

    def score(self, point: Point) -> float:
        """Return the score of an observed point; minus infinity if it failed."""
        return float(self.engine.scores[point.index])

    def observed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return descriptors and scores of all points whose observation did not fail."""
        scores = np.array([self.score(p) for p in self.points])
        descriptors = np.stack(self._descriptors)
        known = np.isfinite(scores) & np.isfinite(descriptors).all(axis=1)
        return descriptors[known], scores[known]

    def learn(self) -> None:
        """Fit the value function on everything observed."""
        self.value_function.fit(*self.observed())

"""Points of φ and their observation: from trajectories to the engine's record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._observation import Observation, ObservationEngine
from sk_metricopt._tasks import Task
from sk_metricopt.value_functions import BaseValueFunction


@dataclass
class Point:
    """A candidate on or off a trajectory.

    Attributes
    ----------
    phi : Tensor of shape (T, n_params)
        One φ per twin; the last one is what would be deployed.
    phase : {"initial", "explore", "guide", "judge", "shift"}
    recipe : Recipe, RetrievalRecipe or None
        What its trajectory followed.
    index : int
        Of its observation; -1 before.
    """

    phi: Tensor
    phase: str
    step: int = 0
    trajectory: int = -1
    recipe: object = None
    index: int = -1


class Observer:
    """Observes points, out of fold where there are folds, and lets the value function learn.

    Parameters
    ----------
    task : Task
    engine : ObservationEngine
    value_function : BaseValueFunction

    Attributes
    ----------
    points : list of Point
        Observed so far, the model as it came first.
    """

    def __init__(self, task: Task, engine: ObservationEngine, value_function: BaseValueFunction):
        self.task = task
        self.engine = engine
        self.value_function = value_function
        self.points: list[Point] = []
        self._descriptors: list[np.ndarray] = []

    def observe(self, points: list[Point]) -> None:
        """Observe as many of `points` as the budget allows, in one batched evaluation."""
        points = points[: self.engine.remaining]
        if not points:
            return
        phi = torch.stack([p.phi for p in points])
        answers = self.task.answers(phi)
        if not self.points:
            self.task.start(self.value_function, answers)
        described = self.task.describe(self.value_function, phi, answers)
        guided = any(p.phase == "guide" for p in points)
        guesses = (
            self.value_function.predict(described).tolist() if guided else [np.nan] * len(points)
        )
        for point, of_point, guess in zip(points, answers, guesses, strict=True):
            point.index = self.record(point, of_point, guess)
        self.points.extend(points)
        self._descriptors.extend(described.cpu().numpy())

    def record(self, point: Point, answers, predicted: float = np.nan) -> int:
        """Make one observation of what a point answers; return its index."""
        observation = Observation(point.step, point.trajectory, point.phase, np.nan, predicted)
        keep = point.phase in ("judge", "shift")
        return self.engine.observe(observation, self.task.response(answers, point.phi[-1]), keep)

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

"""Points of φ and their observation: from trajectories to the engine's record."""

from __future__ import annotations

import logging
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._identity import digest
from sk_metricopt._observation import Observation, ObservationEngine
from sk_metricopt._scoring import Response
from sk_metricopt._tasks import Task
from sk_metricopt.value_functions import BaseValueFunction, TrajectoryPoints

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
# What a run is: it enters candidates into its engine, yields, and finds them observed, or withdrawn
# where it is to end. Who scores them, a scorer or a person, is not its concern.
Rounds = Generator[None, None, _T]


def scored(rounds: Rounds[_T], engine: ObservationEngine) -> _T:
    """Run to the end, everything scored by the engine's scorer."""
    while True:
        try:
            next(rounds)
        except StopIteration as end:
            return end.value
        engine.score()


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
    n_restarts : int
        Of its trajectory before it.
    index : int
        Of its observation; -1 before.
    """

    phi: Tensor
    phase: str
    step: int = 0
    trajectory: int = -1
    recipe: object = None
    n_restarts: int = 0
    index: int = -1


class Observer:
    """Observes points, out of fold where there are folds, and lets the value function learn.

    Parameters
    ----------
    task : Task
    engine : ObservationEngine
    value_function : BaseValueFunction
    warm : bool
        Whether the value function goes on from what it has learned elsewhere.

    Attributes
    ----------
    points : list of Point
        Observed so far, the model as it came first.
    """

    def __init__(
        self,
        task: Task,
        engine: ObservationEngine,
        value_function: BaseValueFunction,
        warm: bool = False,
    ):
        self.task = task
        self.engine = engine
        self.value_function = value_function
        self.warm = warm
        self.points: list[Point] = []
        self._descriptors: list[np.ndarray] = []
        self._passed: list[Point] = []
        self._passed_descriptors: list[np.ndarray] = []

    def observe(self, points: list[Point]) -> Rounds[None]:
        """Observe as many of `points` as the budget allows, in one batched evaluation."""
        points = points[: self.engine.remaining]
        if not points or (self.points and self.engine.stop.reason):
            return
        phi = torch.stack([p.phi for p in points])
        answers = self.answers(phi)
        guided = any(p.phase == "guide" for p in points)
        with self.engine.clock.on("value function"):
            if not self.points:
                self.task.start(self.value_function, answers, self.warm)
            described = self._described(phi, answers)
            guesses = self.value_function.predict(described).tolist() if guided else None
        unknown = [np.nan] * len(points)
        for point, of_point, guess in zip(points, answers, guesses or unknown, strict=True):
            point.index = self._enter(point, of_point, guess)
        yield
        observed = [p for p in points if self.engine.observed(p.index)]
        self.points.extend(observed)
        self._descriptors.extend(described[: len(observed)].cpu().numpy())

    def pass_by(self, points: list[Point]) -> None:
        """Show the value function where trajectories come by between two observations."""
        phi = torch.stack([p.phi for p in points])
        answers = self.answers(phi) if self.value_function.reads_rows else None
        with self.engine.clock.on("value function"):
            described = self._described(phi, answers)
        self._passed.extend(points)
        self._passed_descriptors.extend(described.cpu().numpy())

    def _described(self, phi: Tensor, answers) -> Tensor:
        """Return descriptors of φ, and of answers where these are read."""
        if not self.value_function.reads_rows:
            no_rows = phi.new_empty(len(phi), 0, 0), torch.empty(0, dtype=torch.long)
            return self.value_function.describe(phi[:, -1], *no_rows)
        return self.task.describe(self.value_function, phi, answers)

    def answers(self, phi: Tensor):
        """Return what each candidate of `phi` (J, T, n_params) answers on the validation rows."""
        with self.engine.clock.on("evaluation"):
            return self.task.answers(phi)

    def record(self, points: list[Point], answers: list) -> Rounds[list[int]]:
        """Observe what points off trajectories answer; return the indices of those observed."""
        entered = [self._enter(p, a) for p, a in zip(points, answers, strict=True)]
        yield
        return [index for index in entered if self.engine.observed(index)]

    def _enter(self, point: Point, answers, predicted: float = np.nan) -> int:
        candidate = digest(point.phi)
        observation = Observation(
            point.step, point.trajectory, point.phase, np.nan, predicted, candidate
        )
        keep = point.phase in ("judge", "shift")
        return self.engine.enter(observation, self._response(point, answers), keep)

    def _response(self, point: Point, answers) -> Response:
        return self.task.response(answers, point.phi[-1])

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
        """Let the value function learn from everything observed."""
        points = [*self.points, *self._passed]
        _LOG.debug("value function learns from %d points", len(points))
        numbers: dict[tuple[int, int], int] = {(-1, 0): -1}
        for p in points:
            numbers.setdefault((p.trajectory, p.n_restarts), len(numbers) - 1)
        shown = TrajectoryPoints(
            np.stack([*self._descriptors, *self._passed_descriptors]),
            np.array([self._known_score(p) for p in points]),
            np.array([numbers[p.trajectory, p.n_restarts] for p in points]),
            np.array([p.step for p in points]),
        )
        with self.engine.clock.on("value function"):
            self.value_function.learn(shown)

    def _known_score(self, point: Point) -> float:
        score = self.score(point) if point.index >= 0 else np.nan
        return score if np.isfinite(score) else np.nan

"""The method on one page: observe, explore, learn, guide, then let the judge decide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._guidance import value_guidance
from sk_metricopt._judge import FinetuningResult, Judge
from sk_metricopt._observer import Observer, Point, Rounds
from sk_metricopt._selection import Referee
from sk_metricopt.exploration import BaseExploration
from sk_metricopt.exploration._trajectories import Guidance, OptimizerFactory, Trajectories

_SELECTION_FOLDS = 4  # of the validation rows, for the choice to be judged on
_AGENTS = 3
_EXPLORE_SHARE = 0.75  # of the observations on trajectories, where agents are guided afterwards
_STEPS_AT_ONCE = 50  # before somebody looks whether time is up
_FALLS_BEHIND = 0.7  # standard errors below the best from which an agent restarts


@dataclass(frozen=True)
class Settings:
    """How finetuning goes about it; see MetricOptFinetuner for the meaning."""

    exploration: BaseExploration
    make_optimizer: OptimizerFactory
    lr: float
    guidance_weight: float
    observation_interval: int | None
    use_validation_labels: bool
    guard_z: float | None


class Finetuning:
    """One run of the method.

    Parameters
    ----------
    observer : Observer
    settings : Settings
    seed : int
    n_folds : int
        Selection folds of the validation rows; 0 where scores are not made on these.
    """

    def __init__(
        self,
        observer: Observer,
        settings: Settings,
        seed: int,
        n_folds: int = _SELECTION_FOLDS,
    ):
        self.observer = observer
        self.settings = settings
        # Another stream than the twins' folds: selection folds must not follow them.
        self.rng = np.random.RandomState([seed, 1])
        self.generator = torch.Generator().manual_seed(seed)
        self.task = observer.task
        self.referee = Referee(observer.engine, self.task.resampling(), n_folds, self.rng)

    def run(self) -> Rounds[FinetuningResult]:
        """Observe, explore, learn, guide, select, guard.

        Yields whenever candidates wait in the engine to be scored.
        """
        observer = self.observer
        n_twins, adapted = len(self.task.rows.twin_rows), self.task.adapted
        zero = torch.zeros(n_twins, adapted.n_params, device=adapted.device)
        yield from observer.observe([Point(zero, "initial")])
        judge = Judge(observer, self.referee, self.settings.guard_z, self.rng)
        yield from judge.prepare()
        allowed = observer.engine.remaining - judge.n_reserved
        explored = int(np.ceil(_EXPLORE_SHARE * allowed))
        yield from self._explore(zero, explored)
        yield from self._guide(allowed - explored)
        return (yield from judge.decide())

    def _explore(self, zero: Tensor, n_observations: int) -> Rounds[None]:
        """Observe a portfolio of trajectories from the model as it came."""
        if n_observations < 1:
            return
        recipes = self.settings.exploration.recipes(
            self.task.rows.n_classes,
            self.settings.use_validation_labels,
            n_observations,
            self.rng,
        )
        recipes = self.task.objective.followed(recipes)[:n_observations]
        trajectories = self._trajectories(recipes, zero.expand(len(recipes), -1, -1))
        interval = self._interval(n_observations // len(recipes))
        for left in range(n_observations, 0, -len(recipes)):
            if self._ends:
                return
            guidance = self._half_guided(trajectories) if self.observer.warm else None
            self._follow(trajectories, interval, "explore", 0, guidance)
            yield from self.observer.observe(_points_on(trajectories, "explore", 0)[:left])

    def _interval(self, n_rounds: int) -> int:
        auto = int(np.clip(round(self.settings.exploration.n_steps / n_rounds), 5, 100))
        return self.settings.observation_interval or auto

    def _trajectories(self, recipes: list, start: Tensor) -> Trajectories:
        return Trajectories(
            self.task.adapted,
            self.task.objective,
            recipes,
            start,
            self.settings.make_optimizer,
            self.settings.lr,
            self.generator,
        )

    def _follow(
        self,
        trajectories: Trajectories,
        n_steps: int,
        phase: str,
        first: int,
        guidance: Guidance | None = None,
    ) -> None:
        """Take the steps to the next observation, with waypoints where they are asked for."""
        n_parts = min(n_steps, 1 + self.observer.value_function.n_waypoints)
        for part in range(n_parts):
            if part:
                self.observer.pass_by(_points_on(trajectories, phase, first))
            n = (part + 1) * n_steps // n_parts - part * n_steps // n_parts
            self._step(trajectories, n, guidance)

    def _step(
        self, trajectories: Trajectories, n_steps: int, guidance: Guidance | None = None
    ) -> None:
        """Take steps, unless the run is to end: an interval may be long."""
        for done in range(0, n_steps, _STEPS_AT_ONCE):
            if self._ends:
                return
            with self.observer.engine.clock.on("steps"):
                trajectories.step(min(_STEPS_AT_ONCE, n_steps - done), guidance)

    @property
    def _ends(self) -> bool:
        return self.observer.engine.stop.reason is not None

    def _guide(self, n_observations: int) -> Rounds[None]:
        """Let agents go on from the best points, pulled by criterion and value function."""
        observer = self.observer
        explored = [p for p in observer.points if p.recipe is not None]
        if self._ends or len(explored) < 3 or len(observer.observed()[1]) < 3 or n_observations < 1:
            return
        starts = self._best(min(_AGENTS, n_observations))
        recipes = [p.recipe for p in starts]
        agents = self._trajectories(recipes, torch.stack([p.phi for p in starts]))
        n_trajectories = 1 + max(p.trajectory for p in explored)
        interval = max(1, self._interval(len(explored) // n_trajectories) // 2)
        for left in range(n_observations, 0, -len(starts)):
            if self._ends:
                return
            observer.learn()
            self._follow(agents, interval, "guide", n_trajectories, self._guidance(agents))
            points = _points_on(agents, "guide", n_trajectories)[:left]
            yield from observer.observe(points)
            if self._ends:
                return
            self._restart_laggards(agents, points)

    def _half_guided(self, trajectories: Trajectories) -> Guidance | None:
        """Guide every other trajectory: what was learned elsewhere is to be tried, not believed."""
        guidance = self._guidance(trajectories)
        if guidance is None:
            return None
        kept = torch.arange(len(trajectories.recipes), device=self.task.adapted.device) % 2 == 1
        return guidance.only(kept)

    def _guidance(self, agents: Trajectories) -> Guidance | None:
        if not self.settings.guidance_weight:
            return None
        with self.observer.engine.clock.on("value function"):
            return value_guidance(
                self.observer.value_function,
                self.task.adapted,
                self.task.objective,
                agents.position,
                agents.recipes,
                self.settings.guidance_weight,
            )

    def _best(self, n: int) -> list[Point]:
        """The best points on trajectories, each of another one as far as there are."""

        def rank(point: Point) -> tuple[float, int]:
            # Of equal scores the earliest, whose responses the engine keeps.
            return -self.observer.score(point), point.index

        points = [p for p in self.observer.points if p.recipe is not None]
        first_of = {p.trajectory: p for p in sorted(points, key=rank, reverse=True)}
        return (sorted(first_of.values(), key=rank) * n)[:n]

    def _restart_laggards(self, agents: Trajectories, points: list[Point]) -> None:
        """Restart agents that fell behind at the best point so far."""
        best = self._best(1)[0]
        margin = _FALLS_BEHIND * self.referee.standard_error(best.index, 0)
        for j, point in enumerate(points):
            if self.observer.score(point) < self.observer.score(best) - margin:
                agents.restart(j, best.phi, best.recipe)


def _points_on(trajectories: Trajectories, phase: str, first: int) -> list[Point]:
    n_steps = trajectories.n_steps
    return [
        Point(phi, phase, n_steps, first + j, recipe, n_restarts)
        for j, (phi, recipe, n_restarts) in enumerate(
            zip(trajectories.position, trajectories.recipes, trajectories.n_restarts, strict=True)
        )
    ]

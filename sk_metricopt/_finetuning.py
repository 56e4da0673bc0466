"""The method on one page: observe, explore, learn, guide, select, guard."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._guidance import value_guidance
from sk_metricopt._observation import Observation, ObservationEngine
from sk_metricopt._selection import Referee
from sk_metricopt._shift import coordinate_shifts, threshold_shifts
from sk_metricopt.exploration import BaseExploration, Recipe
from sk_metricopt.exploration._trajectories import LabelledRows, OptimizerFactory, Trajectories
from sk_metricopt.value_functions import BaseValueFunction

logger = logging.getLogger("sk_metricopt")

N_FOLDS = 2
_SELECTION_FOLDS = 4
_AGENTS = 3
_EXPLORE_SHARE = 0.6  # of the observations on trajectories, where agents are guided afterwards
_EXPLORE_STEPS = 800  # in all, where observation_interval is "auto"
_SHIFT_SHARE, _SHIFT_MOST = 0.16, 24  # observations kept for the closing stage
_FEW_ROWS = 10  # of a class; with fewer the guard cannot judge a metric that hangs on it
_HANGS_ON = 0.25
_FALLS_BEHIND = 0.7  # standard errors below the best from which an agent restarts


@dataclass(frozen=True)
class Settings:
    """How `finetune` goes about it; see MetricOptFinetuner for the meaning."""

    value_function: BaseValueFunction
    exploration: BaseExploration
    make_optimizer: OptimizerFactory
    lr: float
    guidance_weight: float
    observation_interval: int | None
    use_validation_labels: bool
    guard_z: float | None


@dataclass(frozen=True)
class FinetuningResult:
    """What `finetune` found.

    Attributes
    ----------
    adapter_params : Tensor of shape (n_params,)
        Zero unless `improved`.
    improved : bool
        The guard let the finetuned model pass.
    initial_score, best_score : float
        On the validation rows; the latter is out of fold and corrected for selection.
    gain, gain_se : float
        What the guard saw, with its paired standard error.
    verdict : str
        What the guard decided, in words.
    """

    adapter_params: Tensor
    improved: bool
    initial_score: float
    best_score: float
    gain: float
    gain_se: float
    verdict: str


@dataclass
class Point:
    """A candidate on or off a trajectory.

    Attributes
    ----------
    phi : Tensor of shape (T, n_params)
        One φ per twin; the last one is what would be deployed.
    recipe : Recipe or None
        What its trajectory followed.
    index : int
        Of its observation.
    """

    phi: Tensor
    phase: str
    step: int = 0
    trajectory: int = -1
    recipe: Recipe | None = None
    index: int = -1


class Finetuning:
    """One run of the method.

    Parameters
    ----------
    adapted : AdaptedNet
    rows : LabelledRows
        Where gradients come from.
    judged : LabelledRows
        The validation rows as probe, on which candidates are observed. The same as `rows` where
        validation labels may be used; without folds otherwise.
    engine : ObservationEngine
    settings : Settings
    make_model : callable
        From φ (n_params,) to the estimator it stands for.
    seed : int
    """

    def __init__(
        self,
        adapted: AdaptedNet,
        rows: LabelledRows,
        judged: LabelledRows,
        engine: ObservationEngine,
        settings: Settings,
        make_model: Callable[[Tensor], object],
        seed: int,
    ):
        self.adapted = adapted
        self.rows = rows
        self.judged = judged
        self.engine = engine
        self.settings = settings
        self.make_model = make_model
        # Another stream than the twins' folds: selection folds must not follow them.
        self.rng = np.random.RandomState([seed, 1])
        self.generator = torch.Generator().manual_seed(seed)
        y = judged.probe.y.cpu().numpy()
        self.referee = Referee(engine, y, _SELECTION_FOLDS, self.rng)
        self.points: list[Point] = []
        self.descriptors: list[np.ndarray] = []
        self.reserve = 0

    def run(self) -> FinetuningResult:
        """Observe, explore, learn, guide, select, guard."""
        n_twins = len(self.rows.twin_rows)
        zero = torch.zeros(n_twins, self.adapted.n_params, device=self.adapted.device)
        self.observe([Point(zero, "initial")])
        self.reserve = self._reserve_for_shift()
        self._explore(zero)
        self._guide()
        return self._guard(*self._shift(*self._soup()))

    # observe ------------------------------------------------------------------------------------

    def observe(self, points: list[Point]) -> None:
        """Observe as many of `points` as the budget allows, in one batched evaluation."""
        points = points[: self.engine.remaining]
        if not points:
            return
        phi = torch.stack([p.phi for p in points])
        scores = self.judged.pooled(self.adapted, phi)
        read = scores if self.judged is self.rows else self.rows.pooled(self.adapted, phi)
        value_function, y = self.settings.value_function, self.rows.probe.y
        if not self.points:
            value_function.start(read[0], y)
        described = value_function.describe(phi[:, -1], read, y)
        guided = any(p.phase == "guide" for p in points)
        guesses = value_function.predict(described).tolist() if guided else [np.nan] * len(points)
        for point, of_point, guess in zip(points, scores, guesses, strict=True):
            point.index = self._record(point, of_point, guess)
        self.points.extend(points)
        self.descriptors.extend(described.cpu().numpy())

    def _record(self, point: Point, scores: Tensor, predicted: float = np.nan) -> int:
        """Make one observation of log-scores (n, K); return its index."""
        proba = torch.softmax(scores, -1).cpu().numpy()
        observation = Observation(point.step, point.trajectory, point.phase, np.nan, predicted)
        decided = self.adapted.bridge.decide(proba)
        phi = point.phi[-1]
        return self.engine.observe(observation, proba, decided, lambda: self.make_model(phi))

    # explore ------------------------------------------------------------------------------------

    def _on_trajectories(self) -> int:
        """Observations left for trajectories; two are kept for the soup and its judgement."""
        return self.engine.remaining - self.reserve - 2

    def _explore(self, zero: Tensor) -> None:
        allowed = self._on_trajectories()
        if self.settings.guidance_weight:
            allowed = int(np.ceil(_EXPLORE_SHARE * allowed))
        if allowed < 1:
            return
        recipes = self.settings.exploration.recipes(
            self.rows.n_classes, self.settings.use_validation_labels, allowed, self.rng
        )[:allowed]
        rounds = allowed // len(recipes)
        auto = int(np.clip(round(_EXPLORE_STEPS / rounds), 5, 100))
        self.interval = self.settings.observation_interval or auto
        trajectories = self._trajectories(recipes, zero.expand(len(recipes), -1, -1))
        for _ in range(rounds):
            trajectories.step(self.interval)
            self.observe(self._points_on(trajectories, "explore"))

    def _trajectories(self, recipes: list[Recipe], start: Tensor) -> Trajectories:
        settings = self.settings
        return Trajectories(
            self.adapted,
            self.rows,
            recipes,
            start,
            settings.make_optimizer,
            settings.lr,
            self.generator,
        )

    def _points_on(self, trajectories: Trajectories, phase: str, first: int = 0) -> list[Point]:
        return [
            Point(phi, phase, trajectories.n_steps, first + j, trajectories.recipes[j])
            for j, phi in enumerate(trajectories.position)
        ]

    # learn and guide ----------------------------------------------------------------------------

    def _learn(self) -> None:
        observed = np.array([self.engine.observations[p.index].score for p in self.points])
        known = np.isfinite(observed)
        self.settings.value_function.fit(np.stack(self.descriptors)[known], observed[known])

    def _guide(self) -> None:
        """Let agents go on from the best points, pulled by criterion and value function."""
        explored = [p for p in self.points if p.recipe is not None]
        n_agents = min(_AGENTS, self._on_trajectories())
        if not self.settings.guidance_weight or len(explored) < 3 or n_agents < 1:
            return
        starts = self._best(explored, n_agents)
        agents = self._trajectories(
            [p.recipe for p in starts], torch.stack([p.phi for p in starts])
        )
        first = 1 + max(p.trajectory for p in explored)
        while self._on_trajectories() > 0:
            self._learn()
            guidance = value_guidance(
                self.settings.value_function,
                self.adapted,
                self.rows,
                agents.position,
                agents.recipes,
                self.settings.guidance_weight,
            )
            agents.step(self.interval, guidance)
            points = self._points_on(agents, "guide", first)[: self._on_trajectories()]
            self.observe(points)
            self._restart_laggards(agents, points)

    def _best(self, points: list[Point], n: int) -> list[Point]:
        """The best points, each of another trajectory as far as there are."""
        scores = self.engine.scores
        ranked = sorted(points, key=lambda p: -scores[p.index])
        leaders = list({p.trajectory: p for p in reversed(ranked)}.values())
        leaders.sort(key=lambda p: -scores[p.index])
        return (leaders * n)[:n]

    def _restart_laggards(self, agents: Trajectories, points: list[Point]) -> None:
        scores = self.engine.scores
        best = self._best([p for p in self.points if p.recipe is not None], 1)[0]
        if not self.engine.remembers(best.index):
            return
        margin = _FALLS_BEHIND * self.referee.standard_error(best.index, 0)
        for j, point in enumerate(points):
            if scores[point.index] < scores[best.index] - margin:
                agents.restart(j, best.phi, best.recipe)

    # select -------------------------------------------------------------------------------------

    def _soup(self) -> tuple[Point, Tensor]:
        """Average the bootstrap winners; return that and what it is worth where it was not chosen.

        Returns
        -------
        soup : Point
        judged : Tensor of shape (n_samples, K)
            Log-scores, each row's by a soup of winners among which the row had no say, of twins
            that did not train on it.
        """
        phi_of = {p.index: p.phi for p in self.points}

        def average(winners: np.ndarray) -> Tensor:
            return torch.stack([phi_of[i] for i in winners]).mean(0)

        candidates = list(phi_of)
        soup = Point(average(self.referee.winners(candidates)), "soup")
        judged = None
        for k, fold in enumerate(self.referee.folds):
            phi = average(self.referee.winners(candidates, without=k))
            within = torch.zeros(len(self.judged.probe), dtype=torch.bool, device=phi.device)
            within[torch.as_tensor(fold, device=phi.device)] = True
            scores = self.judged.pooled(self.adapted, phi[None], within)[0]
            if judged is None:
                judged = scores.new_empty(len(within), scores.shape[-1])
            judged[within] = scores
        return soup, judged

    def _reserve_for_shift(self) -> int:
        """Observations to keep for the closing stage: none where a shift changes nothing."""
        n_classes = self.rows.n_classes
        shift = torch.zeros(n_classes, device=self.adapted.device)
        shift[-1] = 1.0
        phi = self.points[0].phi[-1]
        some = self.judged.probe.encoded.take(slice(0, 64))
        moved = self.adapted.scores((phi + self.adapted.shift_params(shift))[None], some)
        expected = self.adapted.scores(phi[None], some) + shift
        hosts_shift = torch.allclose(moved.softmax(-1), expected.softmax(-1), atol=1e-5)
        most = min(_SHIFT_MOST, int(_SHIFT_SHARE * self.engine.budget))
        if not hosts_shift or most < 4:
            return 0
        scores = self.judged.pooled(self.adapted, self.points[0].phi[None])[0]
        index = self._record(Point(self.points[0].phi, "shift"), scores + shift)
        return 0 if self.engine.scores[index] == self.engine.scores[0] else most

    def _shift(self, soup: Point, judged: Tensor) -> tuple[Point, int]:
        """Shift the log-scores of each class where that pays; return the point and its judgement.

        Returns
        -------
        point : Point
            The soup, shifted or not.
        index : int
            Observation of what it is worth on rows that had no say; -1 if none could be made.
        """
        if self.engine.remaining < 1:
            return soup, -1
        index = self._judge(soup, judged)
        if self.engine.remaining < 4 or self.reserve == 0:
            return soup, index
        scores = self.judged.pooled(self.adapted, soup.phi[None])[0]
        shifts = self._observe_shifts(soup, scores)
        moved = judged.clone()
        for k, fold in enumerate(self.referee.folds):
            rows = torch.as_tensor(fold, device=judged.device)
            moved[rows] += self._winning_shift(shifts, k)
        moved_index = self._judge(soup, moved)
        if not self.engine.scores[moved_index] > self.engine.scores[index]:
            return soup, index
        increment = self.adapted.shift_params(self._winning_shift(shifts, None))
        return Point(soup.phi + increment, "shift"), moved_index

    def _judge(self, point: Point, scores: Tensor) -> int:
        index = self._record(Point(point.phi, "judge"), scores)
        self.engine.pin(index)
        return index

    def _winning_shift(self, shifts: dict[int, Tensor], without: int | None) -> Tensor:
        winners = self.referee.winners(list(shifts), without)
        return torch.stack([shifts[i] for i in winners]).mean(0)

    def _observe_shifts(self, point: Point, scores: Tensor) -> dict[int, Tensor]:
        """Observe shifts of `scores`, none first; leave one observation; return them by index."""
        n = self.engine.remaining - 2
        observed: dict[int, Tensor] = {}

        def observe(shift: Tensor) -> float:
            index = self._record(Point(point.phi, "shift"), scores + shift)
            observed[index] = shift
            return self.engine.scores[index]

        current = torch.zeros(self.rows.n_classes, device=scores.device)
        best = observe(current)
        if self.rows.n_classes == 2:
            for shift in threshold_shifts(scores.cpu().numpy(), n):
                observe(torch.as_tensor(shift).to(scores))
            return observed
        steps = coordinate_shifts(self.rows.n_classes, self.rng)
        for (k, step), _ in zip(steps, range(n), strict=False):
            shift = current.clone()
            shift[k] += step
            score = observe(shift)
            if score > best:
                current, best = shift, score
        return observed

    # guard --------------------------------------------------------------------------------------

    def _guard(self, point: Point, index: int) -> FinetuningResult:
        """Keep the model as it came unless the gain stands out from its standard error."""
        initial = float(self.engine.scores[0])
        if point.phi.abs().max() == 0 or index < 0:
            return self._unchanged("no candidate scored better than the model as it came", 0.0, 0.0)
        gain = float(self.engine.scores[index]) - initial
        se = self.referee.standard_error(index, 0)
        z = self.settings.guard_z
        if z is not None:
            rare = self._rare_class()
            if rare is not None:
                return self._unchanged(rare, gain, se)
            if not gain > max(0.0, z * se):
                reason = f"the gain {gain:+.4f} does not exceed {z} standard errors of {se:.4f}"
                return self._unchanged(reason, gain, se)
        verdict = f"finetuned: gain {gain:+.4f}, standard error {se:.4f}"
        return FinetuningResult(point.phi[-1], True, initial, initial + gain, gain, se, verdict)

    def _unchanged(self, reason: str, gain: float, se: float) -> FinetuningResult:
        initial = float(self.engine.scores[0])
        zero = torch.zeros_like(self.points[0].phi[-1])
        verdict = f"unchanged: {reason}"
        return FinetuningResult(zero, False, initial, initial, gain, se, verdict)

    def _rare_class(self) -> str | None:
        """Name a class that the metric hangs on and that has too few validation rows.

        Resampling cannot see how uncertain a recall over a handful of rows is, so the standard
        error cannot be trusted there. The metric hangs on a class if deciding its rows all right or
        all wrong moves the score by much of what deciding all rows right or wrong does.
        """
        y = self.judged.probe.y.cpu().numpy()
        n_classes, classes = self.rows.n_classes, self.engine.like.classes_
        counts = np.bincount(y, minlength=n_classes)
        wrong = (y + 1) % n_classes
        rare = np.flatnonzero(counts < _FEW_ROWS)
        if not len(rare):
            return None
        span = self.engine.score_decisions(y) - self.engine.score_decisions(wrong)
        for k in rare:
            without = np.where(y == k, wrong, y)
            lost = self.engine.score_decisions(y) - self.engine.score_decisions(without)
            if not lost <= _HANGS_ON * span:
                return (
                    f"the metric hangs on class {classes[k]!r}, of which there are "
                    f"{counts[k]} validation rows, fewer than {_FEW_ROWS}"
                )
        return None

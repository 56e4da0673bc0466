"""From observations to a decision: soup, closing shift, guard."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from sk_metricopt._guard import Gain, Verdict, guarded, unchanged
from sk_metricopt._observer import Observer, Point, Rounds
from sk_metricopt._selection import Referee
from sk_metricopt._shift import coordinate_shifts, threshold_shifts
from sk_metricopt._smoothing import ValueSmoother

_SHIFT_SHARE, _SHIFT_MOST = 0.16, 24  # observations kept for the closing shift
_JUDGEMENTS = 3  # observations of what was chosen: without the shift, with it, joined


@dataclass(frozen=True)
class FinetuningResult:
    """What finetuning found.

    Attributes
    ----------
    adapter_params : Tensor of shape (n_params,)
        Zero unless the guard let the finetuned model pass.
    verdict : Verdict
        The best score is that of rows that had no say in it.
    """

    adapter_params: Tensor
    verdict: Verdict


@dataclass(frozen=True)
class _Choice:
    """What was chosen, and what that is worth on rows that had no say in it.

    Attributes
    ----------
    phi : Tensor of shape (T, n_params)
    index : int
        Of the observation that judged.
    answers
        That were judged.
    gain : Gain
        Over the model as it came.
    """

    phi: Tensor
    index: int
    answers: Any
    gain: Gain


class Judge:
    """Chooses among the observed points and decides whether the choice may replace the model.

    `prepare` comes before exploration, `decide` after it.

    Everything is chosen twice: on all validation rows for what is deployed, and without each
    selection fold in turn for what is judged there. A judged row so did not train the twin that
    scores it and was not asked who wins. It did have a little say in which candidates exist: agents
    start, and the value function is fitted, by scores on all rows.

    Parameters
    ----------
    observer : Observer
        The model as it came has been observed.
    referee : Referee
    guard_z : float or None
    rng : numpy.random.RandomState

    Attributes
    ----------
    n_reserved : int
        Observations to leave for the judge, once prepared.
    """

    def __init__(
        self,
        observer: Observer,
        referee: Referee,
        guard_z: float | None,
        rng: np.random.RandomState,
    ):
        self._observer = observer
        self._engine = observer.engine
        self._referee = referee
        self._guard_z = guard_z
        self._rng = rng
        self._task = observer.task
        self._initial = observer.answers(observer.points[0].phi[None])[0]

    def prepare(self) -> Rounds[None]:
        """Look what the metric reacts to."""
        self._engine.measure_noise(0)
        self._n_shifts = yield from self._count_shifts()
        self.n_reserved = self._n_shifts + _JUDGEMENTS if self._n_shifts else 1
        self.n_reserved += not self._task.joins_whole

    def decide(self) -> Rounds[FinetuningResult]:
        """Choose, judge, guard."""
        if self._engine.remaining < 1 or len(self._observer.points) < 2:
            return self._unchanged(
                self._engine.stop.reason or "there were no observations left to finetune with"
            )
        self._smoother = ValueSmoother(self._observer, self._referee)
        choice = None
        if self._engine.stop.reason is None:
            choice = yield from self._soup()
        if choice is not None:
            choice = yield from self._shifted(choice)
        if choice is None or not np.isfinite(choice.gain.value):
            return self._guard(self._best_observed(), len(self._observer.points) - 1)
        return self._guard(choice)

    # choose -------------------------------------------------------------------------------------

    def _soup(self) -> Rounds[_Choice | None]:
        """Average the winners on resamples; None where nobody scores that any more."""
        phi_of = {p.index: p.phi for p in self._observer.points}

        def average(without: int | None) -> Tensor:
            winners = self._referee.winners(list(phi_of), without)
            return torch.stack([phi_of[i] for i in winners]).mean(0)

        parts = [(fold, average(without=k)) for k, fold in enumerate(self._referee.folds)]
        chosen = average(without=None)
        if not parts:
            return (yield from self._judged(chosen, self._observer.answers(chosen[None])[0]))
        reference = 0
        if not self._task.joins_whole:
            reference = yield from self._divided_like(parts)
        return (yield from self._judged(chosen, self._task.joined(parts), reference))

    def _divided_like(self, parts: list) -> Rounds[int]:
        """Observe the model as it came, scored in the same parts: smaller searches are easier."""
        initial = self._observer.points[0].phi
        answers = self._task.joined([(fold, initial) for fold, _ in parts])
        told = yield from self._observer.record([Point(initial, "judge")], [answers])
        return told[0] if told else 0

    def _judged(self, phi: Tensor, answers, reference: int = 0) -> Rounds[_Choice | None]:
        told = yield from self._observer.record([Point(phi, "judge")], [answers])
        return self._choice(phi, told[0], answers, reference) if told else None

    def _choice(self, phi: Tensor, index: int, answers, reference: int = 0) -> _Choice:
        gain = self._smoother.gain(index, phi[-1], answers, self._initial, reference)
        return _Choice(phi, index, answers, gain)

    def _best_observed(self) -> _Choice:
        """Where a run ends early, or what is put together fails, take the best that has a score."""
        best = max(self._observer.points, key=self._observer.score)
        return self._choice(best.phi, best.index, self._observer.answers(best.phi[None])[0])

    # shift --------------------------------------------------------------------------------------

    def _count_shifts(self) -> Rounds[int]:
        """Observations to keep for the shift: none where a shift is impossible or no use."""
        if not self._task.row_wise:
            return 0
        observer, n_classes = self._observer, self._initial.shape[1]
        shift = torch.zeros(n_classes, device=self._initial.device)
        shift[-1] = self._telling_shift()
        phi = observer.points[0].phi[-1]
        some = self._task.judged.probe.encoded.take(slice(0, 64))
        moved = self._task.adapted.outputs(
            (phi + self._task.adapted.shift_params(shift))[None], some
        )
        expected = self._task.adapted.outputs(phi[None], some) + shift
        hosted = torch.allclose(moved.softmax(-1), expected.softmax(-1), atol=1e-5)
        n_shifts = min(_SHIFT_MOST, int(_SHIFT_SHARE * self._engine.budget))
        if not hosted or n_shifts < 4 or self._engine.stop.reason:
            return 0
        shifted = observer.points[0].phi + self._task.adapted.shift_params(shift)
        told = yield from observer.record([Point(shifted, "shift")], [self._initial + shift])
        reacts = [self._engine.scores[index] != self._engine.scores[0] for index in told]
        return n_shifts if any(reacts) else 0

    def _telling_shift(self) -> float:
        """A shift of the last class that decides a tenth of the other rows anew."""
        lead = self._initial.max(dim=1).values - self._initial[:, -1]
        behind = lead[lead > 0]
        return max(1.0, 1.01 * float(behind.quantile(0.1))) if len(behind) else 1.0

    def _shifted(self, soup: _Choice) -> Rounds[_Choice]:
        """Shift the log-scores of each class, where that is judged better.

        Whether to shift is chosen like all else: for a fold's rows by the others. Where the folds
        disagree, the joined choice is judged once more.
        """
        n = min(self._n_shifts, self._engine.remaining - 2)
        if n < 3 or self._engine.stop.reason:
            return soup
        shifts = yield from self._observe_shifts(soup.phi, n)
        if self._engine.stop.reason:
            return soup

        def average(without: int | None) -> Tensor:
            winners = self._referee.winners(list(shifts), without)
            return torch.stack([shifts[i] for i in winners]).mean(0)

        scores = soup.answers.clone()
        for k, fold in enumerate(self._referee.folds):
            scores[torch.as_tensor(fold, device=scores.device)] += average(without=k)
        increment = self._task.adapted.shift_params(average(without=None))
        shifted = yield from self._judged(soup.phi + increment, scores)
        if shifted is None:
            return soup
        better = [self._is_better(shifted, soup, k) for k in range(len(self._referee.folds))]
        chosen = shifted if self._is_better(shifted, soup, None) else soup
        if len({*better, chosen is shifted}) == 1:
            return chosen
        scores = soup.answers.clone()
        for fold, moved in zip(self._referee.folds, better, strict=True):
            rows = torch.as_tensor(fold, device=scores.device)
            scores[rows] = (shifted if moved else soup).answers[rows]
        joined = yield from self._judged(chosen.phi, scores)
        return joined or soup

    def _is_better(self, choice: _Choice, other: _Choice, without: int | None) -> bool:
        score = self._referee.score
        return score(choice.index, without) > score(other.index, without)

    def _observe_shifts(self, phi: Tensor, n: int) -> Rounds[dict[int, Tensor]]:
        """Observe `n` shifts, the first of them none; return them by index."""
        scores = self._observer.answers(phi[None])[0]
        observed: dict[int, Tensor] = {}

        def observe(shifts: list[Tensor]) -> Rounds[list[float]]:
            increments = [self._task.adapted.shift_params(shift) for shift in shifts]
            points = [Point(phi + increment, "shift") for increment in increments]
            told = yield from self._observer.record(points, [scores + shift for shift in shifts])
            observed.update(zip(told, shifts, strict=False))
            return self._engine.scores[told].tolist()

        current = torch.zeros_like(scores[0])
        if len(current) == 2:
            thresholds = threshold_shifts(scores.cpu().numpy(), n - 1)
            yield from observe([current, *(torch.as_tensor(s).to(scores) for s in thresholds)])
            return observed
        steps = itertools.islice(coordinate_shifts(len(current), self._rng), n - 1)
        best = yield from observe([current])
        for k, step in steps:
            if self._engine.stop.reason:
                break
            shift = current.clone()
            shift[k] += step
            score = yield from observe([shift])
            if score > best:
                current, best = shift, score
        return observed

    # guard --------------------------------------------------------------------------------------

    def _guard(self, choice: _Choice, n_compared: int = 1) -> FinetuningResult:
        """Keep the model as it came unless the gain stands out from its standard error.

        The best of `n_compared` has had that many chances to look good by luck, and must stand out
        as far as one of them would by the same luck (Bonferroni).
        """
        if choice.phi.abs().max() == 0:
            return self._unchanged("no candidate scored better than the model as it came")
        z, initial = self._guard_z, float(self._engine.scores[0])
        if z and n_compared > 1:
            z = round(float(norm.isf(norm.sf(z) / n_compared)), 2)
        doubt = None if z is None else self._doubt()
        if z and not np.isfinite(choice.gain.se):
            doubt = "the scorer failed on all resamples, which tell how sure a gain is"
        if doubt is not None:
            verdict = unchanged(initial, doubt, choice.gain)
        else:
            verdict = guarded(initial, choice.gain, z, "finetuned")
        phi = choice.phi[-1]
        return FinetuningResult(phi if verdict.improved else torch.zeros_like(phi), verdict)

    def _doubt(self) -> str | None:
        return self._engine.why_not_judged() or self._task.why_not_judged()

    def _unchanged(self, reason: str) -> FinetuningResult:
        zero = torch.zeros_like(self._observer.points[0].phi[-1])
        return FinetuningResult(zero, unchanged(float(self._engine.scores[0]), reason))

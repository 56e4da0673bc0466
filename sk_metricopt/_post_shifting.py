"""Post-shift from search to verdict: found on all rows, judged by searches without each fold."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np

from sk_metricopt._candidate import ClassifierResponse, ClassifierScoring
from sk_metricopt._frank_wolfe import FrankWolfe, KnownAnswers, Settings
from sk_metricopt._guard import Gain, Verdict, guarded, unchanged
from sk_metricopt._observation import Conduct, Observation, ObservationEngine
from sk_metricopt._selection import spread
from sk_metricopt._weighting import Weights

_FOLDS = 8  # of the validation rows
_RESAMPLES, _RESAMPLES_OF_PART = 40, 10  # of a search on all rows, and on all but a fold


class PostShifting:
    """One search for weights and the decision whether they may be used.

    A search that has seen a row finds weights that suit it. So the search is repeated without each
    fold of the rows, and what that finds decides the fold: joined, such decisions tell what
    searching is worth on rows that had no say in any part of it. These repetitions score parts of
    the rows that have been observed; they tell of the weights, and do not change them.

    Parameters
    ----------
    answers : KnownAnswers
    scoring : ClassifierScoring
    engine : ObservationEngine
    make_model : callable
        Returns the estimator of some weights, None for the one that came.
    settings : Settings
    rng : numpy.random.RandomState
    """

    def __init__(
        self,
        answers: KnownAnswers,
        scoring: ClassifierScoring,
        engine: ObservationEngine,
        make_model: Callable[[Weights | None], object],
        settings: Settings,
        rng: np.random.RandomState,
    ):
        self._answers = answers
        self._scoring = scoring
        self._engine = engine
        self._make_model = make_model
        self._settings = settings
        self._rng = rng

    def run(self) -> tuple[Weights | None, Verdict]:
        """Return weights, None for the estimator as it came, and why."""
        searcher = self._searcher(self._answers, self._scoring, self._engine, _RESAMPLES)
        weights, reason = searcher.search()
        initial = float(self._engine.scores[0])
        if weights is None:
            return None, unchanged(initial, reason)
        index = self._observe(weights, *self._out_of_fold(searcher))
        gain = float(self._engine.scores[index]) - initial
        if not np.isfinite(gain):
            return None, unchanged(initial, "the scorer failed on what was found")
        gains = searcher.referee.resampled(index) - searcher.referee.resampled(0)
        judged = Gain(gain, spread(gains), gains)
        verdict = guarded(initial, judged, self._settings.guard_z, "post-shifted")
        return (weights if verdict.improved else None), verdict

    def _searcher(self, answers: KnownAnswers, scoring, engine, n_resamples: int) -> FrankWolfe:
        return FrankWolfe(
            answers, scoring, engine, self._make_model, self._settings, self._rng, n_resamples
        )

    def _out_of_fold(self, searcher: FrankWolfe) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities and decisions for each fold by weights found without it."""
        proba, decided = self._answers.proba.copy(), self._answers.decided.copy()
        fold_of = searcher.resampling.folds(_FOLDS, self._rng)
        for k in range(fold_of.max() + 1):
            fold = np.flatnonzero(fold_of == k)
            weights = self._found_without(fold)
            if weights is not None:
                there = self._answers.take(fold)
                proba[fold], decided[fold] = weights.decide(
                    there.proba, there.membership, there.draws
                )
        return proba, decided

    def _found_without(self, fold: np.ndarray) -> Weights | None:
        """Search on the rows outside a fold."""
        rows = np.setdiff1d(np.arange(len(self._answers.y)), fold)
        answers, scoring = self._answers.take(rows), self._scoring.on(rows)
        engine = ObservationEngine(
            scoring,
            self._engine.budget,
            self._engine.caller,
            must_start=False,
            conduct=Conduct(clock=self._engine.clock),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once, of all rows
            weights, _ = self._searcher(answers, scoring, engine, _RESAMPLES_OF_PART).search()
        self._scoring.n_calls += scoring.n_calls
        return weights

    def _observe(self, weights: Weights, proba: np.ndarray, decided: np.ndarray) -> int:
        model = partial(self._make_model, weights)
        response = ClassifierResponse(self._scoring, proba, decided, model)
        return self._engine.observe(Observation(0, -1, "judge", np.nan), response, keep=True)

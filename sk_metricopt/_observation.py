"""The observation engine: from responses of candidates to scores, within a budget."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils import Tags, _safe_indexing, get_tags

from sk_metricopt._candidate import Candidate, KnownRows
from sk_metricopt._progress import Tick
from sk_metricopt.exceptions import ObservationWarning

_KEEP_RESPONSES = 32  # observations whose responses stay in memory, to be scored on resamples

_ON_CANDIDATE = (
    "The scorer failed on a candidate ({}). Such observations are recorded as failed and never "
    "chosen; the rest goes on."
)
_ON_RESAMPLES = (
    "The scorer failed on a resample of the validation rows ({}). Gains are judged on resamples, "
    "so the model may stay as it came. A scorer must work on any rows it is given: pass what goes "
    "with a row, such as its cost, as metadata of fit."
)


class Likeness:
    """What every candidate shows of the estimator it stands for.

    Parameters
    ----------
    template : estimator
        The fitted estimator before finetuning.
    """

    def __init__(self, template):
        self.template = template
        self.classes_: np.ndarray = template.classes_
        self.tags: Tags = get_tags(template)


@dataclass
class ValidationRows:
    """The rows that metric observations are made on, as the user gave them."""

    X: object
    y: np.ndarray
    params: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)


@dataclass
class Observation:
    """One metric observation.

    Attributes
    ----------
    step : int
        Optimiser steps taken on the trajectory, an agent's from where it started.
    trajectory : int
        -1 for the model as it came and for candidates on no trajectory.
    phase : {"initial", "explore", "guide", "judge", "shift"}
    score : float
        NaN where the scorer failed.
    predicted_score : float
        What the value function said beforehand; NaN where there was none.
    """

    step: int
    trajectory: int
    phase: str
    score: float
    predicted_score: float = np.nan


class ObservationEngine:
    """Scores candidates, counts, records, and scores again on resamples when asked.

    Parameters
    ----------
    scorer : callable
        ``scorer(estimator, X, y, **params) -> float``, greater is better.
    rows : ValidationRows
    like : Likeness
    budget : int
        Observations allowed.
    tick : callable
        Called with phase, score and best score after every observation.

    Attributes
    ----------
    observations : list of Observation
    n_scorer_calls : int
        Calls of the scorer, those on resamples included.
    """

    def __init__(
        self, scorer: Callable, rows: ValidationRows, like: Likeness, budget: int, tick: Tick
    ):
        self.scorer = scorer
        self.rows = rows
        self.like = like
        self._known = KnownRows(rows.X)
        self.budget = budget
        self._tick = tick
        self.observations: list[Observation] = []
        self.n_scorer_calls = 0
        self._responses: dict[int, tuple[np.ndarray, np.ndarray, Callable]] = {}
        # A scorer made by make_scorer hands X to the estimator and looks at it no further; where
        # all it can ask for is known, any X will do.
        all_known = not hasattr(like.template, "decision_function")
        self._hands_on_X = isinstance(scorer, _BaseScorer) and all_known
        self._kept = {0}  # the model as it came is what all others are measured against
        self._warned: set[str] = set()

    @property
    def remaining(self) -> int:
        """Observations left."""
        return self.budget - len(self.observations)

    @property
    def scores(self) -> np.ndarray:
        """Scores of all observations so far; a failed one counts as minus infinity."""
        scores = np.array([o.score for o in self.observations])
        return np.where(np.isfinite(scores), scores, -np.inf)

    def observe(
        self,
        observation: Observation,
        proba: np.ndarray,
        decided: np.ndarray,
        model: Callable[[], object],
        keep: bool = False,
    ) -> int:
        """Score one candidate on all validation rows and record the observation.

        Parameters
        ----------
        observation : Observation
            Its score is filled in.
        proba : ndarray of shape (n_samples, n_classes)
        decided : ndarray of shape (n_samples,)
            Index of the predicted class.
        model : callable
            Returns the real estimator, for scorers that predict on other data.
        keep : bool
            Keep the responses for good, to be scored on resamples however low the score.

        Returns
        -------
        int
            Index of the observation. Its score is NaN if the scorer failed.

        Raises
        ------
        ValueError, TypeError
            If the scorer fails on the first observation, the model as it came: then it fails on
            everything.
        """
        response = (proba, self.like.classes_[decided], model)
        first = not self.observations
        try:
            observation.score = self._score(response)
        except Exception as error:
            if first:
                raise self._explained(error) from error
            self._warn(error, _ON_CANDIDATE)
            observation.score = np.nan
        index = len(self.observations)
        self._responses[index] = response
        self.observations.append(observation)
        if keep:
            self._kept.add(index)
        self._forget()
        self._tick(observation.phase, observation.score, float(self.scores.max()))
        return index

    def record(self) -> dict[str, np.ndarray]:
        """Return the observations as columns."""
        names = ("step", "trajectory", "phase", "score", "predicted_score")
        return {name: np.array([getattr(o, name) for o in self.observations]) for name in names}

    def resampled(self, index: int, rows: np.ndarray) -> float:
        """Return the score of observation `index` on the given rows only; NaN if that fails."""
        if not len(rows):
            return np.nan
        response = self._responses[index]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # ill-defined on a few rows: of no use to anyone
                return self._score(response, rows)
        except Exception as error:  # noqa: BLE001  user code; one resample lost is no reason to stop
            if len(np.unique(self.rows.y[rows])) == len(self.like.classes_):
                self._warn(error, _ON_RESAMPLES)
            return np.nan

    def remembers(self, index: int) -> bool:
        """Whether observation `index` can still be scored on resamples."""
        return index in self._responses

    def score_decisions(self, decided: np.ndarray) -> float:
        """Score hypothetical decisions (n_samples,) of certain probability; no observation."""
        proba = np.eye(len(self.like.classes_), dtype=np.float32)[decided]

        def no_model():
            raise ValueError("a hypothetical decision has no model behind it")

        try:
            return self._score((proba, self.like.classes_[decided], no_model))
        except Exception:  # noqa: BLE001  user code; the question is then left open
            return np.nan

    def _score(self, response: tuple, rows: np.ndarray | None = None) -> float:
        proba, labels, model = response
        X, y, params = self.rows.X, self.rows.y.copy(), self.rows.params
        if rows is not None:
            X = rows if self._hands_on_X else _safe_indexing(X, rows)
            y = y[rows]
            params = {key: _safe_indexing(value, rows) for key, value in params.items()}
        asked = slice(None) if rows is None else rows
        candidate = Candidate(self.like, proba, labels, self._known, asked, X, model)
        self.n_scorer_calls += 1
        return _finite(self.scorer(candidate, X, y, **params))

    def _explained(self, error: Exception) -> Exception:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        return kind(
            "The 'scoring' parameter of MetricOptFinetuner must be a scorer that gives one finite "
            f"number for the model as it came. It failed ({type(error).__name__}: {error}). Try "
            "scorer(estimator, X_val, y_val) by hand on any fitted classifier of these labels."
        )

    def _warn(self, error: Exception, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            said = text.format(f"{type(error).__name__}: {error}")
            warnings.warn(said, ObservationWarning, stacklevel=2)

    def _forget(self) -> None:
        """Let go of responses that cannot win any more."""
        if len(self._responses) > 2 * _KEEP_RESPONSES:
            scores = self.scores
            ranked = sorted(self._responses, key=lambda i: -scores[i])
            for index in ranked[_KEEP_RESPONSES:]:
                if index not in self._kept:
                    del self._responses[index]


def _finite(value) -> float:
    number = value.item() if getattr(value, "shape", None) == () else value  # array, tensor
    if not isinstance(number, numbers.Real) or isinstance(number, bool):
        raise TypeError(f"it returned {value!r} instead of a number")
    if not np.isfinite(number):
        raise ValueError(f"it returned {number!r}, which is not finite")
    return float(number)

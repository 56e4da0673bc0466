"""The observation engine: from responses of candidates to scores, within a budget."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from sk_metricopt._progress import Tick
from sk_metricopt._scoring import Response, Scoring
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
    scoring : Scoring
    budget : int
        Observations allowed.
    tick : callable
        Called with phase, score and best score after every observation.
    caller : str
        Whose parameter the scorer is.
    must_start : bool
        Whether a scorer that fails on the first observation is an error.

    Attributes
    ----------
    observations : list of Observation
    """

    def __init__(
        self, scoring: Scoring, budget: int, tick: Tick, caller: str, must_start: bool = True
    ):
        self.scoring = scoring
        self.budget = budget
        self._tick = tick
        self.caller = caller
        self._must_start = must_start
        self.observations: list[Observation] = []
        self._responses: dict[int, Response] = {}
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

    def observe(self, observation: Observation, response: Response, keep: bool = False) -> int:
        """Score one candidate on all validation rows and record the observation.

        Parameters
        ----------
        observation : Observation
            Its score is filled in.
        response : Response
        keep : bool
            Keep the response for good, to be scored on resamples however low the score.

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
        first = self._must_start and not self.observations
        try:
            observation.score = response.score()
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
                return response.score(rows)
        except Exception as error:  # noqa: BLE001  user code; one resample lost is no reason to stop
            if self.scoring.must_work_on(rows):
                self._warn(error, _ON_RESAMPLES)
            return np.nan

    def remembers(self, index: int) -> bool:
        """Whether observation `index` can still be scored on resamples."""
        return index in self._responses

    def _explained(self, error: Exception) -> Exception:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        return kind(
            f"The 'scoring' parameter of {self.caller} must be a scorer that gives one finite "
            f"number for the model as it came. It failed ({type(error).__name__}: {error}). Try "
            "scorer(estimator, X_val, y_val) by hand on any fitted estimator of this kind."
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

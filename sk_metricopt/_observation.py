"""The observation engine: from responses of candidates to scores, within a budget."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sk_metricopt._asking import Answer, Question, answers, called_off
from sk_metricopt._clock import Clock
from sk_metricopt._identity import digest
from sk_metricopt._journal import Journal, Key, number
from sk_metricopt._progress import Listener, ObservationState
from sk_metricopt._scoring import Response, Scoring, next_step
from sk_metricopt._stopping import Stop
from sk_metricopt.exceptions import ObservationWarning

_KEEP_RESPONSES = 32  # observations whose responses stay in memory, to be scored on resamples
_KEEP_BYTES, _KEEP_LEAST = 2**29, 20  # of them where they are large, and as many all the same
_REPEATS = 3  # more scores of one candidate, where a second one differs from the first

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
    candidate : str
        Digest of what is observed; empty where nobody asks.
    """

    step: int
    trajectory: int
    phase: str
    score: float = np.nan
    predicted_score: float = np.nan
    candidate: str = ""


@dataclass(frozen=True)
class Conduct:
    """How scorers are asked.

    Attributes
    ----------
    journal : Journal or None
        Where answers are kept.
    stop : Stop
        When to end early.
    n_jobs : int or None
        Workers, as joblib understands it.
    raises : bool
        Whether a scorer that fails ends the run at once.
    patience : int or None
        Failures in a row that end the run early; None goes on whatever happens.
    seed : int
        Of the streams that a scorer may draw from.
    clock : Clock
        Counts the time spent waiting for the scorer.
    """

    journal: Journal | None = None
    stop: Stop = field(default_factory=Stop)
    n_jobs: int | None = None
    raises: bool = False
    patience: int | None = None
    seed: int = 0
    clock: Clock = field(default_factory=Clock)


class ObservationEngine:
    """Enters candidates, has them scored, records, and scores again on resamples when asked.

    Parameters
    ----------
    scoring : Scoring
    budget : int
        Observations allowed.
    caller : str
        Whose parameter the scorer is.
    must_start : bool
        Whether a scorer that fails on the first observation is an error.
    conduct : Conduct
    listeners : sequence of callable
        Called with an ObservationState after every observation, when its answer is on disk.

    Attributes
    ----------
    observations : list of Observation
    stop : Stop
    clock : Clock
    noise : float
        Standard deviation of scores of one candidate, found by `measure_noise`.
    """

    def __init__(
        self,
        scoring: Scoring,
        budget: int,
        caller: str,
        must_start: bool = True,
        conduct: Conduct | None = None,
        listeners: Sequence[Listener] = (),
    ):
        self.scoring = scoring
        self.budget = budget
        self.caller = caller
        self._must_start = must_start
        self._conduct = conduct or Conduct()
        self._listeners = listeners
        self.stop = self._conduct.stop
        self.clock = self._conduct.clock
        self.noise = 0.0
        self.observations: list[Observation] = []
        self._n_settled = 0
        self._responses: dict[int, Response] = {}
        self._kept = {0}  # the model as it came is what all others are measured against
        self._warned: set[str] = set()
        self._unwritten: list[tuple[Key, str, dict, bool]] = []  # failures that may be an outage

    @property
    def revision(self) -> int:
        """Changes whenever a score that has been told does."""
        return 0

    @property
    def remaining(self) -> int:
        """Observations left."""
        return self.budget - len(self.observations)

    @property
    def scores(self) -> np.ndarray:
        """Scores of all observations so far; a failed one counts as minus infinity."""
        scores = np.array([o.score for o in self.observations])
        return np.where(np.isfinite(scores), scores, -np.inf)

    # observe ------------------------------------------------------------------------------------

    def enter(self, observation: Observation, response: Response, keep: bool = False) -> int:
        """Enter a candidate to be scored.

        Parameters
        ----------
        observation : Observation
        response : Response
        keep : bool
            Keep the response for good, to be scored on resamples however low the score.

        Returns
        -------
        int
            Index of the observation.
        """
        index = len(self.observations)
        self.observations.append(observation)
        self._responses[index] = response
        if keep:
            self._kept.add(index)
        return index

    def observed(self, index: int) -> bool:
        """Whether a candidate that was entered has been scored, in vain perhaps."""
        return index < self._n_settled

    def score(self) -> None:
        """Score on all validation rows what was entered; withdraw it where a run has to stop.

        A score is NaN if the scorer failed.

        Raises
        ------
        ValueError, TypeError
            If the scorer fails on the first observation, the model as it came: then it fails on
            everything.
        KeyboardInterrupt
            If interrupted a second time, or before anything is known.
        """
        waiting = range(self._n_settled, len(self.observations))
        known = {i: self._known(("observation", i), self.observations[i]) for i in waiting}
        questions = [self._question(i) for i in waiting if known[i] is None]
        with called_off(answers(questions, self._conduct.n_jobs)) as stream:
            for index in waiting:
                if self.stop.reason is not None and index:  # the model as it came needs its score
                    break
                score = known[index]
                if score is not None:
                    self.settle(index, score, replayed=True)
                    continue
                try:
                    with self.clock.on("scorer"):
                        answer = next(stream)
                except KeyboardInterrupt:
                    if self.stop.reason is not None or index == 0:
                        raise
                    self.stop.request("it was interrupted")
                    break
                self._take(index, answer)
        self._withdraw()

    def observe(self, observation: Observation, response: Response, keep: bool = False) -> int:
        """Enter one candidate and score it; return the index of the observation."""
        index = self.enter(observation, response, keep)
        self.score()
        return index

    def settle(self, index: int, score: float, replayed: bool = False) -> None:
        """Fill in the score of the next observation and tell of it."""
        observation = self.observations[index]
        observation.score = score
        self._n_settled = index + 1
        self._forget()
        for listener in self._listeners:
            listener(self._state(observation, replayed))

    def _state(self, observation: Observation, replayed: bool) -> ObservationState:
        return ObservationState(
            number=self._n_settled,
            budget=self.budget,
            phase=observation.phase,
            trajectory=observation.trajectory,
            step=observation.step,
            score=observation.score,
            best_score=float(self.scores[: self._n_settled].max()),
            predicted_score=observation.predicted_score,
            initial_score=self.observations[0].score,
            elapsed=self.stop.elapsed,
            replayed=replayed,
            stop=self.stop.request,
        )

    def _known(self, key: Key, observation: Observation) -> float | None:
        journal = self._conduct.journal
        record = None if journal is None else journal.recall(key, observation.candidate)
        return None if record is None else number(record["score"])

    def _take(self, index: int, answer: Answer) -> None:
        self.scoring.n_calls += answer.n_calls
        observation, key = self.observations[index], ("observation", index)
        if answer.error is not None:
            self._fail(index, answer.error)
        self._keep(key, observation, answer)
        self.settle(index, answer.score)
        self._stop_after_failures(answer.error)

    def _fail(self, index: int, error: Exception) -> None:
        if index == 0 and self._must_start:
            raise self._explained(error) from error
        if self._conduct.raises:
            raise error
        self._warn(error, _ON_CANDIDATE)

    def _stop_after_failures(self, error: Exception | None) -> None:
        patience = self._conduct.patience
        if error is None or patience is None:
            return
        last = [o.score for o in self.observations[: self._n_settled][-patience:]]
        if len(last) == patience and np.isnan(last).all():
            told = f"{type(error).__name__}: {error}"
            self.stop.request(f"the scorer failed {patience} times in a row (last: {told})")

    def _keep(self, key: Key, of: Observation, answer: Answer, sync: bool = True) -> None:
        """Write an answer down, a failure only once the scorer has worked again.

        Failures with no success after them may be an outage; whoever goes on later asks again.
        """
        journal = self._conduct.journal
        if journal is None:
            return
        self._unwritten.append((key, of.candidate, {"score": number(answer.score)}, sync))
        if answer.error is None:
            for record in self._unwritten:
                journal.append(*record)
            self._unwritten.clear()

    def _withdraw(self) -> None:
        for index in range(self._n_settled, len(self.observations)):
            self._responses.pop(index, None)
        del self.observations[self._n_settled :]

    # score again --------------------------------------------------------------------------------

    def measure_noise(self, index: int) -> None:
        """Score a candidate again to see whether the scorer is deterministic; set `noise`."""
        first = self.observations[index].score
        second = self._again(index, ["repeat"], [None])[0]
        if second == first or np.isnan(second):
            return
        names = [f"repeat {k}" for k in range(_REPEATS)]
        scores = [first, second, *self._again(index, names, [None] * _REPEATS)]
        self.noise = float(np.nanstd(scores, ddof=1))
        warnings.warn(
            f"The scorer is not deterministic: one model got {first:.6g} and {second:.6g}. Its "
            "noise counts against gains; a scorer without noise needs fewer observations.",
            ObservationWarning,
            stacklevel=2,
        )

    def resampled(self, index: int, bags: list[np.ndarray]) -> np.ndarray:
        """Return the scores of one observation on each bag of rows only; NaN where that fails."""
        names = [digest(bag) for bag in bags]
        return self._again(index, names, bags)

    def _again(self, index: int, names: list[str], bags: list) -> np.ndarray:
        """Return scores of an observation on bags of rows, all rows where one is None."""
        observation = self.observations[index]
        keys: list[Key] = [("again", index, name) for name in names]
        known = [
            np.nan if bag is not None and not len(bag) else self._known(key, observation)
            for key, bag in zip(keys, bags, strict=True)
        ]
        asked = [k for k, score in enumerate(known) if score is None]
        scores = np.array([np.nan if score is None else score for score in known])
        failures: list[tuple[Exception, np.ndarray]] = []
        questions = [self._question(index, names[k], bags[k]) for k in asked]
        # What is known already needs no worker.
        stream = answers(questions, 1 if self.scoring.by_query else self._conduct.n_jobs)
        with warnings.catch_warnings(), self.clock.on("scorer"):
            warnings.simplefilter("ignore")  # ill-defined on a few rows: of no use to anyone
            for k, answer in zip(asked, stream, strict=True):
                self.scoring.n_calls += answer.n_calls
                scores[k] = answer.score
                failures += [(answer.error, bags[k])] if answer.error is not None else []
                self._keep(keys[k], observation, answer, sync=False)
        for error, bag in failures:
            self._fail_again(error, bag)
        return scores

    def _fail_again(self, error: Exception, rows: np.ndarray | None) -> None:
        """One resample lost is no reason to stop, nor always one to speak."""
        if rows is not None and self.scoring.must_work_on(rows):
            self._warn(error, _ON_RESAMPLES)

    def _question(self, index: int, name: str = "", rows: np.ndarray | None = None) -> Question:
        seed = zlib.crc32(f"{self._conduct.seed} {index} {name}".encode())
        return Question(self._responses[index], rows, seed)

    def remembers(self, index: int) -> bool:
        """Whether observation `index` can still be scored on resamples."""
        return index in self._responses

    def why_not_judged(self) -> str | None:
        """Say why scores again do not tell how sure a gain is, if they do not."""
        return None

    # record -------------------------------------------------------------------------------------

    def record(self) -> dict[str, np.ndarray]:
        """Return the observations as columns."""
        names = ("step", "trajectory", "phase", "score", "predicted_score")
        return {name: np.array([getattr(o, name) for o in self.observations]) for name in names}

    def _explained(self, error: Exception) -> Exception:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        return kind(
            f"The 'scoring' parameter of {self.caller} must be a scorer that gives one finite "
            f"number for the model as it came. It failed ({type(error).__name__}: {error}). "
            + next_step(self.scoring.scorer, self.scoring.rows.y, error)
        )

    def _warn(self, error: Exception, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            said = text.format(f"{type(error).__name__}: {error}")
            warnings.warn(said, ObservationWarning, stacklevel=2)

    def _forget(self) -> None:
        """Let go of responses that cannot win any more."""
        settled = [i for i in self._responses if self.observed(i)]
        size = getattr(self._responses[settled[-1]], "nbytes", 1)
        affordable = _KEEP_BYTES // max(1, size)
        if len(settled) <= min(2 * _KEEP_RESPONSES, max(_KEEP_LEAST, affordable)):
            return
        scores = self.scores
        settled.sort(key=lambda i: -scores[i])
        for index in settled[max(_KEEP_LEAST, min(_KEEP_RESPONSES, affordable)) :]:
            if index not in self._kept:
                del self._responses[index]

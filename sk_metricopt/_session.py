"""Ask and tell: finetuning towards what no function can compute."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np

from sk_metricopt import _skorch, _validation
from sk_metricopt._checkpoint import bound_subject, opened_journal, seed_of
from sk_metricopt._finetuner import MetricOptFinetuner
from sk_metricopt._finetuning import Finetuning
from sk_metricopt._journal import number
from sk_metricopt._random import seeded
from sk_metricopt._roles import Data, check_estimator_kind, net_of
from sk_metricopt._scoring import ValidationRows
from sk_metricopt._stopping import Stop
from sk_metricopt._told import ToldEngine, ToldObserver

_ROWS = 512  # that show what a shift of decisions would change
# A scorer's affairs, and what a session decides itself.
_NOT_OURS = (
    "scoring",
    "use_validation_labels",
    "validation_fraction",
    "n_jobs",
    "error_score",
    "max_time",
    "callbacks",
)
_CALLER = "MetricOptSession"


@dataclass(frozen=True)
class SessionCandidate:
    """A model that waits for its score.

    Attributes
    ----------
    id : int
        What to tell the score of; 0 is the model as it came.
    phase : {"initial", "explore", "guide", "shift", "judge"}
        Why it is asked for.
    """

    id: int
    phase: str
    _model: Callable[[], object]

    @property
    def estimator(self) -> MetricOptFinetuner:
        """The model as a fitted estimator, ready to predict and to export."""
        return self._model()  # type: ignore[return-value]


class MetricOptSession:
    """Finetune towards a metric that only the world can tell: by asking and being told.

    A live experiment, a panel of people or a test in a laboratory is no scorer. A session hands out
    candidates, each a fitted estimator, and goes on when their scores have been told: the same run
    as `MetricOptFinetuner.fit`, with somebody else in the place of the scorer.

    All rows are training rows; scores are made on cases that the session never sees. How sure they
    are is told with them (`se`) or seen from candidates that are told repeatedly. Without either,
    the guard lets no change pass.

    Parameters
    ----------
    estimator : skorch net, EmbeddingRetriever, FrozenEstimator or torch.nn.Module
        As for `MetricOptFinetuner`.
    X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        Training rows.
    y : array-like of shape (n_samples,)
        Labels.
    checkpoint_dir : str, PathLike or None, default=None
        Folder where all that is told is kept. A session made again with the same estimator, rows,
        parameters and seed goes on from there, in another process too.
    **params : dict
        Further parameters of `MetricOptFinetuner`, such as ``max_observations=20`` and
        ``random_state=0``. `verbose` shows nothing: scores are told one by one.

    Attributes
    ----------
    waiting : list of int
        Candidates whose scores are needed next.
    finished : bool
        Whether there is nothing more to ask.
    observations : dict of ndarray
        As ``observations_`` of a finetuner, so far.

    See Also
    --------
    MetricOptFinetuner : Where a scorer can compute the metric.

    Notes
    -----
    Candidates come in rounds of a few. Scores of a round may be told in any order and repeatedly;
    the next round begins when all have been told. A score that cannot be had is told as NaN.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from skorch import NeuralNetClassifier
    >>> from sk_metricopt import MetricOptSession
    >>> X, y = load_wine(return_X_y=True)
    >>> net = NeuralNetClassifier(
    ...     torch.nn.Linear,
    ...     module__in_features=13,
    ...     module__out_features=3,
    ...     criterion=torch.nn.CrossEntropyLoss,
    ...     verbose=0,
    ... )
    >>> def experiment(model):  # stands for people who use the model for a day
    ...     return (model.predict(scale(X)[::2]) == y[::2]).mean()
    >>> session = MetricOptSession(net, scale(X), y, max_observations=12, random_state=0)
    >>> while not session.finished:
    ...     for candidate in session.ask():
    ...         session.tell(candidate.id, experiment(candidate.estimator), se=0.02)
    >>> session.result().predict(scale(X)).shape
    (178,)
    """

    def __init__(self, estimator, X, y, *, checkpoint_dir=None, **params):
        for name in _NOT_OURS:
            if name in params:
                raise TypeError(
                    f"The {name!r} parameter is not one of {_CALLER}. Got {params[name]!r}. Scores "
                    "are told, and all rows are training rows; leave it out."
                )
        self._finetuner = MetricOptFinetuner(
            estimator, use_validation_labels=False, checkpoint_dir=checkpoint_dir, **params
        )
        self._finetuner._validate_params()
        check_estimator_kind(estimator)
        self._finetuner._check_parts()
        self._open = contextlib.ExitStack()
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._open.close)
            self._journal = self._open.enter_context(opened_journal(self._finetuner))
            self._start(estimator, X, y)
            on_failure.pop_all()

    def _start(self, estimator, X, y) -> None:
        finetuner = self._finetuner
        self._seed = seed_of(finetuner, self._journal)
        self._device = _skorch.device_of(net_of(estimator))
        with self._calm():
            self._data = _training_data(finetuner, X, y, self._seed)
            stop = Stop()
            with stop.on_interrupt():
                self._subject = bound_subject(
                    finetuner, self._data, self._seed, self._journal, stop
                )
            if stop.interrupted:  # skorch only ended the net's training
                raise KeyboardInterrupt
            finetuner._take_classes(self._subject)
            task = finetuner._task(self._subject, self._data, False, self._seed)
            self._engine = ToldEngine(task.scoring, finetuner.max_observations, _CALLER, self._seed)
            self._observer = ToldObserver(
                task, self._engine, finetuner._value_function(), finetuner.warm_start_value
            )
            run = Finetuning(self._observer, finetuner._settings(), self._seed, n_folds=0)
            self._rounds = run.run()
        self._result: MetricOptFinetuner | None = None
        self._handed_out: Counter[int] = Counter()
        records = [] if self._journal is None else self._journal.records
        told = [record for record in records if record["key"][0] == "tell"]
        self._n_told = 1 + max((record["key"][1] for record in told), default=-1)
        self._past = sorted(told, key=lambda record: record["entered"])
        self._advance()
        self._relive()

    @contextlib.contextmanager
    def _calm(self) -> Iterator[None]:
        """Leave global random streams as they were."""
        with seeded(self._seed, self._device), warnings.catch_warnings():
            # Operators without a batching rule loop inside vmap.
            warnings.filterwarnings("ignore", ".*performance drop.*", UserWarning)
            yield

    # ask and tell -------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[int]:
        """Candidates whose scores are needed next."""
        return [] if self.finished else self._engine.waiting

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to ask."""
        return self._result is not None

    @property
    def observations(self) -> dict[str, np.ndarray]:
        """Columns ``step``, ``trajectory``, ``phase``, ``score`` and ``predicted_score``."""
        return self._engine.record()

    def ask(self, n=None) -> list[SessionCandidate]:
        """Hand out candidates to be scored.

        Parameters
        ----------
        n : int or None, default=None
            At most so many; None is all that wait for their score.

        Returns
        -------
        list of SessionCandidate
            That wait for their score, those first that have been handed out least often. Empty
            only in the end.

        Raises
        ------
        ValueError
            If `n` is not positive.
        """
        if n is not None and (not isinstance(n, Integral) or isinstance(n, bool) or n < 1):
            raise ValueError(
                f"The 'n' parameter of {_CALLER}.ask must be a positive int or None. Got {n!r} "
                "instead. Leave it out for all candidates of the round."
            )
        next_ones = sorted(self.waiting, key=lambda index: (self._handed_out[index], index))[:n]
        self._handed_out.update(next_ones)
        return [self.candidate(index) for index in next_ones]

    def candidate(self, id) -> SessionCandidate:
        """Return a candidate of this session again.

        Parameters
        ----------
        id : int

        Returns
        -------
        SessionCandidate

        Raises
        ------
        ValueError
            If there is none of this id, or its weights are gone: only those that wait and the
            better ones are kept.
        """
        self._check_id(id)
        if not self._engine.remembers(id):
            raise ValueError(
                f"The 'id' parameter of {_CALLER}.candidate must be one that is still kept. Got "
                f"{id}, which has been told and is not among the better ones. Ask for another."
            )
        return SessionCandidate(
            int(id), self._engine.observations[id].phase, self._engine.model(id)
        )

    def tell(self, id, score, se=None) -> None:
        """Tell the score of a candidate; it is kept before this returns.

        Parameters
        ----------
        id : int
            Of the candidate.
        score : float
            Greater is better. NaN if it cannot be had. Told again, a candidate has the mean,
            weighted by ``1 / se ** 2`` where all standard errors are known.
        se : float or None, default=None
            Standard error of the score.

        Raises
        ------
        ValueError, TypeError
            If there is no such candidate, or score or `se` is no number.
        """
        self._check_id(id)
        if not isinstance(score, Real) or isinstance(score, bool) or math.isinf(score):
            raise TypeError(
                f"The 'score' parameter of {_CALLER}.tell must be a number, or NaN where it cannot "
                f"be had. Got {score!r} instead."
            )
        wrong = not isinstance(se, Real | None) or isinstance(se, bool)
        if wrong or (se is not None and not 0 <= se < math.inf):
            raise ValueError(
                f"The 'se' parameter of {_CALLER}.tell must be a finite number that is not "
                f"negative, or None. Got {se!r} instead. It is the standard error of the score."
            )
        if id == 0 and math.isnan(score) and not np.isfinite(self._engine.scores[0]):
            raise ValueError(
                f"The 'score' parameter of {_CALLER}.tell must be finite for candidate 0, the "
                "model as it came: all others are compared with it. Got NaN."
            )
        if self.finished:
            raise ValueError(
                f"The session has its result, and no score changes it any more. Got one for "
                f"candidate {id}. Make a new {_CALLER} to go on."
            )
        self._write(int(id), float(score), None if se is None else float(se))
        self._engine.tell(int(id), float(score), se)
        self._relive()

    def result(self) -> MetricOptFinetuner:
        """Return the finetuned estimator, if the guard lets it pass, else the model as it came.

        Before the end, the best candidate so far is judged by the scores that it was chosen by,
        and has to stand out as far as the best of that many must. The session then is at its end;
        one that is made again from its checkpoint goes on from before.

        Returns
        -------
        MetricOptFinetuner
            Fitted.

        Raises
        ------
        ValueError
            If the model as it came, candidate 0, has no score yet.
        """
        if not self.finished:
            if not np.isfinite(self._engine.scores[0]):
                raise ValueError(
                    f"{_CALLER}.result needs the score of the model as it came. Got none. Tell "
                    "the score of candidate 0 first."
                )
            self._engine.stop.request("the result was asked for")
            while not self.finished:
                self._engine.end_round()
                self._advance()
        return self._result  # type: ignore[return-value]

    def close(self) -> None:
        """Let go of the checkpoint folder; the end of the session does so too."""
        self._open.close()

    def __enter__(self) -> MetricOptSession:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # the run ------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Go on to the next round of candidates, or to the result."""
        try:
            with self._calm():
                next(self._rounds)
        except StopIteration as end:
            self._finetuner._deploy(self._subject, self._data, end.value, self._observer)
            self._finetuner.report_ = replace(self._finetuner.report_, scorer="scores told")
            self._result = self._finetuner
            self.close()

    def _relive(self) -> None:
        """Go through what was told earlier as far as it leads, and on to where scores are needed.

        Each record says how many candidates there were when it was made, so that rounds end as
        they did then.
        """
        while not self.finished:
            there = len(self._engine.observations)
            while self._past and self._past[0]["entered"] == there:
                self._hear(self._past.pop(0))
            if self._engine.waiting:
                return
            self._engine.end_round()
            self._advance()

    def _hear(self, record: dict) -> None:
        index, there = record["candidate"], self._engine.observations
        candidate = there[index].candidate if 0 <= index < len(there) else ""
        self._journal.recall(tuple(record["key"]), candidate)  # type: ignore[union-attr]
        self._engine.tell(index, number(record["score"]), record["se"])  # type: ignore[arg-type]

    def _write(self, index: int, score: float, se: float | None) -> None:
        if self._journal is None:
            return
        observations = self._engine.observations
        answer = {
            "candidate": index,
            "score": number(score),
            "se": se,
            "entered": len(observations),
        }
        self._journal.append(("tell", self._n_told), observations[index].candidate, answer)
        self._n_told += 1

    def _check_id(self, id) -> None:
        n = len(self._engine.observations)
        if not isinstance(id, Integral) or isinstance(id, bool) or not 0 <= id < n:
            raise ValueError(
                f"The 'id' parameter of {_CALLER} must be that of a candidate handed out, 0 to "
                f"{n - 1}. Got {id!r} instead. `ask` returns candidates with their ids."
            )


def _training_data(finetuner: MetricOptFinetuner, X, y, seed: int) -> Data:
    """Return all rows as training rows, some of which show what candidates do."""
    finetuner._set_dtype(X)
    X, y = _validation.features_and_labels(finetuner, X, y, finetuner._dtype, reset=True)
    _validation.check_encodable(y)
    some = np.random.RandomState(seed).permutation(len(y))[:_ROWS]
    names = getattr(finetuner, "feature_names_in_", None)
    shown = ValidationRows(X[some], y[some])
    return Data(X, y, {}, X[some], shown, finetuner._get_scorer(), (X, y), names)

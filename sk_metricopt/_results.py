"""Fitted attributes that all estimators of this library share, and the record of a fit."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields

from sk_metricopt._guard import Verdict
from sk_metricopt._judge import FinetuningResult
from sk_metricopt._observation import ObservationEngine
from sk_metricopt._observer import Observer
from sk_metricopt._roles import Subject
from sk_metricopt._scoring import scorer_name

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitReport:
    """What a fit found, and what it took.

    Parameters
    ----------
    scorer : str
        Name of the metric.
    initial_score, best_score : float
        Of the model as it came and of the model returned, on the validation rows.
    gain, gain_se : float
        What the guard judged, and its paired standard error.
    gain_needed : float or None
        What the gain had to exceed; None where none was judged, or there is no guard.
    improved : bool
        Whether the model changed.
    verdict : str
        The guard's decision in words.
    n_observations, n_scorer_calls : int
        Metric observations, and calls of the scorer for them and for resamples of them.
    adapter_norms : dict of str to float
        Norm of φ at each host layer; empty for a post-shift.
    seconds : dict of str to float
        Wall-clock time of each part, and in total; of a session waiting for scores is in "other".
        Two reports are equal whatever these are.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sk_metricopt import PostShiftClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> est = PostShiftClassifier(GaussianNB(), scoring="f1_macro", random_state=0).fit(X, y)
    >>> est.report_.scorer, est.report_.improved
    ('f1_macro', False)
    >>> "total" in est.report_.seconds
    True
    """

    scorer: str
    initial_score: float
    best_score: float
    gain: float
    gain_se: float
    gain_needed: float | None
    improved: bool
    verdict: str
    n_observations: int
    n_scorer_calls: int
    adapter_norms: dict[str, float]
    seconds: dict[str, float] = field(compare=False)

    def __repr__(self) -> str:
        shown = {name: _shown(getattr(self, name)) for name in (f.name for f in fields(self))}
        width = max(map(len, shown))
        lines = [f"  {name:<{width}}  {text}" for name, text in shown.items() if text]
        return "\n".join(["FitReport", *lines])


def _shown(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part:.3g}" for name, part in value.items())
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def set_finetuned(
    estimator, subject: Subject, result: FinetuningResult, observer: Observer
) -> None:
    """Set what finetuning found, and how."""
    adapted, phi = observer.task.adapted, result.adapter_params
    if result.verdict.improved:
        estimator.initial_estimator_ = subject.deployed(subject.bridge.module)
        estimator.estimator_ = subject.deployed(adapted.fold(phi))
    else:
        estimator.initial_estimator_ = estimator.estimator_ = subject.deployed(None)
    estimator.adapter_ = adapted.adapter
    estimator.adapter_params_ = phi.cpu().numpy()
    estimator.value_function_ = observer.value_function
    estimator.score_noise_ = observer.engine.noise
    net = getattr(estimator.estimator_, "estimator_", estimator.estimator_)  # inside a retriever
    estimator.history_ = net.history
    set_results(estimator, result.verdict, observer.engine, adapted.norms(phi))


def set_results(
    estimator, verdict: Verdict, engine: ObservationEngine, adapter_norms: dict[str, float]
) -> None:
    """Set what was decided, and the record of observations."""
    estimator.initial_score_ = verdict.initial_score
    estimator.best_score_ = verdict.best_score
    estimator.score_gain_ = verdict.gain.value
    estimator.score_gain_se_ = verdict.gain.se
    estimator.resampled_gains_ = verdict.gain.resampled
    estimator.improved_ = verdict.improved
    estimator.verdict_ = verdict.reason
    estimator.n_observations_ = len(engine.observations)
    estimator.n_scorer_calls_ = engine.scoring.n_calls
    estimator.observations_ = engine.record()
    _LOG.info("%s, %d observations: %s", engine.caller, estimator.n_observations_, verdict.reason)
    estimator.report_ = FitReport(
        scorer=scorer_name(estimator.scoring, estimator.scorer_),
        initial_score=verdict.initial_score,
        best_score=verdict.best_score,
        gain=float(verdict.gain.value),
        gain_se=float(verdict.gain.se),
        gain_needed=None if verdict.needed is None else float(verdict.needed),
        improved=verdict.improved,
        verdict=verdict.reason,
        n_observations=estimator.n_observations_,
        n_scorer_calls=estimator.n_scorer_calls_,
        adapter_norms=adapter_norms,
        seconds=engine.clock.split(),
    )

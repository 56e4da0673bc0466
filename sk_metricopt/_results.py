"""Fitted attributes that all estimators of this library share."""

from __future__ import annotations

import logging

from sk_metricopt._guard import Verdict
from sk_metricopt._observation import ObservationEngine

_LOG = logging.getLogger(__name__)


def set_results(estimator, verdict: Verdict, engine: ObservationEngine) -> None:
    """Set what was decided, and the record of observations."""
    estimator.initial_score_ = verdict.initial_score
    estimator.best_score_ = verdict.best_score
    estimator.score_gain_ = verdict.gain
    estimator.score_gain_se_ = verdict.gain_se
    estimator.improved_ = verdict.improved
    estimator.verdict_ = verdict.reason
    estimator.n_observations_ = len(engine.observations)
    estimator.n_scorer_calls_ = engine.scoring.n_calls
    estimator.observations_ = engine.record()
    _LOG.info("%s, %d observations: %s", engine.caller, estimator.n_observations_, verdict.reason)

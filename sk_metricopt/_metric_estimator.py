"""What estimators have in common that serve one metric: its scorer, and routing."""

from __future__ import annotations

from sklearn.metrics import check_scoring, get_scorer
from sklearn.utils import Bunch
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _raise_for_params,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted

from sk_metricopt import _validation
from sk_metricopt._html import HTMLMixin
from sk_metricopt._onnx_mixin import OnnxMixin

_NOTHING = {
    "estimator": Bunch(fit={}),
    "scorer": Bunch(score={}),
    "splitter": Bunch(split={}),
}


class MetricEstimatorMixin(HTMLMixin, OnnxMixin):
    """Methods of a meta-estimator with the parameters `estimator` and `scoring`."""

    def _get_scorer(self):
        """Return the scorer; None is accuracy, the score of a classifier."""
        if self.scoring is None:
            return get_scorer("accuracy")
        return check_scoring(self, scoring=self.scoring)

    def _route(self, method: str, params: dict) -> Bunch:
        """Return which metadata goes where."""
        if not _routing_enabled():
            _raise_for_params(params, self, method)
            return Bunch(**_NOTHING)
        routed = process_routing(self, method, **params)
        return Bunch(**{role: routed.get(role, empty) for role, empty in _NOTHING.items()})

    def score(self, X, y, **params):
        """Return the score of the metric that the estimator serves.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,)
        **params : dict
            Metadata, routed to the scorer.

        Returns
        -------
        float
            Greater is better.
        """
        check_is_fitted(self)
        routed = self._route("score", params)
        X, y = _validation.as_array(X), _validation.as_array(y)
        return self.scorer_(self, X, y, **routed.scorer.score)

    def get_metadata_routing(self):
        """Return which metadata goes to the wrapped estimator and which to the scorer.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        if hasattr(self.estimator, "get_metadata_routing"):
            router.add(
                estimator=self.estimator,
                method_mapping=MethodMapping().add(caller="fit", callee="fit"),
            )
        return router.add(
            scorer=self._get_scorer(),
            method_mapping=MethodMapping()
            .add(caller="fit", callee="score")
            .add(caller="score", callee="score"),
        )

"""MetricOptDisplay: what a fit saw and what it changed, as plots."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.utils._param_validation import StrOptions, validate_parameter_constraints

from sk_metricopt import _drawing
from sk_metricopt._optional import import_optional_dependency
from sk_metricopt.inspection._comparison import (
    ClassifierComparison,
    Comparison,
    RetrieverComparison,
    check_comparable,
    compared,
)

_CALLER = "MetricOptDisplay.from_estimator"


class MetricOptDisplay:
    """Plots of what a fit saw, and of what it changed.

    Make it by `from_estimator`. As scikit-learn's displays, it holds what it takes to plot again,
    not the estimator.

    Parameters
    ----------
    kind : {"trajectories", "budget", "gain", "calibration", "change"}
        What is plotted; see `from_estimator`.
    data : dict
        What to plot.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it was plotted last.
    figure_ : matplotlib.figure.Figure
        The figure of `ax_`.

    See Also
    --------
    sk_metricopt.inspection.finetuning_report : The same in numbers, on test rows.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sk_metricopt import MetricOptDisplay, PostShiftClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> est = PostShiftClassifier(GaussianNB(), scoring="f1_macro", random_state=0).fit(X, y)
    >>> display = MetricOptDisplay.from_estimator(est, kind="budget")
    >>> display.ax_.get_xlabel()
    'metric observations'
    """

    def __init__(self, kind, data):
        self.kind = kind
        self.data = data

    @classmethod
    def from_estimator(cls, est, X=None, y=None, *, kind="trajectories", ax=None):
        """Plot a fitted estimator.

        Parameters
        ----------
        est : MetricOptFinetuner or PostShiftClassifier
            Fitted.
        X : array-like of shape (n_samples, n_features) or (n_samples, ...), default=None
            Rows that had no part in the fit; needed for "calibration" and "change".
        y : array-like of shape (n_samples,), default=None
            Their labels.
        kind : {"trajectories", "budget", "gain", "calibration", "change"}, default="trajectories"
            "trajectories": scores along the trajectories of a finetuner, those that were explored
            and those of guided agents, with what the value function predicted of the latter and a
            band of its root mean squared error. "budget": the best score so far against the number
            of observations. "gain": the gain that was judged, on each resample, and what the guard
            asked for. "calibration": how often what the probabilities say is so, before and
            after, in 10 bins of as many rows each; of two classes the probability of the second,
            of more that of the likeliest. "change": the recall of each class before and after; of
            a retriever what each query gained or lost, by its scorer, or by recall@1 where that
            does not tell what each query contributes.
        ax : matplotlib.axes.Axes, default=None
            Where to plot. By default a new figure is made.

        Returns
        -------
        MetricOptDisplay

        Raises
        ------
        TypeError, ValueError
            If the estimator has no such plot, or the rows it takes are missing.
        ImportError
            If matplotlib is missing.
        """
        constraints = {"kind": [StrOptions(set(_KINDS))]}
        validate_parameter_constraints(constraints, {"kind": kind}, caller_name=_CALLER)
        check_comparable(est, _CALLER)
        collect, needs_rows = _KINDS[kind]
        if not needs_rows:
            return cls(kind, collect(est)).plot(ax=ax)
        if X is None or y is None:
            raise ValueError(
                f"{_CALLER} needs X and y for kind={kind!r}. Got none. Pass rows that had no part "
                "in the fit, and their labels."
            )
        return cls(kind, collect(compared(est, X, y, _CALLER))).plot(ax=ax)

    def plot(self, ax=None):
        """Plot.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where to plot. By default a new figure is made.

        Returns
        -------
        self : MetricOptDisplay

        Raises
        ------
        ImportError
            If matplotlib is missing.
        """
        pyplot = import_optional_dependency("matplotlib.pyplot", "inspection")
        if ax is None:
            _, ax = pyplot.subplots(layout="constrained")
        _drawing.DRAW[self.kind](ax, **self.data)
        self.ax_, self.figure_ = ax, ax.figure
        return self


# what each kind shows ---------------------------------------------------------------------------


def _observed(est) -> dict:
    """Return the observations that did not fail, and what they are measured by."""
    observations = est.observations_
    known = np.isfinite(observations["score"])
    return {
        **{name: column[known] for name, column in observations.items()},
        "number": np.flatnonzero(known) + 1,
        "initial_score": est.initial_score_,
        "best_score": est.best_score_ if est.improved_ else None,
        "scorer": est.report_.scorer,
    }


def _trajectories(est) -> dict:
    if not hasattr(est, "adapter_params_"):
        raise ValueError(
            f"The 'kind' parameter of {_CALLER} must be 'budget', 'gain', 'calibration' or "
            "'change' for a PostShiftClassifier, which has no trajectories. Got 'trajectories' "
            "instead."
        )
    return _observed(est)


def _gain(est) -> dict:
    report = est.report_
    return {
        "gains": est.resampled_gains_[np.isfinite(est.resampled_gains_)],
        "gain": report.gain,
        "needed": report.gain_needed,
        "verdict": report.verdict,
        "scorer": report.scorer,
    }


def _calibration(comparison: Comparison) -> dict:
    if not isinstance(comparison, ClassifierComparison):
        raise ValueError(
            f"The 'kind' parameter of {_CALLER} must be another than 'calibration' for an "
            "EmbeddingRetriever, which has no probabilities. Got 'calibration'. Try 'change'."
        )
    classes = comparison.classes
    return {
        "bins": [comparison.bins(which) for which in (0, 1)],
        "of": repr(classes[1].item()) if len(classes) == 2 else None,
    }


def _change(comparison: Comparison) -> dict:
    if isinstance(comparison, RetrieverComparison):
        change = np.diff(comparison.per_query(), axis=0)[0]
        return {"queries": change[~np.isnan(change)], "scorer": comparison.by_query.short_name}
    recalls = comparison.recalls()  # type: ignore[attr-defined]
    present = ~np.isnan(recalls[0])
    counts = np.bincount(comparison.codes, minlength=len(present))  # type: ignore[attr-defined]
    return {
        "recalls": recalls[:, present],
        "classes": comparison.classes[present],  # type: ignore[attr-defined]
        "counts": counts[present],
    }


_KINDS: dict[str, tuple[Callable, bool]] = {
    "trajectories": (_trajectories, False),
    "budget": (_observed, False),
    "gain": (_gain, False),
    "calibration": (_calibration, True),
    "change": (_change, True),
}

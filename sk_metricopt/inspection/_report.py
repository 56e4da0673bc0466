"""finetuning_report: the model as it came and the fitted estimator on test rows."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.utils._param_validation import Interval, validate_parameter_constraints

from sk_metricopt._optional import import_optional_dependency
from sk_metricopt._random import draw_seed, seeded
from sk_metricopt._results import FitReport
from sk_metricopt._scoring import scorer_name
from sk_metricopt.inspection._comparison import (
    ClassifierComparison,
    RetrieverComparison,
    compared,
)
from sk_metricopt.inspection._tables import Table
from sk_metricopt.metrics import make_retrieval_scorer

_CALLER = "finetuning_report"
_OUTSIDE = 2.5, 97.5  # per cent, what an interval leaves out
_SHOWN_AS = {  # the arrow says which way is better
    "accuracy": "accuracy ↑",
    "macro_f1": "macro-F1 ↑",
    "log_loss": "log loss ↓",
    "brier_score": "Brier score ↓",
    "calibration_error": "calibration error ↓",
    "recall_at_1": "recall@1 ↑",
    "map_at_r": "mAP@R ↑",
}
_STYLE = (
    "<style>.sk-metricopt table{border-collapse:collapse;margin:.6em 0}"
    ".sk-metricopt caption{text-align:left;font-weight:bold;padding:.2em 0;white-space:nowrap}"
    ".sk-metricopt th,.sk-metricopt td{padding:.15em .8em;text-align:right}"
    ".sk-metricopt th:first-child{text-align:left}.sk-metricopt tbody th{font-weight:normal}"
    ".sk-metricopt thead th{border-bottom:1px solid currentColor}</style>"
)


@dataclass(frozen=True)
class FinetuningReport:
    """What a fit changed, on rows that had no part in it; made by `finetuning_report`.

    In a notebook it shows itself as tables.

    Parameters
    ----------
    scorer : str
        Name of the metric.
    n_samples, n_resamples : int
        Rows, and paired resamples of them.
    before, after : float
        Score of the model as it came, and of the fitted estimator.
    gain_low, gain_high : float
        Between which the gain is on 95 % of the resamples; NaN where the scorer fails on all.
    metrics : dict of str to tuple of float
        Other metrics, before and after. Of a classifier ``accuracy``, ``macro_f1``, ``log_loss``,
        ``brier_score`` and ``calibration_error``: the mean distance between what the likeliest
        class's probability says and how often it is right (of two classes, the second's), in 10
        bins of as many rows each. Of a retriever ``recall_at_1`` and ``map_at_r``.
    n_changed : int
        Rows decided otherwise than before; of a retriever, queries whose value changed.
    changes : dict of ndarray
        Which way, the most frequent first. Of a classifier a row for each pair of decisions
        ``before`` and ``after``, with the number of rows ``n`` and how many of them were
        ``put_right``, ``spoilt`` or are ``still_wrong``. Of a retriever a row per ``label``, with
        the number of queries ``n``, how many ``gained`` and ``lost``, and the ``mean_change`` of
        their value. ``pandas.DataFrame(report.changes)`` is a table.
    fit : FitReport
        What the fit itself found on its validation rows.

    Attributes
    ----------
    gain : float
        `after` less `before`.

    See Also
    --------
    finetuning_report : Makes it.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sk_metricopt import PostShiftClassifier
    >>> from sk_metricopt.inspection import finetuning_report
    >>> X, y = load_wine(return_X_y=True)
    >>> est = PostShiftClassifier(GaussianNB(), scoring="f1_macro", random_state=0)
    >>> report = finetuning_report(est.fit(X[::2], y[::2]), X[1::2], y[1::2], n_resamples=20)
    >>> report.n_samples, report.n_changed, report.gain
    (89, 0, 0.0)
    >>> print(report.to_markdown().splitlines()[0])
    ## Finetuning towards f1_macro
    """

    scorer: str
    n_samples: int
    n_resamples: int
    before: float
    after: float
    gain_low: float
    gain_high: float
    metrics: dict[str, tuple[float, float]]
    n_changed: int
    changes: dict[str, np.ndarray]
    fit: FitReport

    @property
    def gain(self) -> float:
        """The score after less the score before."""
        return self.after - self.before

    def to_frame(self):
        """Return the metrics as a table.

        Returns
        -------
        pandas.DataFrame
            A row per metric, the scorer first; columns ``before``, ``after``, ``change``, and
            ``low`` and ``high`` of the interval, which is known of the scorer's.

        Raises
        ------
        ImportError
            If pandas is missing.
        """
        pandas = import_optional_dependency("pandas", "inspection")
        index, rows = [self.scorer], [(self.before, self.after, self.gain_low, self.gain_high)]
        for name, (before, after) in self.metrics.items():
            index.append(name)
            rows.append((before, after, math.nan, math.nan))
        frame = pandas.DataFrame(rows, index=index, columns=["before", "after", "low", "high"])
        frame.index.name = "metric"
        frame.insert(2, "change", frame["after"] - frame["before"])
        return frame

    def to_markdown(self) -> str:
        """Return a section for a model card.

        Returns
        -------
        str
            Markdown, from a heading of the second level.
        """
        parts = [f"## Finetuning towards {self.scorer}", *self._sentences()]
        return "\n\n".join([*parts, *(table.markdown() for table in self._tables())]) + "\n"

    def _repr_html_(self) -> str:
        paragraphs = "".join(f"<p>{html.escape(s)}</p>" for s in self._sentences())
        tables = "".join(table.html() for table in self._tables())
        return f'{_STYLE}<div class="sk-metricopt">{paragraphs}{tables}</div>'

    def __repr__(self) -> str:
        tables = (table.text() for table in self._tables())
        return "\n\n".join(["FinetuningReport", "\n".join(self._sentences()), *tables])

    # parts --------------------------------------------------------------------------------------

    def _sentences(self) -> list[str]:
        interval = f"{self.gain_low:+.4f} to {self.gain_high:+.4f}"
        fit = self.fit
        return [
            f"On {self.n_samples} test rows {self.scorer} went from {self.before:.4f} to "
            f"{self.after:.4f}: {self.gain:+.4f}, 95 % interval {interval} ({self.n_resamples} "
            "paired resamples).",
            f"The fit said: {fit.verdict} ({fit.n_observations} metric observations, "
            f"{fit.n_scorer_calls} calls of the scorer, {fit.seconds['total']:.1f} s).",
            self._said_of_changes(),
        ]

    def _said_of_changes(self) -> str:
        changes = self.changes
        if "label" in changes:
            gained, lost = changes["gained"].sum(), changes["lost"].sum()
            n = changes["n"].sum()
            return f"{self.n_changed} of {n} queries changed: {gained} gained, {lost} lost."
        counts = {name: changes[name].sum() for name in ("put_right", "spoilt", "still_wrong")}
        said = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items())
        return f"{self.n_changed} of {self.n_samples} decisions changed: {said}."

    def _tables(self) -> list[Table]:
        tables = []
        if self.metrics:
            rows = [
                (_SHOWN_AS[name], f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
                for name, (before, after) in self.metrics.items()
            ]
            tables.append(Table("Other metrics", ("metric", "before", "after", "change"), rows))
        if self.n_changed:
            columns = [_written(values) for values in self.changes.values()]
            header = tuple(name.replace("_", " ") for name in self.changes)
            title = "Changes by label" if "label" in self.changes else "Changed decisions"
            tables.append(Table(title, header, list(zip(*columns, strict=True))))
        if self.fit.adapter_norms:
            norms = [(name, f"{norm:.3g}") for name, norm in self.fit.adapter_norms.items()]
            tables.append(Table("How far layers moved", ("layer", "norm of φ"), norms))
        seconds = [(name, f"{s:.1f}") for name, s in self.fit.seconds.items()]
        tables.append(Table("Time of the fit", ("part", "seconds"), seconds))
        return tables


def _written(values: np.ndarray) -> list[str]:
    if values.dtype.kind == "f":
        return [f"{value:+.4f}" for value in values]
    return [str(value) for value in values.tolist()]


def finetuning_report(est, X_test, y_test, *, n_resamples=1000, random_state=0, **params):
    """Compare a fitted estimator with the model as it came, on test rows.

    Rows of `fit`, validation rows included, flatter the fitted estimator: pass others. The
    interval is that of the difference on resamples which both models are scored on: bootstraps
    within each class; for retrievers halves of the labels, or of the rows where labels are few,
    since a row that is drawn twice would find itself.

    Parameters
    ----------
    est : MetricOptFinetuner or PostShiftClassifier
        Fitted.
    X_test : array-like of shape (n_samples, n_features) or (n_samples, ...)
    y_test : array-like of shape (n_samples,)
    n_resamples : int, default=1000
        Each takes two calls of the scorer.
    random_state : int, RandomState instance or None, default=0
        Seeds resampling. Global random streams are left as they were.
    **params : dict
        Metadata for the scorer, routed as by ``est.score``.

    Returns
    -------
    FinetuningReport

    Raises
    ------
    TypeError, ValueError
        If `est` is no fitted one of this library's, or the rows do not fit it.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from sk_metricopt import PostShiftClassifier
    >>> from sk_metricopt.inspection import finetuning_report
    >>> X, y = load_wine(return_X_y=True)
    >>> est = PostShiftClassifier(GaussianNB(), scoring="f1_macro", random_state=0)
    >>> finetuning_report(est.fit(X[::2], y[::2]), X[1::2], y[1::2], n_resamples=20)
    FinetuningReport
    <BLANKLINE>
    On 89 test rows f1_macro went from ...
    """
    validate_parameter_constraints(
        {
            "n_resamples": [Interval(Integral, 2, None, closed="left")],
            "random_state": ["random_state"],
        },
        {"n_resamples": n_resamples, "random_state": random_state},
        caller_name=_CALLER,
    )
    seed = draw_seed(random_state)
    with seeded(seed):
        comparison = compared(est, X_test, y_test, _CALLER, params)
        (before,), (after,) = comparison.scores([None], seed)
        low, high = _interval(comparison.gains(n_resamples, seed))
        about: dict = _ABOUT[type(comparison)](comparison)
    return FinetuningReport(
        scorer=scorer_name(est.scoring, est.scorer_),
        n_samples=len(comparison.y),
        n_resamples=n_resamples,
        before=float(before),
        after=float(after),
        gain_low=low,
        gain_high=high,
        fit=est.report_,
        **about,
    )


def _interval(gains: np.ndarray) -> tuple[float, float]:
    known = gains[np.isfinite(gains)]
    low, high = np.percentile(known, _OUTSIDE) if len(known) else (math.nan, math.nan)
    return float(low), float(high)


# classifiers ------------------------------------------------------------------------------------


def _about_classifiers(comparison: ClassifierComparison) -> dict:
    metrics = [_metrics(comparison, which) for which in (0, 1)]
    old, new = comparison.decided
    moved = np.flatnonzero(old != new)
    right = [comparison.codes[moved] == decided[moved] for decided in (old, new)]
    n_classes = len(comparison.classes)
    pairs, pair_of = np.unique(old[moved] * n_classes + new[moved], return_inverse=True)

    def count(rows: np.ndarray) -> np.ndarray:
        return np.bincount(pair_of[rows], minlength=len(pairs))

    changes = {
        "before": comparison.classes[pairs // n_classes],
        "after": comparison.classes[pairs % n_classes],
        "n": count(np.ones(len(moved), dtype=bool)),
        "put_right": count(right[1]),
        "spoilt": count(right[0]),
        "still_wrong": count(~right[0] & ~right[1]),
    }
    order = np.argsort(-changes["n"], kind="stable")
    return {
        "metrics": {name: (value, metrics[1][name]) for name, value in metrics[0].items()},
        "n_changed": len(moved),
        "changes": {name: column[order] for name, column in changes.items()},
    }


def _metrics(comparison: ClassifierComparison, which: int) -> dict[str, float]:
    codes, proba = comparison.codes, comparison.proba[which].astype(np.float64)
    proba /= proba.sum(axis=1, keepdims=True)  # of float32 they sum to almost 1
    decided, n_classes = comparison.decided[which], proba.shape[1]
    squares = ((proba - np.eye(n_classes)[codes]) ** 2).sum(axis=1).mean()
    said, is_so, share = comparison.bins(which)
    return {
        "accuracy": float(accuracy_score(codes, decided)),
        "macro_f1": float(f1_score(codes, decided, average="macro", zero_division=0)),
        "log_loss": float(log_loss(codes, proba, labels=np.arange(n_classes))),
        "brier_score": float(squares / 2 if n_classes == 2 else squares),
        "calibration_error": float((share * np.abs(said - is_so)).sum()),
    }


# retrievers -------------------------------------------------------------------------------------


def _about_retrievers(comparison: RetrieverComparison) -> dict:
    values = comparison.per_query()
    counted = ~np.isnan(values).any(axis=0)
    change = np.diff(values, axis=0)[0][counted]
    labels, label_of = np.unique(comparison.y[counted], return_inverse=True)

    def count(rows: np.ndarray) -> np.ndarray:
        return np.bincount(label_of[rows], minlength=len(labels))

    n = np.bincount(label_of, minlength=len(labels))
    total = np.bincount(label_of, weights=change, minlength=len(labels))
    changes = {
        "label": labels,
        "n": n,
        "gained": count(change > 0),
        "lost": count(change < 0),
        "mean_change": total / n,
    }
    order = np.argsort(-np.abs(total), kind="stable")
    return {
        "metrics": _search_metrics(comparison),
        "n_changed": int((change != 0).sum()),
        "changes": {name: column[order] for name, column in changes.items()},
    }


def _search_metrics(comparison: RetrieverComparison) -> dict[str, tuple[float, float]]:
    """Return metrics of search in the gallery that the scorer searches."""
    scorer = comparison.models[1].scorer_
    if getattr(scorer, "relevance", None) is not None:  # labels do not tell what is relevant
        return {}
    gallery = getattr(scorer, "gallery", "self")
    makers: dict[str, Callable] = {
        "recall_at_1": make_retrieval_scorer("recall_at_k", k=1, gallery=gallery),
        "map_at_r": make_retrieval_scorer("mean_average_precision_at_r", gallery=gallery),
    }
    X, y = comparison.rows.X, comparison.y
    return {
        name: tuple(float(score(model, X, y)) for model in comparison.models)  # type: ignore[misc]
        for name, score in makers.items()
    }


_ABOUT: dict[type, Callable] = {
    ClassifierComparison: _about_classifiers,
    RetrieverComparison: _about_retrievers,
}

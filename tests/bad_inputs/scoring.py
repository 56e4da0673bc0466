"""Scorers that are none, or return something else than a score."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score

from sk_metricopt.metrics import make_retrieval_scorer
from tests.bad_inputs.case import WORKS, Case
from tests.bad_inputs.rows import X, fit, labelled


def _scoring(passed, scoring, expected, **others):
    return Case(
        "MetricOptFinetuner", f"scoring: {passed}", lambda: fit(scoring=scoring, **others), expected
    )


def _returns(passed, value, expected):
    return _scoring(f"returns {passed}", lambda estimator, X, y: value, expected)


def _raises(error):
    def scorer(estimator, X, y):
        raise error

    return _scoring(f"raises {type(error).__name__}", scorer, f"'scoring' .*{type(error).__name__}")


def _later(passed, value):
    """A scorer that works on the model as it came and returns something else from then on."""

    def make():
        calls = []

        def scorer(estimator, X, y):
            calls.append(1)
            return 0.5 if len(calls) <= 2 else value

        return fit(scoring=scorer)

    return Case("MetricOptFinetuner", f"scoring: later returns {passed}", make, WORKS)


def _writes_X(estimator, X, y):
    X[:] = 0
    return 0.5


def _writes_y(estimator, X, y):
    y[:] = 0
    return 0.5


def _fits(estimator, X, y):
    return estimator.fit(X, y).score(X, y)


_ANSWER = "'scoring' parameter of MetricOptFinetuner"

CASES = [
    _scoring("a dict", {"f1": "f1"}, "one metric.*Got a dict"),
    _scoring("a list", ["f1"], "one metric.*Got a list"),
    _scoring("a set", {"f1"}, "one metric.*Got a set"),
    _scoring("a number", 1, "one metric.*Got a int"),
    _scoring("bytes", b"f1", "one metric.*Got a bytes"),
    _scoring("a misspelt name", "f1_marco", "Did you mean 'f1_macro'"),
    _scoring("an empty name", "", "one metric"),
    _scoring("a metric instead of a scorer", f1_score, "make_scorer"),
    _scoring("a metric of regression", "r2", WORKS),
    _scoring("a metric of clusters", "adjusted_rand_score", WORKS),
    _scoring(
        "f1 on labels of text",
        "f1",
        r"make_scorer\(f1_score, pos_label='b'\)",
        y=labelled("a", "b"),
    ),
    _scoring("a function of two arguments", lambda y, y_pred: 0.5, _ANSWER),
    _scoring("a class", dict, _ANSWER),
    _scoring("a metric of search", make_retrieval_scorer("recall_at_k"), f"{_ANSWER}.*transform"),
    _scoring("fits the estimator", _fits, _ANSWER),
    _scoring("writes into X", _writes_X, "read-only"),
    _scoring("writes into y", _writes_y, WORKS),
    _scoring(
        "predicts rows of another shape",
        lambda e, X, y: accuracy_score(y, e.predict(X[:, :3])),
        _ANSWER,
    ),
    _scoring("predicts other rows", lambda e, rows, y: float(e.predict(X[:7] + 1).mean()), WORKS),
    _returns("NaN", np.nan, "nan, which is not finite"),
    _returns("infinity", np.inf, "inf, which is not finite"),
    _returns("minus infinity", -np.inf, "-inf, which is not finite"),
    _returns("None", None, "None instead of a number"),
    _returns("a string", "0.5", "instead of a number"),
    _returns("a boolean", True, "True instead of a number"),
    _returns("a list", [0.5], "instead of a number"),
    _returns("an array", np.array([0.5, 0.5]), "instead of a number"),
    _returns("an array of one", np.array([0.5]), "instead of a number"),
    _returns("a complex number", 0.5j, "instead of a number"),
    _returns("an integer beyond float64", 10**400, _ANSWER),
    _returns("a tuple", (0.5, 0.1), "instead of a number"),
    _returns("a dict", {"f1": 0.5}, "instead of a number"),
    _returns("a function", len, "instead of a number"),
    _returns("a tensor", torch.tensor(0.5), WORKS),
    _returns("an array of no dimension", np.array(0.5), WORKS),
    _returns("a huge number", 1e300, WORKS),
    _returns("a tiny number", 5e-324, WORKS),
    _returns("the same for every model", 0.5, WORKS),
    *(
        _raises(error)
        for error in (
            ValueError("no"),
            TypeError("no"),
            KeyError("no"),
            ZeroDivisionError("no"),
            OSError("no"),
            RecursionError("no"),
            MemoryError("no"),
            AssertionError("no"),
            StopIteration("no"),
        )
    ),
    _later("NaN", np.nan),
    _later("None", None),
    _later("infinity", np.inf),
]

"""PostShiftClassifier, to_onnx and OnnxPredictor."""

from __future__ import annotations

import functools

import numpy as np
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier

from sk_metricopt import PostShiftClassifier
from sk_metricopt.export import OnnxPredictor, to_onnx
from tests.bad_inputs.case import WORKS, Case
from tests.bad_inputs.rows import FRAME, X, Y, answers, holding, labelled, module, served


@functools.cache
def exported():
    return to_onnx(served(), X).SerializeToString()


@functools.cache
def predictor():
    return OnnxPredictor(exported())


def post_shift(estimator=None, X=X, y=Y, X_val=None, y_val=None, **params):
    estimator = LogisticRegression() if estimator is None else estimator
    given = {"max_observations": 6, "random_state": 0} | params
    model = PostShiftClassifier(estimator, **given).fit(X, y, X_val=X_val, y_val=y_val)
    return answers(model, X, y)


def _post_shift(passed, expected, **params):
    return Case("PostShiftClassifier", passed, lambda: post_shift(**params), expected)


def _export(passed, expected, estimator=None, rows=X, **params):
    def call():
        model = served() if estimator is None else estimator
        to_onnx(model, rows, **params)
        return "a graph"

    return Case("to_onnx", passed, call, expected)


def _predictor(passed, expected, model=None, **params):
    def call():
        OnnxPredictor(exported() if model is None else model, **params).predict(X)
        return f"predicts {len(X)} labels"

    return Case("OnnxPredictor", passed, call, expected)


def _run(passed, rows, expected):
    def call():
        labels = predictor().predict(rows)
        assert labels.shape == (len(rows),)
        return f"predicts {len(rows)} labels"

    return Case("OnnxPredictor.predict", passed, call, expected)


CASES = [
    _post_shift("defaults", WORKS),
    _post_shift("X with NaN", "NaN", X=holding(np.nan)),
    _post_shift("X sparse", WORKS, X=sparse.csr_matrix(X)),
    _post_shift("X as a data frame", WORKS, X=FRAME),
    _post_shift("y too short", "inconsistent", y=Y[:-1]),
    _post_shift("y of one class", "at least 2 classes", y=np.zeros(80, int)),
    _post_shift("y of fractions", "Unknown label type", y=X[:, 0]),
    _post_shift("y with None", "'y' parameter|Input y", y=labelled(None, "b")),
    _post_shift("y of bytes", "'y' parameter", y=np.array(labelled(b"a", b"b"))),
    _post_shift("y as None", "y", y=None),
    _post_shift("X_val without y_val", "'y_val' parameter", X_val=X),
    _post_shift("y_val of one class", "'y_val' parameter", X_val=X[Y == 0], y_val=Y[Y == 0]),
    _post_shift("estimator: a regression", "'estimator' parameter", estimator=LinearRegression()),
    _post_shift(
        "estimator: no probabilities", "'estimator' parameter", estimator=RidgeClassifier()
    ),
    _post_shift("estimator: None", "'estimator' parameter", estimator=3),
    _post_shift("estimator: a module", "'estimator' parameter", estimator=module()),
    _post_shift(
        "estimator: frozen, never fitted",
        "'estimator'|not fitted",
        estimator=FrozenEstimator(LogisticRegression()),
    ),
    _post_shift("scoring=['f1']", "one metric", scoring=["f1"]),
    _post_shift("scoring: returns NaN", "not finite", scoring=lambda e, X, y: np.nan),
    _post_shift("scoring: returns None", "instead of a number", scoring=lambda e, X, y: None),
    _post_shift("weighting='half'", "'weighting' parameter", weighting="half"),
    _post_shift("basis=3", "'basis' parameter", basis=3),
    _post_shift(
        "basis: returns text", "'basis' parameter", basis=lambda X: np.full((len(X), 2), "a")
    ),
    _post_shift("basis: of other rows", "'basis' parameter", basis=lambda X: np.ones((3, 1))),
    _post_shift(
        "basis: returns NaN", "'basis' parameter", basis=lambda X: np.full((len(X), 2), np.nan)
    ),
    _post_shift("n_iter=0", "'n_iter' parameter", n_iter=0),
    _post_shift("epsilon=0", "'epsilon' parameter", epsilon=0),
    _post_shift("epsilon=2", "'epsilon' parameter", epsilon=2),
    _post_shift("cv=1", "cv|k-fold|n_splits", cv=1),
    _post_shift("cv='five'", "'cv' parameter", cv="five"),
    _post_shift("max_observations=1", WORKS, max_observations=1),
    _post_shift("validation_fraction=1", "'validation_fraction'", validation_fraction=1),
    _export("defaults", WORKS),
    _export("an estimator never fitted", "fitted", estimator=LogisticRegression()),
    _export("a number as estimator", "'estimator' parameter", estimator=3),
    _export("a regression", "'estimator'|LinearRegression", estimator=LinearRegression().fit(X, Y)),
    _export("X as None", "'X' parameter", rows=None),
    _export("X without rows", "'X' parameter", rows=X[:0]),
    _export("X with NaN", "X", rows=holding(np.nan)),
    _export("X with a column too few", "X", rows=X[:, :5]),
    _export("X of text", "X|convert", rows=np.full((2, 6), "a")),
    _export("X as a string", "'X' parameter", rows="rows"),
    _export("opset=3", "'opset' parameter", opset=3),
    _export("opset='18'", "'opset' parameter", opset="18"),
    _export("precision='int8'", "'precision' parameter", precision="int8"),
    _export("labels='name'", "'labels' parameter", labels="name"),
    _export("outputs=['logits']", "'outputs' parameter", outputs=["logits"]),
    _export("outputs=[]", "'outputs' parameter", outputs=[]),
    _export("outputs=3", "'outputs' parameter", outputs=3),
    _export("metadata=3", "'metadata' parameter", metadata=3),
    _export("metadata of objects", "'metadata' parameter", metadata={"a": object()}),
    _export("metadata with a number as name", "'metadata' parameter", metadata={3: "a"}),
    _export("adapters=3", "'adapters' parameter", adapters=3),
    _export(
        "adapters of another estimator",
        "'adapters' parameter",
        adapters={"a": LogisticRegression()},
    ),
    _export("adapter_input='yes'", "'adapter_input' parameter", adapter_input="yes"),
    _export("path=3", "'path' parameter", path=3),
    _predictor("defaults", WORKS),
    _predictor("empty bytes", "'model' parameter", model=b""),
    _predictor("bytes that are no model", "'model' parameter", model=b"\x80\x04no model"),
    _predictor("half a file", "'model' parameter", model=exported()[:200]),
    _predictor("a number", "'model' parameter", model=3),
    _predictor("device='abacus'", "'device' parameter", device="abacus"),
    _predictor("device=3", "'device' parameter", device=3),
    _predictor("provider_options='fast'", "'provider_options'", provider_options="fast"),
    _predictor("batch_size=0", "'batch_size' parameter", batch_size=0),
    _predictor("batch_size=1.5", "'batch_size' parameter", batch_size=1.5),
    _predictor("adapter='no'", "'adapter' parameter", adapter="no"),
    _run("X as float64", X.astype(float), WORKS),
    _run("X as a list", X.tolist(), WORKS),
    _run("X without rows", X[:0], WORKS),
    _run("X with NaN", holding(np.nan), WORKS),
    _run("X with a column too few", X[:, :5], "'X' parameter"),
    _run("X of one dimension", X[0], "'X' parameter"),
    _run("X of text", np.full((2, 6), "a"), "'X' parameter"),
    _run("X of objects", np.array([[object()] * 6]), "'X' parameter"),
    _run("X of complex numbers", X + 1j, "'X' parameter"),
    _run("X ragged", [[1.0, 2.0], [1.0]], "'X' parameter"),
    _run("X as None", None, "'X' parameter"),
    _run("X as a dict", {"X": X}, "'X' parameter"),
    _run("X sparse", sparse.csr_matrix(X), "'X' parameter"),
]

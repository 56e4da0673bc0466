"""X, y, X_val and y_val of MetricOptFinetuner.fit, and X of what answers afterwards."""

from __future__ import annotations

import decimal
import functools

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.frozen import FrozenEstimator

from sk_metricopt import MetricOptFinetuner
from tests.bad_inputs.case import WORKS, Case
from tests.nets import CNN, MLP, TokenNet, classifier, images, table, tokens

X, Y = table(2, 80)
IMAGES, IMAGE_LABELS = images(2, 40)
TOKENS, TOKEN_LABELS = tokens(2, 40)
NAMES = list("abcdef")
FRAME = pd.DataFrame(X, columns=NAMES)


def module(kind=MLP, **params):
    """A module that counts as pre-trained, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(**params)


def fitted(X=X, y=Y, X_val=None, y_val=None, fit_params=None, **params):
    """A finetuner after a short fit."""
    defaults = {"estimator": module(), "max_observations": 3, "observation_interval": 5}
    defaults |= {"random_state": 0}
    finetuner = MetricOptFinetuner(**(defaults | params))
    return finetuner.fit(X, y, X_val=X_val, y_val=y_val, **(fit_params or {}))


def fit(**params):
    """Fit shortly, check the predictions, and say what came of it."""
    return answers(fitted(**params), params.get("X", X), params.get("y", Y))


def answers(model, X, y):
    """Check what a fitted classifier says of rows."""
    n_rows, labels = len(y), np.unique(np.asarray(y))
    predicted, proba = model.predict(X), model.predict_proba(X)
    assert predicted.shape == (n_rows,)
    assert np.isin(predicted, labels).all()
    assert np.array_equal(model.classes_, labels)
    assert proba.shape == (n_rows, len(labels))
    assert np.allclose(proba.sum(1), 1, atol=1e-5)
    return f"predicts {n_rows} labels of {labels.tolist()!r:.60}"


@functools.cache
def served():
    """A fitted finetuner that several cases ask."""
    return fitted()


@functools.cache
def served_frame():
    return fitted(X=FRAME)


def holding(value, X=X, dtype=None):
    """The rows with one value replaced."""
    X = np.array(X, dtype=dtype)
    X.flat[5] = value
    return X


def labelled(*labels):
    """The labels with others in the place of 0 and 1."""
    return [labels[k] for k in Y]


def _rows(passed, X, expected, **others):
    return Case("MetricOptFinetuner.fit", passed, lambda: fit(X=X, **others), expected)


def _labels(passed, y, expected, **others):
    return Case("MetricOptFinetuner.fit", passed, lambda: fit(y=y, **others), expected)


def _validation(passed, X_val, y_val, expected):
    return Case("MetricOptFinetuner.fit", passed, lambda: fit(X_val=X_val, y_val=y_val), expected)


def _asked(method, passed, X, expected, model=served):
    def call():
        answer = getattr(model(), method)(X)
        assert len(answer) == len(X)
        return f"an array of shape {answer.shape}"

    return Case(f"MetricOptFinetuner.{method}", passed, call, expected)


_OBJECTS = np.array([[object()] * 6] * 80)
_RAGGED = [list(row[: 3 + i % 3]) for i, row in enumerate(X)]
_TWICE = pd.DataFrame(X, columns=["a", "a", *"cdef"])
_MIXED = pd.DataFrame(X, columns=[0, "b", 2, "d", "e", "f"])
_MASKED = np.ma.masked_array(X, X > 100)

CASES = [
    # what X may be
    _rows("X as a list of lists", X.tolist(), WORKS),
    _rows("X as a tuple of tuples", tuple(map(tuple, X.tolist())), WORKS),
    _rows("X as a tensor", torch.as_tensor(X), WORKS),
    _rows("X as a tensor that requires a gradient", torch.as_tensor(X).requires_grad_(), WORKS),
    _rows("X as float64", X.astype(np.float64), WORKS),
    _rows("X as float16", X.astype(np.float16), WORKS),
    _rows("X as int64", (10 * X).astype(np.int64), WORKS),
    _rows("X as int8", X.astype(np.int8), WORKS),
    _rows("X as uint8", np.abs(X).astype(np.uint8), WORKS),
    _rows("X of booleans", X > 0, WORKS),
    _rows("X of integers beyond int64, as objects", holding(10**30, dtype=object), WORKS),
    _rows("X of integers beyond float64, as objects", holding(10**400, dtype=object), "'X'"),
    _rows("X in Fortran order", np.asfortranarray(X), WORKS),
    _rows("X read-only", np.broadcast_to(X, X.shape), WORKS),
    _rows("X with negative strides", X[::-1, ::-1], WORKS),
    _rows("X big-endian", X.astype(">f4"), WORKS),
    _rows("X of decimal numbers, as objects", [[decimal.Decimal(1)] * 6] * 80, WORKS),
    _rows("X of numbers in strings", X.astype(str), WORKS),
    _rows("X of numbers as objects", X.astype(object), WORKS),
    _rows("X masked, nothing hidden", _MASKED, WORKS),
    _rows("X as a numpy matrix", np.asmatrix(X), "'X' parameter .* Got a matrix"),
    _rows("X sparse, CSR", sparse.csr_matrix(X), "Sparse data was passed"),
    _rows("X sparse, by coordinates", sparse.coo_matrix(X), "Sparse data was passed"),
    _rows("X sparse, DOK", sparse.dok_matrix(X), "Sparse data was passed"),
    _rows("X as a sparse array", sparse.csc_array(X), "Sparse data was passed"),
    _rows("X as a sparse tensor", torch.as_tensor(X).to_sparse(), "'X' parameter"),
    _rows("X as a data frame", FRAME, WORKS),
    _rows("X as a data frame with duplicated column names", _TWICE, "different names.*'a'"),
    _rows("X as a data frame with names that are not all strings", _MIXED, "feature names"),
    _rows("X as a data frame of categories", FRAME.astype("category"), WORKS),
    _rows("X as a data frame with a column of text", FRAME.assign(a="red"), r"'X' .*\['a'\]"),
    _rows(
        "X as a data frame with a column of dates",
        FRAME.assign(a=pd.Timestamp("2020-01-01")),
        "'X'|dtype|convert",
    ),
    _rows("X as a data frame of nullable numbers", FRAME.convert_dtypes(), WORKS),
    _rows(
        "X as a data frame with a missing nullable number",
        FRAME.assign(a=pd.array([None, *range(79)], dtype="Int64")),
        "Input X contains NaN",
    ),
    _rows("X as a data frame with an index from 1000", FRAME.set_index(FRAME.index + 1000), WORKS),
    _rows(
        "X as a data frame with the same index for every row", FRAME.set_index([[0] * 80]), WORKS
    ),
    _rows("X as a sparse data frame", FRAME.astype(pd.SparseDtype("float32", 0)), "Sparse data"),
    _rows("X as a Series", FRAME["a"], "Expected a? ?2"),
    _rows("X with NaN", holding(np.nan), "Input X contains NaN"),
    _rows("X with infinity", holding(np.inf), "Input X contains infinity"),
    _rows("X beyond float32", holding(1e300, dtype=float), "Input X contains infinity"),
    _rows("X with None", holding(None, dtype=object), "NaN|None|convert"),
    _rows("X of complex numbers", X.astype(complex), "Complex data not supported"),
    _rows("X of dates", np.full((80, 6), "2020-01-01", dtype="datetime64[D]"), "'X' parameter"),
    _rows("X of durations", np.full((80, 6), 1, dtype="timedelta64[s]"), "'X' parameter"),
    _rows("X of text", np.full((80, 6), "red"), "could not convert|convert"),
    _rows("X of bytes", np.full((80, 6), b"red"), "convert"),
    _rows("X of objects", _OBJECTS, "'X' parameter"),
    _rows("X of dicts", [{"a": 1.0}] * 80, "'X' parameter"),
    _rows("X structured", np.zeros(80, dtype=[("a", "f4"), ("b", "f4")]), "'X' parameter|2D"),
    _rows("X of rows of unlike length", _RAGGED, "'X' parameter"),
    _rows("X of tensors in a list", list(torch.as_tensor(X)), WORKS),
    _rows("X of tensors in a list, of unlike length", [torch.ones(1 + i % 2) for i in Y], "'X'"),
    _rows("X as a dict", {"X": X}, "'X' parameter .* Got a dict"),
    _rows("X as a data set", torch.utils.data.TensorDataset(torch.ones(80, 6)), "TensorDataset"),
    _rows("X as a generator", (row for row in X), "'X' parameter|Expected 2D"),
    _rows("X as a set", set(range(80)), "'X' parameter|Expected 2D"),
    _rows("X as a string", "rows", "could not convert"),
    _rows("X as None", None, "'X' parameter|Expected 2D"),
    _rows("X as a number", 3.0, "Expected 2D"),
    _rows("X as a module", torch.nn.Linear(2, 2), "'X' parameter|Expected 2D"),
    _rows("X of one dimension", X[:, 0], "Expected 2D array, got 1D"),
    _rows("X of three dimensions for a net of two", X[:, None], "'estimator' parameter"),
    _rows("X without rows", X[:0], "0 sample"),
    _rows("X without columns", X[:, :0], r"0 feature"),
    _rows("X of one row", X[:1], "inconsistent numbers"),
    _rows("X with a column too few for the net", X[:, :5], r"'estimator' parameter .*\(5,\)"),
    _rows("X with columns too many for the net", np.hstack([X, X]), r"'estimator' .*\(12,\)"),
    _rows("X constant", np.ones_like(X), WORKS),
    _rows("X of the largest float32", np.full_like(X, 3e38), WORKS),
    _rows("X of the smallest numbers", np.full_like(X, 1e-45), WORKS),
    _rows("X of the same row twice over", np.repeat(X[:40], 2, 0), WORKS, y=np.repeat(Y[:40], 2)),
    # images and token indices
    _rows(
        "images with NaN",
        holding(np.nan, IMAGES),
        "Input X contains NaN",
        y=IMAGE_LABELS,
        estimator=module(CNN),
    ),
    _rows(
        "images with the channels last",
        np.moveaxis(IMAGES, 1, -1),
        "'estimator' parameter",
        y=IMAGE_LABELS,
        estimator=module(CNN),
    ),
    _rows("images of bytes", IMAGES.astype(np.uint8), WORKS, y=IMAGE_LABELS, estimator=module(CNN)),
    _rows(
        "images without pixels",
        IMAGES[..., :0],
        "0 feature|'X' parameter|'estimator' parameter",
        y=IMAGE_LABELS,
        estimator=module(CNN),
    ),
    _rows(
        "images flattened",
        IMAGES.reshape(40, -1),
        "'estimator'",
        y=IMAGE_LABELS,
        estimator=module(CNN),
    ),
    _rows("tokens", TOKENS, WORKS, y=TOKEN_LABELS, estimator=module(TokenNet)),
    _rows(
        "tokens as whole floats",
        TOKENS.astype(float),
        WORKS,
        y=TOKEN_LABELS,
        estimator=module(TokenNet),
    ),
    _rows(
        "tokens with fractions",
        TOKENS + 0.5,
        "'estimator'",
        y=TOKEN_LABELS,
        estimator=module(TokenNet),
    ),
    _rows(
        "tokens below 0",
        TOKENS - 9,
        "index out of range",
        y=TOKEN_LABELS,
        estimator=module(TokenNet),
    ),
    _rows(
        "tokens beyond the table",
        TOKENS + 9,
        "index out of range",
        y=TOKEN_LABELS,
        estimator=module(TokenNet),
    ),
    _rows(
        "tokens beyond int64",
        TOKENS * 1e30,
        "'X' parameter|'estimator' parameter",
        y=TOKEN_LABELS,
        estimator=module(TokenNet),
    ),
    _rows(
        "tokens as uint64 beyond int64",
        TOKENS.astype(np.uint64) + 2**63,
        "'X' parameter|'estimator' parameter",
        y=TOKEN_LABELS,
        estimator=module(TokenNet),
    ),
    # what y may be
    _labels("y of strings", np.array(labelled("a", "b")), WORKS),
    _labels("y of strings as objects", np.array(labelled("a", "b"), dtype=object), WORKS),
    _labels("y of empty strings and others", labelled("", "b"), WORKS),
    _labels("y of bytes", np.array(labelled(b"a", b"b")), "bytes"),
    _labels("y of booleans", Y == 1, WORKS),
    _labels("y of whole floats", Y.astype(float), WORKS),
    _labels("y of float16", Y.astype(np.float16), WORKS),
    _labels("y of -1 and 1", 2 * Y - 1, WORKS),
    _labels("y of labels far apart", Y * 10**15 + 7, WORKS),
    _labels("y of the ends of int64", np.array(labelled(-(2**63), 2**63 - 1)), WORKS),
    _labels(
        "y of uint64 beyond int64", np.array(labelled(2**64 - 1, 2**64 - 2), dtype=np.uint64), WORKS
    ),
    _labels("y of integers beyond uint64", labelled(10**30, 10**30 + 1), "Unknown label|'y'"),
    _labels("y as a column", Y[:, None], WORKS),
    _labels("y as a tensor", torch.as_tensor(Y), WORKS),
    _labels("y as a Series", pd.Series(Y, index=range(5, 85)), WORKS),
    _labels("y as categories", pd.Series(labelled("a", "b"), dtype="category"), WORKS),
    _labels("y as nullable integers", pd.Series(Y, dtype="Int64"), WORKS),
    _labels("y as text of pandas", pd.Series(labelled("a", "b"), dtype="string"), WORKS),
    _labels("y as a data frame of one column", pd.DataFrame({"y": Y}), WORKS),
    _labels("y as a data frame of two columns", pd.DataFrame({"y": Y, "z": Y}), "y should be a 1d"),
    _labels("y of two columns", np.c_[Y, Y], "y should be a 1d"),
    _labels("y one-hot", np.eye(2)[Y], "y should be a 1d"),
    _labels("y sparse", sparse.csr_matrix(Y[:, None]), "y|Sparse"),
    _labels("y of three dimensions", Y[:, None, None], "array with dim 3"),
    _labels("y as None", None, "requires y to be passed"),
    _labels("y as a number", 1, "y should be a 1d|'y' parameter"),
    _labels("y as a string", "labels", "y should be a 1d|'y' parameter"),
    _labels("y as a dict", {"y": Y}, "'y' parameter|y should be"),
    _labels("y as a generator", (k for k in Y), "'y' parameter|y should be"),
    _labels("y with NaN", np.where(Y == 0, np.nan, Y), "Input y contains NaN"),
    _labels("y with infinity", np.where(Y == 0, np.inf, Y), "Input y contains infinity"),
    _labels("y with None", labelled(None, "b"), "'y'|Input y|None"),
    _labels(
        "y with missing nullable integers", pd.Series(labelled(None, 1), dtype="Int64"), "NaN|'y'"
    ),
    _labels(
        "y of strings and numbers", np.array(labelled("a", 1), dtype=object), "Unknown label type"
    ),
    _labels("y of fractions", X[:, 0], "Unknown label type: continuous"),
    _labels("y of complex numbers", Y + 1j, "Complex data not supported|Unknown label"),
    _labels(
        "y of dates", np.array(labelled("2020-01-01", "2020-01-02"), dtype="datetime64[D]"), WORKS
    ),
    _labels("y of tuples", labelled((0, 1), (1, 0)), "y should be a 1d"),
    _labels("y of lists of unlike length", labelled([0], [0, 1]), "'y'|y should be"),
    _labels("y of objects", np.array(labelled(object(), object())), "'y'|Unknown label type"),
    _labels("y without rows", Y[:0], "inconsistent numbers|Found"),
    _labels("y too short", Y[:-1], "inconsistent numbers"),
    _labels("y too long", np.r_[Y, 0], "inconsistent numbers"),
    _labels("y of one class", np.zeros(80, int), "at least 2 classes"),
    _labels("y of one row of a class", np.r_[1, np.zeros(79, int)], r"one row of \[1\]"),
    _labels("y of two rows of a class", np.r_[1, 1, np.zeros(78, int)], WORKS),
    _labels(
        "y of more classes than outputs of the net",
        np.arange(80) % 3,
        "'y' parameter .*classes of the fitted net",
    ),
    _labels("y of fewer classes than outputs of the net", Y, "'y'", estimator=module(n_classes=3)),
    _labels("y of a class for every row", np.arange(80), "one row of"),
    Case("MetricOptFinetuner.fit", "one row", lambda: fit(X=X[:1], y=Y[:1]), "at least 2 classes"),
    Case(
        "MetricOptFinetuner.fit", "two rows", lambda: fit(X=X[:2], y=[0, 1]), r"one row of \[0, 1\]"
    ),
    Case("MetricOptFinetuner.fit", "four rows", lambda: fit(X=X[:4], y=[0, 1, 0, 1]), WORKS),
    # validation rows
    _validation("X_val without y_val", X, None, "'y_val' parameter .*together"),
    _validation("y_val without X_val", None, Y, "'X_val' parameter .*together"),
    _validation("X_val with NaN", holding(np.nan), Y, "'X_val' .*contains NaN"),
    _validation("X_val beyond float32", holding(1e300, dtype=float), Y, "'X_val' .*infinity"),
    _validation("X_val sparse", sparse.csr_matrix(X), Y, "'X_val'.*Sparse|Sparse"),
    _validation("X_val with a column too few", X[:, :5], Y, "'X_val' .*5 features"),
    _validation("X_val of one dimension", X[:, 0], Y, "'X_val' .*2D"),
    _validation("X_val of three dimensions", X[:, None], Y, "'X'"),
    _validation("X_val without rows", X[:0], Y[:0], "'X_val' .*0 sample"),
    _validation("X_val as a dict", {"X": X}, Y, "'X' parameter"),
    _validation("X_val of text", np.full((80, 6), "red"), Y, "'X_val'.*convert"),
    _validation("X_val as a tensor", torch.as_tensor(X), Y, WORKS),
    _validation("X_val as a list", X.tolist(), Y.tolist(), WORKS),
    _validation("X_val as a frame where X is an array", FRAME, Y, WORKS),
    _validation("y_val too short", X, Y[:-1], "'X_val' .*inconsistent"),
    _validation("y_val with NaN", X, np.where(Y == 0, np.nan, Y), "y_val"),
    _validation("y_val of fractions", X, X[:, 0], "'y_val'"),
    _validation("y_val of text where y is numbers", X, labelled("a", "b"), "'y_val'"),
    _validation("y_val with an unknown label", X, Y * 2, r"'y_val' .*Got \[2\]"),
    _validation("y_val of one class", X[Y == 0], Y[Y == 0], "'y_val' .*no row of"),
    _validation("y_val of two columns", X, np.c_[Y, Y], "'y_val' .*1d"),
    _validation("y_val as whole floats", X, Y.astype(float), WORKS),
    _validation(
        "X_val of one row per class", X[[0, int(np.argmax(Y[0] != Y))]], [Y[0], 1 - Y[0]], WORKS
    ),
    # what answers afterwards
    *(
        case
        for method in ("predict", "predict_proba")
        for case in (
            _asked(method, "X of one row", X[:1], WORKS),
            _asked(method, "X without rows", X[:0], "0 sample"),
            _asked(method, "X with NaN", holding(np.nan), "contains NaN"),
            _asked(method, "X with a column too few", X[:, :5], "X has 5 features"),
            _asked(method, "X of one dimension", X[0], "Expected 2D"),
            _asked(method, "X of three dimensions", X[:, None], "'X' parameter"),
            _asked(method, "X sparse", sparse.csr_matrix(X), "Sparse"),
            _asked(method, "X as float64", X.astype(float), WORKS),
            _asked(method, "X of text", np.full((2, 6), "red"), "convert"),
            _asked(method, "X as a dict", {"X": X}, "'X' parameter"),
            _asked(method, "X of complex numbers", X + 1j, "Complex"),
            _asked(method, "X as None", None, "2D|'X' parameter"),
        )
    ),
    _asked(
        "predict", "columns in another order", FRAME[NAMES[::-1]], "feature names", served_frame
    ),
    _asked(
        "predict",
        "a column renamed",
        FRAME.rename(columns={"a": "z"}),
        "feature names",
        served_frame,
    ),
    _asked("predict", "columns of the same name", _TWICE, "different names", served_frame),
    _asked(
        "predict",
        "X before fit",
        X,
        "not fitted",
        lambda: MetricOptFinetuner(FrozenEstimator(classifier())),
    ),
    Case(
        "MetricOptFinetuner.score",
        "y too short",
        lambda: str(served().score(X, Y[:-1])),
        "inconsistent",
    ),
    Case(
        "MetricOptFinetuner.score",
        "y of fractions",
        lambda: str(served().score(X, X[:, 0])),
        "'y'|mix|label",
    ),
    Case(
        "MetricOptFinetuner.score",
        "y of text",
        lambda: str(served().score(X, labelled("a", "b"))),
        "'y'|mix|label",
    ),
    Case(
        "MetricOptFinetuner.score", "y as None", lambda: str(served().score(X, None)), "'y'|y|None"
    ),
    Case(
        "MetricOptFinetuner.score",
        "X with NaN",
        lambda: str(served().score(holding(np.nan), Y)),
        "NaN",
    ),
]

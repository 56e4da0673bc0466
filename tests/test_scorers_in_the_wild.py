"""Scorers as people write them: what they do to what they are lent, and in another process."""

from __future__ import annotations

import copy
import fractions
import warnings

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, get_scorer, make_scorer

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner, PostShiftClassifier
from sk_metricopt._asking import Question, _answer_apart
from sk_metricopt._candidate import ClassifierResponse, ClassifierScoring, KnownRows
from sk_metricopt._scoring import Lent, ValidationRows, apart
from sk_metricopt.exceptions import ObservationWarning
from sk_metricopt.metrics import make_retrieval_scorer
from tests.embedding_nets import embedder
from tests.nets import classifier, table, trained

X, Y = table(2)
X_TRAIN, Y_TRAIN, X_VAL, Y_VAL = X[:180], Y[:180], X[180:], Y[180:]
FEW = {"max_observations": 8, "observation_interval": 3, "lr": 0.05, "random_state": 0}


def accuracy(estimator, X, y):
    return float((estimator.predict(X) == y).mean())


class Flipped:
    """A stored answer is never what the model says, so that it shows which of them answered."""

    def __init__(self, X, y, scorer, params=None):
        self.model = LogisticRegression().fit(X_TRAIN, Y_TRAIN)
        scoring = ClassifierScoring(scorer, ValidationRows(X, y, params or {}), self.model)
        decided = 1 - self.model.predict(X_VAL)
        proba = np.eye(2)[decided]
        self.response = ClassifierResponse(scoring, proba, decided, lambda: self.model)

    def score(self, rows=None):
        return self.response.score(rows)


STORED = float((1 - LogisticRegression().fit(X_TRAIN, Y_TRAIN).predict(X_VAL) == Y_VAL).mean())


# what is lent -----------------------------------------------------------------------------------


def frame():
    return pd.DataFrame(X_VAL, columns=list("abcdef"))


def strings():
    return np.array([["a", "b"], ["c", None]] * 60, dtype=object)


def set_first(values):
    values[0] = values[1]


def rewrite_data(values):
    values.data = values.data * 2


WRITES = [
    ("array", X_VAL.copy, set_first),
    ("strings", strings, set_first),
    ("list of lists", X_VAL.tolist, lambda values: values[0].append(1.0)),
    ("list of strings", lambda: ["a", "b"] * 60, set_first),
    (
        "lists in an array",
        lambda: np.array([[1], [2, 3]] * 60, dtype=object),
        lambda v: v[0].append(9),
    ),
    ("frame, a cell", frame, lambda values: values.__setitem__("a", 0.0)),
    ("frame, a column", frame, lambda values: values.insert(0, "new", 1.0)),
    ("frame, renamed", frame, lambda values: setattr(values, "columns", list("ABCDEF"))),
    ("frame, its array", frame, lambda values: set_first(values["a"].values)),
    *[
        (f"{form}, {name}", lambda form=form: sp.csr_array(X_VAL[:6]).asformat(form), write)
        for form in ("csr", "csc", "coo", "bsr", "dia")
        for name, write in [
            ("in place", lambda v: v.data.flat.__setitem__(0, 9.0)),
            ("anew", rewrite_data),
        ]
    ],
    ("lil", lambda: sp.lil_array(X_VAL), lambda values: values.__setitem__((0, 0), 9.0)),
]


def as_text(values):
    return repr(values.toarray().tolist() if sp.issparse(values) else list(np.asarray(values)))


@pytest.mark.parametrize(("make", "write"), [w[1:] for w in WRITES], ids=[w[0] for w in WRITES])
def test_what_is_written_into_lent_values_is_refused_or_reaches_nobody(make, write):
    values = make()
    before = as_text(values)
    lent = Lent(values)
    assert lent.still_is(lent.X) and as_text(lent.X) == before
    try:
        write(lent.X)
    except ValueError as error:
        assert "read-only" in str(error)
        assert lent.still_is(lent.X)
    else:
        assert not lent.still_is(lent.X)
    assert as_text(values) == before


def test_arrays_and_sparse_matrices_are_lent_without_a_copy():
    assert np.shares_memory(Lent(X_VAL).X, X_VAL)
    matrix = sp.csr_array(X_VAL)
    assert np.shares_memory(Lent(matrix).X.data, matrix.data)
    assert X_VAL.flags.writeable and matrix.data.flags.writeable


def test_sparse_rows_in_no_order_can_still_be_sorted_by_whoever_they_are_lent_to():
    matrix = sp.csr_array((np.array([1.0, 2, 3]), np.array([2, 0, 0]), np.array([0, 3])), (1, 3))
    lent = Lent(matrix)
    lent.X.sort_indices()
    lent.X.sum_duplicates()
    assert lent.still_is(lent.X)
    assert matrix.indices.tolist() == [2, 0, 0] and lent.X.toarray().tolist() == [[5.0, 0, 1]]


# a scorer that writes ---------------------------------------------------------------------------


def zero_array(X):
    X[:, 0] = 0


def zero_column(X):
    X[X.columns[0]] = 0.0


def zero_sparse(X):
    X.data = X.data * 0


def zero_list(X):
    for row in X:
        row[:] = [0.0] * len(row)


@pytest.mark.parametrize("rows", [None, np.arange(100)], ids=["all rows", "some rows"])
@pytest.mark.parametrize(
    ("make", "write"),
    [(frame, zero_column), (lambda: sp.csr_array(X_VAL), zero_sparse), (X_VAL.tolist, zero_list)],
    ids=["frame", "sparse", "list"],
)
def test_scorer_that_changes_X_in_place_gets_the_models_answers_for_what_it_made(make, write, rows):
    seen = []

    def moving(estimator, X, y):
        before = estimator.predict(X)
        write(X)
        values = X.toarray() if sp.issparse(X) else np.asarray(X)
        seen.append((estimator.predict(X), flipped.model.predict(values), before))
        return 0.5

    given = make()
    flipped = Flipped(given, Y_VAL, moving)
    before = as_text(given)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X has feature names", UserWarning)
        flipped.score(rows)
    found, expected, stored = seen[0]
    known = slice(None) if rows is None else rows
    assert (stored == flipped.response.decided[known]).all()
    assert (found == expected).all() and (found != stored).any()
    assert as_text(given) == before


def test_scorer_that_writes_into_an_array_is_told_to_copy_first():
    def careless(estimator, X, y):
        zero_array(X)
        return accuracy(estimator, X, y)

    X_mine = X_VAL.copy()
    told = "'scoring' .* one finite number for the model as it came.*read-only.*X = X.copy()"
    with pytest.raises(ValueError, match=told):
        MetricOptFinetuner(classifier(), scoring=careless, **FEW).fit(
            X_TRAIN, Y_TRAIN, X_val=X_mine, y_val=Y_VAL
        )
    assert (X_mine == X_VAL).all() and X_mine.flags.writeable


def test_scorer_may_change_labels_and_metadata_that_are_copies_and_not_those_that_are_views():
    weight, table_of = np.ones(120), pd.DataFrame({"w": np.ones(120)})
    by_name = {"a": [1, 2], "b": np.ones(3)}

    def careless(estimator, X, y, weight, table_of, by_name):
        y[:] = 7
        table_of["w"] = 0.0
        by_name["a"].append(3)
        with pytest.raises(ValueError, match="read-only"):
            weight[:] = 0
        with pytest.raises(ValueError, match="read-only"):
            by_name["b"][:] = 0
        return 0.5

    labels = Y_VAL.copy()
    params = {"weight": weight, "table_of": table_of, "by_name": by_name}
    flipped = Flipped(X_VAL, labels, careless, params)
    for rows in (None, np.arange(50)):
        flipped.score(rows)
    assert (labels == Y_VAL).all() and (weight == 1).all() and (table_of["w"] == 1).all()
    assert by_name["a"] == [1, 2] and (by_name["b"] == 1).all()


def test_metadata_that_is_no_data_is_handed_over_itself():
    log = object()
    seen = []

    def logging(estimator, X, y, log):
        seen.append(log)
        return 0.5

    Flipped(X_VAL, Y_VAL, logging, {"log": log}).score()
    assert seen[0] is log


# known rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_parts_and_permutations_are_looked_up(method):
    order = np.random.RandomState(0).permutation(120)

    def curious(estimator, X, y):
        ask = getattr(estimator, method)
        whole = ask(X)
        assert (ask(X[order]) == whole[order]).all()
        assert (ask(X[5:30]) == whole[5:30]).all()
        assert (ask(X.copy()) == whole).all() and (ask(X.tolist()) == whole).all()
        return 0.5

    assert Flipped(X_VAL, Y_VAL, curious).score() == 0.5


def test_rows_with_missing_values_and_rows_of_lists_are_known_in_any_order():
    missing = pd.DataFrame({"a": [1.0, np.nan, 3.0], "b": ["x", "y", None]})
    assert KnownRows(missing).find(missing.iloc[[2, 1]]).tolist() == [2, 1]
    lists = [{"a": 1}, {"a": 2}]
    assert KnownRows(lists).find(copy.deepcopy(lists[::-1])).tolist() == [1, 0]
    assert KnownRows(lists).find([{"a": 3}]) is None


# what a scorer does to the estimator ------------------------------------------------------------


def fitted(scoring, net=None, **params):
    model = MetricOptFinetuner(net or classifier(), scoring=scoring, **(FEW | params))
    return model.fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)


def weights_of(net):
    return [p.detach().clone() for p in net.module_.parameters()]


def zero_the_net(net):
    with torch.no_grad():
        for parameter in net.module_.parameters():
            parameter.zero_()


MEDDLING = {
    "sets attributes": lambda e: setattr(e, "estimator", None),
    "writes classes": lambda e: e.classes_.__setitem__(0, 9) if e.classes_.flags.writeable else 0,
    "zeroes estimator.estimator": lambda e: zero_the_net(e.estimator.estimator),
    "zeroes the net in get_params": lambda e: zero_the_net(e.get_params()["estimator"].estimator),
    "zeroes estimator_": lambda e: zero_the_net(e.estimator_),
    "zeroes the net of a clone": lambda e: zero_the_net(clone(e).estimator.estimator),
    "zeroes scores": lambda e: e.predict_proba(X_VAL).fill(0),
    "changes tags": lambda e: setattr(sklearn.utils.get_tags(e), "estimator_type", "regressor"),
}


@pytest.mark.parametrize("how", MEDDLING)
def test_scorer_that_meddles_with_the_estimator_changes_nothing(how):
    net = trained(classifier(), X_TRAIN, Y_TRAIN)
    before = weights_of(net)

    def meddling(estimator, X, y):
        value = accuracy(estimator, X, y)
        MEDDLING[how](estimator)
        return value

    expected = fitted(accuracy, FrozenEstimator(net), max_observations=4)
    model = fitted(meddling, FrozenEstimator(net), max_observations=4)
    assert (model.adapter_params_ == expected.adapter_params_).all()
    assert model.observations_["score"].tolist() == expected.observations_["score"].tolist()
    assert all(map(torch.equal, weights_of(net), before))
    assert sklearn.base.is_classifier(model)


@pytest.mark.parametrize(
    "change", [lambda e: e.fit(X, Y), lambda e: e.set_params(lr=1), lambda e: e.partial_fit(X, Y)]
)
def test_scorer_that_fits_the_estimator_is_refused_and_told_to_clone_it(change):
    net = trained(classifier(), X_TRAIN, Y_TRAIN)
    before = weights_of(net)

    def fitting(estimator, X, y):
        change(estimator)

    with pytest.raises(TypeError, match="'scoring' .*to be asked and not to be changed. Clone it"):
        fitted(fitting, FrozenEstimator(net))
    assert all(map(torch.equal, weights_of(net), before))


def test_scorer_may_look_at_parameters_clone_and_keep_what_it_was_given():
    kept = []

    def looking(estimator, X, y):
        other = clone(estimator)
        assert type(other) is MetricOptFinetuner and not hasattr(other, "estimator_")
        params = estimator.get_params()
        assert params["lr"] == estimator.lr == 0.05 and params["scoring"] is looking
        assert estimator.estimator.module is classifier().module
        assert estimator.n_features_in_ == 6 and estimator.classes_.tolist() == [0, 1]
        kept.append((estimator, X, estimator.predict(X)))
        return accuracy(estimator, X, y)

    fitted(looking, max_observations=4)
    for estimator, X_seen, answered in kept[:3]:
        assert (estimator.predict(X_seen) == answered).all()


def test_scorer_that_prints_keeps_state_and_draws_from_global_streams_does_no_harm(capsys):
    class Noisy:
        def __init__(self):
            self.n = 0

        def __call__(self, estimator, X, y):
            self.n += 1
            print("scoring")
            np.random.rand(3)
            return accuracy(estimator, X, y) + 1e-9 * float(torch.rand(1))

    scorer, state = Noisy(), np.random.get_state()[1].copy()
    with pytest.warns(ObservationWarning, match="not deterministic"):
        model = fitted(scorer)
    assert scorer.n == model.n_scorer_calls_
    assert (np.random.get_state()[1] == state).all()
    assert capsys.readouterr().out.count("scoring") == scorer.n


# what a scorer returns --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        np.float32(0.5),
        np.array(0.5),
        torch.tensor(0.5, requires_grad=True),
        fractions.Fraction(1, 2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_single_number_is_a_score(value):
    assert Flipped(X_VAL, Y_VAL, lambda *_: value).score() == 0.5


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (None, TypeError, "returned None instead"),
        ("0.5", TypeError, "returned '0.5' instead"),
        (True, TypeError, "returned True instead"),
        (np.True_, TypeError, "returned np.True_ instead"),
        (torch.tensor(True), TypeError, "instead of a number"),
        (np.array([0.5]), TypeError, "instead of a number"),
        (torch.ones(3), TypeError, "instead of a number"),
        (pd.NA, TypeError, "instead of a number"),
        ([0.5], TypeError, "instead of a number"),
        (1j, TypeError, "instead of a number"),
        (np.nan, ValueError, "returned nan, which is not finite"),
        (-np.inf, ValueError, "returned -inf, which is not finite"),
        (np.float32("inf"), ValueError, "which is not finite"),
        (torch.tensor(torch.nan), ValueError, "which is not finite"),
        (10**400, OverflowError, "too large"),
    ],
    ids=str,
)
def test_anything_else_is_named(value, kind, told):
    with pytest.raises(kind, match=told):
        Flipped(X_VAL, Y_VAL, lambda *_: value).score()


# in another process -----------------------------------------------------------------------------


def score_apart(response, rows=None):
    """What a worker answers, and how many calls of the scorer it made."""
    answer = _answer_apart(Question(response, rows, seed=0))
    assert answer.error is None
    return answer.score, answer.n_calls


def sent(response):
    return cloudpickle.loads(cloudpickle.dumps(response))


def stability(estimator, X, y):
    return accuracy(estimator, X, y) + 0.1 * accuracy(estimator, X + np.float32(0.3), y)


def responses(scoring, estimator=None):
    """Return responses of a real task, the model as it came and two others."""
    found = []
    model = MetricOptFinetuner(
        estimator or classifier(), scoring=scoring, **(FEW | {"max_observations": 5})
    )
    task = MetricOptFinetuner._task

    def watched(self, *args):
        made = task(self, *args)
        response = made.response

        def kept(answers, phi):
            found.append(response(answers, phi))
            return found[-1]

        made.response = kept
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricOptFinetuner, "_task", watched)
        model.fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    return found[:3]


ROWS = np.arange(0, 120, 2)


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", accuracy, stability])
def test_classifier_response_scores_alike_wherever_it_is_sent(scoring):
    for response in responses(scoring):
        for rows in (None, ROWS):
            before = response.scoring.n_calls
            score, n_calls = score_apart(sent(response), rows)
            assert n_calls == 1 and response.scoring.n_calls == before
            assert score == response.score(rows)


SEARCHES = {
    "per query": make_retrieval_scorer("recall_at_k", k=1),
    "fitted gallery": make_retrieval_scorer("mean_reciprocal_rank", gallery="fitted"),
    "labels": "accuracy",
    "callable": lambda e, X, y: (
        float(e.kneighbors(X, 1)[0].mean()) + float(e.transform(X + 1).mean())
    ),
    "own gallery": lambda e, X, y: accuracy(e.set_gallery(X[::2], y[::2]), X[1::2], y[1::2]),
}


@pytest.mark.parametrize("how", SEARCHES)
def test_retriever_response_scores_alike_wherever_it_is_sent(how):
    net = EmbeddingRetriever(embedder())
    for response in responses(SEARCHES[how], net)[:2]:
        there = sent(response)
        for rows in (None, ROWS):
            score, n_calls = score_apart(there, rows)
            assert n_calls >= 1 or how in ("per query", "fitted gallery")
            assert score == response.score(rows)


@pytest.mark.parametrize("scoring", ["balanced_accuracy", accuracy])
def test_post_shift_response_scores_alike_wherever_it_is_sent(scoring, monkeypatch):
    found = []
    score = ClassifierResponse.score
    monkeypatch.setattr(
        ClassifierResponse, "score", lambda self, rows=None: found.append(self) or score(self, rows)
    )
    base = FrozenEstimator(LogisticRegression().fit(X_TRAIN, Y_TRAIN))
    PostShiftClassifier(base, scoring=scoring, max_observations=8, random_state=0).fit(
        X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL
    )
    monkeypatch.undo()
    for response in found[:4]:
        assert score_apart(sent(response)) == (response.score(), 1)


def test_response_of_a_scorer_that_hands_X_on_is_sent_without_rows_and_models():
    small, large = (responses(scoring)[1] for scoring in ("accuracy", stability))
    assert len(cloudpickle.dumps(small)) < 10_000 + small.proba.nbytes + small.decided.nbytes
    assert sent(small).scoring.rows.X is None and sent(large).scoring.rows.X is not None


def test_calls_apart_are_counted_apart_even_where_the_scorer_fails():
    def failing(estimator, X, y):
        raise RuntimeError("no")

    flipped = Flipped(X_VAL, Y_VAL, failing)
    response = apart(flipped.response)
    with pytest.raises(RuntimeError, match="no"):
        response.score()
    assert response.scoring.n_calls == 1 and flipped.response.scoring.n_calls == 0


def test_stored_answers_are_what_a_made_scorer_sees():
    assert Flipped(X_VAL, Y_VAL, get_scorer("accuracy")).score() == pytest.approx(STORED)
    assert Flipped(X_VAL, Y_VAL, make_scorer(accuracy_score)).score() == pytest.approx(STORED)

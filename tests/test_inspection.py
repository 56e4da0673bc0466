"""What a fit keeps to be looked into, and the report on test rows."""

from __future__ import annotations

import copy
import dataclasses
import html.parser
import math
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    f1_score,
    fbeta_score,
    log_loss,
    make_scorer,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_metricopt import MetricOptFinetuner, MetricOptSession, PostShiftClassifier
from sk_metricopt._scoring import scorer_name
from sk_metricopt.inspection import finetuning_report
from sk_metricopt.inspection._comparison import compared
from sk_metricopt.metrics import make_retrieval_scorer
from tests.inspected import (
    FEW,
    LABELS,
    NAMES,
    QUERIES,
    SEEN,
    X_NEW,
    X_TEST,
    Y_NEW,
    Y_TEST,
    X,
    Y,
    accuracy,
    finetuner,
    g_mean,
    net,
    of_frozen_net,
    post_shift,
    retriever,
    unchanged,
)
from tests.nets import classifier, log_likelihood

CLASSIFIERS = {"finetuner": finetuner, "post shift": post_shift}


def report_on(est, X=X_TEST, y=Y_TEST, n_resamples=50, **params):
    return finetuning_report(est, X, y, n_resamples=n_resamples, **params)


def before_and_after(est):
    """Labels as the report must find them, by another way."""
    if isinstance(est, PostShiftClassifier):
        return est.estimator_.predict(X_TEST), est.predict(X_TEST)
    return est.classes_[est.initial_estimator_.predict(X_TEST)], est.predict(X_TEST)


# what a fit keeps -------------------------------------------------------------------------------


def test_initial_estimator_answers_as_the_net_that_was_given():
    est = of_frozen_net()
    assert est.improved_
    given = net().predict_proba(X_TEST)
    np.testing.assert_array_equal(est.initial_estimator_.predict_proba(X_TEST), given)
    assert not np.array_equal(est.predict_proba(X_TEST), given)


def test_unchanged_finetuner_keeps_one_net_also_when_pickled():
    est = pickle.loads(pickle.dumps(unchanged()))
    assert not est.improved_
    assert est.initial_estimator_ is est.estimator_


def test_pickled_finetuner_can_be_inspected_and_a_clone_carries_nothing():
    est = pickle.loads(pickle.dumps(finetuner()))
    assert est.report_ == finetuner().report_
    np.testing.assert_array_equal(est.resampled_gains_, finetuner().resampled_gains_)
    assert repr(report_on(est)) == repr(report_on(finetuner()))
    assert not [name for name in vars(clone(est)) if name.endswith("_")]


def test_initial_estimator_is_kept_without_the_state_of_its_training():
    # Adam's moments alone are twice the weights.
    net = classifier(module__n_classes=3, module__hidden=2000, optimizer=torch.optim.Adam, lr=0.01)
    few = {**FEW, "max_observations": 6, "guard_z": None}
    est = MetricOptFinetuner(net, scoring=log_likelihood, **few).fit(X[:300], Y[:300])
    assert est.improved_
    sizes = [len(pickle.dumps(net)) for net in (est.initial_estimator_, est.estimator_)]
    assert sizes[0] < 1.1 * sizes[1]


def test_fit_that_fails_leaves_no_net_of_an_earlier_one():
    est = copy.copy(finetuner())
    with pytest.raises(ValueError, match="at least 2 classes"):
        est.fit(X[:20], np.zeros(20))
    assert not hasattr(est, "initial_estimator_")


@pytest.mark.parametrize("make", [post_shift, lambda: finetuner(use_validation_labels=False)])
def test_standard_error_is_the_spread_of_the_resampled_gains(make):
    est = make()  # nothing predicted is mixed into these
    assert len(est.resampled_gains_) == 40
    assert est.score_gain_se_ == np.nanstd(est.resampled_gains_) > 0


def test_gain_that_nobody_judged_has_no_resamples():
    assert unchanged().resampled_gains_.shape == (0,)
    assert unchanged().report_.gain_needed is None


# the record of a fit ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_report_of_fit_says_what_the_attributes_say(kind):
    est = CLASSIFIERS[kind]()
    report = est.report_
    assert report.scorer == "g_mean"
    assert report.initial_score == est.initial_score_
    assert report.best_score == est.best_score_
    assert (report.gain, report.gain_se) == (est.score_gain_, est.score_gain_se_)
    assert (report.improved, report.verdict) == (est.improved_, est.verdict_)
    assert report.n_observations == est.n_observations_
    assert report.n_scorer_calls == est.n_scorer_calls_
    assert est.verdict_ in repr(report)


def test_guard_needed_its_standard_errors():
    report = finetuner().report_
    assert report.gain_needed == report.gain_se < report.gain
    assert post_shift().report_.gain_needed is None  # it has no guard


def test_norms_by_layer_are_those_of_the_adapter_params():
    norms = finetuner().report_.adapter_norms
    assert list(norms) == ["hidden", "output"]
    whole = np.linalg.norm(finetuner().adapter_params_)
    assert math.hypot(*norms.values()) == pytest.approx(whole) and whole > 0
    assert set(unchanged().report_.adapter_norms.values()) == {0.0}
    assert post_shift().report_.adapter_norms == {}


@pytest.mark.parametrize(
    "make, parts",
    [
        (finetuner, {"training", "preparation", "evaluation", "scorer", "value function", "steps"}),
        (post_shift, {"training", "scorer"}),
    ],
)
def test_parts_of_the_time_make_up_the_total(make, parts):
    seconds = dict(make().report_.seconds)
    total = seconds.pop("total")
    assert seconds.keys() == parts | {"other"}
    assert min(seconds.values()) >= 0
    assert sum(seconds.values()) == pytest.approx(total)


def test_two_fits_have_equal_reports_though_not_equal_times():
    one, other = (clone(finetuner()) for _ in range(2))
    for est in (one, other):
        est.set_params(max_observations=8)
        est.fit(X[:300], Y[:300], X_val=X[300:600], y_val=Y[300:600])
    assert one.report_ == other.report_
    assert one.report_.seconds != other.report_.seconds


def test_run_from_a_checkpoint_keeps_the_same_gains(tmp_path):
    runs = [
        clone(finetuner())
        .set_params(checkpoint_dir=tmp_path, max_observations=12)
        .fit(X[:300], Y[:300], X_val=X[300:600], y_val=Y[300:600])
        for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0].resampled_gains_, runs[1].resampled_gains_)
    assert runs[1].n_scorer_calls_ == 0  # nothing was asked again
    assert runs[0].report_.verdict == runs[1].report_.verdict


def test_session_says_that_scores_were_told():
    net = classifier(module__n_classes=3)
    session = MetricOptSession(net, X[:300], Y[:300], max_observations=6, random_state=0)
    while not session.finished:
        for candidate in session.ask():
            session.tell(candidate.id, accuracy(candidate.estimator, X, Y), se=0.01)
        with pytest.raises(NotFittedError):
            report_on(candidate.estimator)
    est = session.result()
    assert est.report_.scorer == "scores told"
    assert report_on(est, X[600:], Y[600:]).scorer == "accuracy"


@pytest.mark.parametrize(
    "scoring, name",
    [
        ("f1_macro", "f1_macro"),
        (make_scorer(fbeta_score, beta=2), "fbeta(beta=2)"),
        (make_scorer(brier_score_loss, greater_is_better=False), "neg_brier_score_loss"),
        (accuracy, "accuracy"),
        (make_retrieval_scorer("recall_at_k", k=1), "recall_at_k(k=1)"),
    ],
)
def test_scorer_goes_by_the_name_people_give_it(scoring, name):
    assert scorer_name(scoring, scoring) == name


# the report on test rows: classifiers -----------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_scores_and_metrics_are_those_of_scikit_learn(kind):
    est = CLASSIFIERS[kind]()
    report, labels = report_on(est), before_and_after(est)
    assert report.after == est.score(X_TEST, Y_TEST)
    assert report.gain == report.after - report.before != 0
    for when, decided in enumerate(labels):
        assert report.metrics["accuracy"][when] == accuracy_score(Y_TEST, decided)
        assert report.metrics["macro_f1"][when] == f1_score(Y_TEST, decided, average="macro")
    proba = est.predict_proba(X_TEST)
    assert report.metrics["log_loss"][1] == pytest.approx(
        log_loss(Y_TEST, proba, labels=est.classes_)
    )
    one_hot = Y_TEST[:, None] == est.classes_
    assert report.metrics["brier_score"][1] == pytest.approx(((proba - one_hot) ** 2).sum(1).mean())
    assert report.fit is est.report_


def test_brier_score_of_two_classes_is_scikit_learns():
    est = MetricOptFinetuner(classifier(), scoring=accuracy, **FEW | {"max_observations": 1})
    est.fit(X, Y == 2)
    report = report_on(est, X, Y == 2)
    proba = est.predict_proba(X)[:, 1]
    assert report.metrics["brier_score"][1] == pytest.approx(brier_score_loss(Y == 2, proba))


def test_calibration_error_is_the_mean_distance_within_bins():
    est = finetuner()
    proba = est.predict_proba(X_TEST)
    said, is_so = proba.max(axis=1), est.classes_[proba.argmax(axis=1)] == Y_TEST
    bins = pd.qcut(said, 10, labels=False)
    gaps = [len(said[bins == b]) * abs((said - is_so)[bins == b].mean()) for b in range(10)]
    expected = sum(gaps) / len(said)
    assert report_on(est).metrics["calibration_error"][1] == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_table_of_changes_counts_every_changed_decision_once(kind):
    est = CLASSIFIERS[kind]()
    report, (old, new) = report_on(est), before_and_after(est)
    table = pd.DataFrame(report.changes)
    assert report.n_changed == (old != new).sum() == table["n"].sum() > 0
    assert table["put_right"].sum() == ((old != new) & (new == Y_TEST)).sum()
    assert table["spoilt"].sum() == ((old != new) & (old == Y_TEST)).sum()
    assert (table[["put_right", "spoilt", "still_wrong"]].sum(axis=1) == table["n"]).all()
    assert table["n"].is_monotonic_decreasing
    for row in table.itertuples():
        assert row.n == ((old == row.before) & (new == row.after)).sum()
        assert row.before != row.after


def test_interval_of_accuracy_is_as_wide_as_theory_says():
    est = finetuner(accuracy, guard_z=None)
    report = report_on(est, n_resamples=2000)
    old, new = before_and_after(est)
    change = (new == Y_TEST).astype(float) - (old == Y_TEST)
    # Rows are drawn within classes: their variances add up.
    variance = sum(change[c == Y_TEST].var() * (c == Y_TEST).sum() for c in NAMES)
    expected = 2 * 1.96 * math.sqrt(variance) / len(Y_TEST)
    assert report.gain_high - report.gain_low == pytest.approx(expected, rel=0.1)
    assert report.gain_low < report.gain < report.gain_high


def test_resamples_keep_the_counts_of_classes_and_both_models_get_the_same():
    seen = []

    def recording(estimator, X, y):
        seen.append(tuple(np.asarray(y)))
        return accuracy(estimator, X, y)

    est = copy.copy(finetuner())
    est.scorer_ = recording
    report_on(est, n_resamples=5)
    before, after = seen[2:7], seen[7:]
    assert seen[0] == seen[1] == tuple(Y_TEST)
    assert before == after
    assert len(set(before)) == 5
    for drawn in before:
        assert sorted(drawn) == sorted(Y_TEST)


def test_resamples_come_in_parts_where_all_would_take_much_memory(monkeypatch):
    whole = report_on(finetuner())
    monkeypatch.setattr("sk_metricopt.inspection._comparison._ROWS_AT_ONCE", 7 * len(Y_TEST))
    assert repr(report_on(finetuner())) == repr(whole)


def test_unchanged_model_has_no_gain_and_no_changes():
    report = report_on(unchanged())
    assert report.gain == report.gain_low == report.gain_high == 0
    assert report.n_changed == 0
    assert all(before == after for before, after in report.metrics.values())
    assert all(len(column) == 0 for column in report.changes.values())
    assert "Changed decisions" not in repr(report)


def test_report_is_repeatable_and_leaves_random_streams_alone():
    def noisy(estimator, X, y):
        return accuracy(estimator, X, y) + 0.01 * np.random.rand()

    est = copy.copy(finetuner())
    est.scorer_ = noisy
    state = np.random.get_state()[1].copy()
    one, same, other = (report_on(est, random_state=seed) for seed in (0, 0, 1))
    assert (one.before, one.gain_low) == (same.before, same.gain_low)
    assert one.gain_low != other.gain_low
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_scorer_that_fails_on_some_resamples_leaves_the_others():
    def fragile(estimator, X, y):
        if y[0] != Y_TEST[0] or len(set(X[:, 0])) % 2:  # about every second resample
            raise ValueError("odd")
        return accuracy(estimator, X, y)

    est = copy.copy(finetuner())
    est.scorer_ = fragile
    report = report_on(est, X_TEST[: len(Y_TEST)], n_resamples=40)
    assert report.gain_low < report.gain_high

    est.scorer_ = lambda estimator, X, y: 1 / (len(set(X[:, 0])) // len(Y_TEST))
    assert math.isnan(report_on(est).gain_low)  # it works on all rows only


def test_scorer_that_fails_on_the_rows_raises_its_own_error():
    est = copy.copy(finetuner())
    est.scorer_ = lambda *_: [].pop()
    with pytest.raises(IndexError, match="pop from empty list"):
        report_on(est)


def test_metadata_reaches_the_scorer_row_by_row():
    def worth(y_true, y_pred, euros=None):
        return float(((y_true == y_pred) * euros).sum())

    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(worth).set_score_request(euros=True)
        est = MetricOptFinetuner(classifier(module__n_classes=3), scoring=scorer, **FEW)
        est.set_params(max_observations=8, guard_z=None)
        est.fit(X[:300], Y[:300], euros=np.ones(300))
        euros = np.arange(300.0)
        report = report_on(est, X[600:], Y[600:], euros=euros)
        assert report.after == est.score(X[600:], Y[600:], euros=euros)
        assert report.gain_low <= report.gain_high


def test_rows_may_come_as_a_frame_and_labels_as_a_list():
    report = report_on(finetuner(), pd.DataFrame(X_TEST).to_numpy().tolist(), list(Y_TEST))
    assert report.before == report_on(finetuner()).before


# retrievers -------------------------------------------------------------------------------------


def test_changes_of_queries_add_up_to_the_gain():
    report = report_on(retriever(), X_NEW, Y_NEW)
    table = pd.DataFrame(report.changes)
    assert table["n"].sum() == len(Y_NEW)
    assert (table["n"] * table["mean_change"]).sum() / len(Y_NEW) == pytest.approx(report.gain)
    assert table["gained"].sum() + table["lost"].sum() == report.n_changed > 0
    assert report.metrics["map_at_r"] == pytest.approx((report.before, report.after))
    assert report.gain_low < report.gain < report.gain_high
    assert "queries changed" in repr(report)


def test_interval_of_searches_is_as_wide_as_labels_differ():
    report = report_on(retriever(), X_NEW, Y_NEW, n_resamples=2000)
    of_label = report.changes["mean_change"]  # labels are of one size
    expected = 2 * 1.96 * of_label.std(ddof=1) / math.sqrt(len(of_label))
    # Halves of eight labels are few and have no tails.
    assert 0.7 * expected < report.gain_high - report.gain_low < 1.1 * expected


def test_gallery_that_was_replaced_has_to_be_replaced_for_both():
    est = pickle.loads(pickle.dumps(retriever("fitted")))
    seen = QUERIES[SEEN], LABELS[SEEN]
    whole = report_on(est, *seen)
    est.set_gallery(QUERIES[SEEN][:100], LABELS[SEEN][:100])
    with pytest.raises(ValueError, match=r"initial_estimator_\.set_gallery"):
        report_on(est, *seen)
    est.initial_estimator_.set_gallery(QUERIES[SEEN][:100], LABELS[SEEN][:100])
    assert report_on(est, *seen).before != whole.before


def test_scorer_that_does_not_tell_of_queries_is_helped_out_by_recall():
    est = copy.copy(retriever())
    recall = make_retrieval_scorer("recall_at_k", k=1)
    est.scorer_ = lambda estimator, X, y: 2 * recall(estimator, X, y)
    report = report_on(est, X_NEW, Y_NEW)
    weighted = (report.changes["n"] * report.changes["mean_change"]).sum() / len(Y_NEW)
    assert 2 * weighted == pytest.approx(report.gain)


# bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, X, y, params, error, message",
    [
        (lambda: clone(finetuner()), X_TEST, Y_TEST, {}, NotFittedError, "not fitted"),
        (
            lambda: make_pipeline(StandardScaler(), clone(finetuner())),
            X_TEST,
            Y_TEST,
            {},
            TypeError,
            r"'est' parameter.*Got Pipeline instead.*pipeline\[-1\]",
        ),
        (lambda: None, X_TEST, Y_TEST, {}, TypeError, "Got NoneType instead"),
        (finetuner, X_TEST, Y_TEST[:-1], {}, ValueError, "inconsistent numbers of samples"),
        (finetuner, X_TEST[:, :4], Y_TEST, {}, ValueError, "4 features"),
        (
            finetuner,
            X_TEST,
            np.where(Y_TEST == "yes", "perhaps", Y_TEST),
            {},
            ValueError,
            r"'y' parameter of finetuning_report.*'perhaps'",
        ),
        (finetuner, X_TEST, Y_TEST[:, None] == NAMES, {}, ValueError, "1d array"),
        (finetuner, X_TEST, Y_TEST, {"n_resamples": 1}, ValueError, "'n_resamples' parameter"),
        (finetuner, X_TEST, Y_TEST, {"random_state": "a"}, ValueError, "'random_state' param"),
    ],
)
def test_bad_input_is_named(make, X, y, params, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        finetuning_report(make(), X, y, **params)


def test_deleted_initial_estimator_is_named_and_saves_its_size():
    est = pickle.loads(pickle.dumps(finetuner()))
    before = len(pickle.dumps(est))
    del est.initial_estimator_
    assert len(pickle.dumps(est)) < before
    est.predict(X_TEST)
    with pytest.raises(ValueError, match="initial_estimator_ was deleted"):
        report_on(est)


# renderings -------------------------------------------------------------------------------------


def test_frame_has_the_scorer_first_with_its_interval():
    report = report_on(finetuner())
    frame = report.to_frame()
    assert frame.index[0] == "g_mean"
    assert list(frame.columns) == ["before", "after", "change", "low", "high"]
    assert frame.loc["g_mean", "high"] == report.gain_high
    assert frame.loc["log_loss", "after"] == report.metrics["log_loss"][1]


def test_frame_without_pandas_says_what_to_install(monkeypatch):
    report = report_on(finetuner())
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"sk_metricopt\[inspection\]"):
        report.to_frame()


class Balanced(html.parser.HTMLParser):
    """Notes tags that open and text, and that tags close in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.words = [], set(), []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_odd_class_names_break_neither_html_nor_markdown():
    est = copy.copy(finetuner())
    est.classes_ = np.array(["a|b", "<i>", "c\nd"])[np.argsort(np.argsort(est.classes_))]
    y = est.classes_[np.searchsorted(np.sort(NAMES), Y_TEST)]
    order = np.argsort(est.classes_)
    est.classes_ = est.classes_[order]
    report = report_on(est, X_TEST, y)
    page = Balanced(report._repr_html_())
    assert page.tags == {
        "style",
        "div",
        "p",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    }
    assert "<i>" in page.words
    rows = [line for line in report.to_markdown().splitlines() if line.startswith("|")]
    changed = [row for row in rows if "\\|" in row or "<i>" in row]
    assert changed
    assert all(row.replace("\\|", "").count("|") in (3, 5, 7) for row in rows)


def test_markdown_is_a_section_with_all_that_counts():
    report = report_on(finetuner())
    section = report.to_markdown()
    assert section.startswith("## Finetuning towards g_mean\n\nOn 300 test rows")
    for words in (f"{report.gain:+.4f}", "95 % interval", report.fit.verdict, "log loss", "hidden"):
        assert words in section
    assert f"{report.n_changed} of 300 decisions changed" in section


def test_long_tables_are_cut_and_say_so():
    report = report_on(finetuner())
    changes = {name: np.repeat(column[:1], 13) for name, column in report.changes.items()}
    report = dataclasses.replace(report, changes=changes)
    for shown in (repr(report), report.to_markdown(), report._repr_html_()):
        assert "and 3 more" in shown


def test_bins_hold_rows_of_equal_probability_together():
    comparison = compared(finetuner(), X_TEST, Y_TEST, "test")
    comparison.proba[1] = np.tile([0.5, 0.3, 0.2], (300, 1))
    said, is_so, share = comparison.bins(1)
    assert said.tolist() == pytest.approx([0.5])
    assert is_so.tolist() == [(comparison.codes == 0).mean()]
    assert share.tolist() == [1.0]


def test_g_mean_is_one_for_perfect_decisions():
    """The scorer of these tests means what it says."""

    class Knows:
        def predict(self, X):
            return Y_TEST

    assert g_mean(Knows(), X_TEST, Y_TEST) == 1

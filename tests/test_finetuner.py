"""MetricOptFinetuner as a citizen of scikit-learn."""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, f1_score, make_scorer
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.validation import NotFittedError, check_is_fitted
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt import MetricOptFinetuner, MetricOptSession
from sk_metricopt._candidate import Candidate
from sk_metricopt._skorch import NetBridge
from sk_metricopt.adapters import FiLMAdapter, WeightAdapter
from sk_metricopt.exploration import PortfolioExploration
from sk_metricopt.value_functions import BehaviourValueFunction
from tests.nets import (
    CNN,
    MLP,
    Conv1dNet,
    NormMLP,
    TokenNet,
    ViewCNN,
    binary_classifier,
    classifier,
    images,
    log_likelihood,
    nll_classifier,
    same_weights,
    table,
    tokens,
    trained,
    weights_of,
)

X, Y = table(2)
X3, Y3 = table(3)


def macro_f1(estimator, X, y):
    """Quick, and blind to what the labels are."""
    predicted, scores = estimator.predict(X), []
    for label in estimator.classes_:
        true, said = y == label, predicted == label
        scores.append(2 * (true & said).sum() / max(true.sum() + said.sum(), 1))
    return float(np.mean(scores))


def fast(estimator=None, **params):
    """A finetuner that moves the net in next to no time, guard or not."""
    few = {"max_observations": 16, "observation_interval": 3, "lr": 0.05, "random_state": 0}
    estimator = classifier() if estimator is None else estimator
    return MetricOptFinetuner(
        estimator, **({"scoring": log_likelihood, "guard_z": None} | few | params)
    )


def frozen(net=None, X=X, y=Y):
    return FrozenEstimator(trained(classifier() if net is None else net, X, y))


# how long trajectories are -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exploration", "n_steps"), [("auto", 900), (PortfolioExploration(n_steps=200), 200)]
)
def test_trajectories_are_as_long_as_the_exploration_says(exploration, n_steps):
    finetuner = fast(
        frozen(), exploration=exploration, observation_interval="auto", max_observations=80
    ).fit(X, Y)
    explored = finetuner.observations_["phase"] == "explore"
    longest = finetuner.observations_["step"][explored].max()
    assert abs(longest - n_steps) <= 0.1 * n_steps


@pytest.mark.parametrize("n_steps", [0, -5, 1.5, True, "x"])
def test_trajectories_without_a_length_are_refused_before_the_net_is_trained(n_steps):
    finetuner = fast(frozen(), exploration=PortfolioExploration(n_steps=n_steps))
    message = "'exploration' parameter .* n_steps that are a whole number of at least 1"
    with pytest.raises(ValueError, match=message):
        finetuner.fit(X, Y)
    with pytest.raises(ValueError, match=message):
        MetricOptSession(frozen(), X, Y, exploration=finetuner.exploration)


# which adapter ----------------------------------------------------------------------------------


def test_the_adapter_of_a_fit_is_a_copy_of_the_one_given():
    given = WeightAdapter(0.1)
    finetuner = fast(frozen(), adapter=given, max_observations=8).fit(X, Y)
    assert finetuner.adapter is given and finetuner.adapter_ is not given
    assert finetuner.adapter_.scale == 0.1


@pytest.mark.parametrize(
    "params, adapter",
    [
        ({}, WeightAdapter),
        ({"adapter": "weights"}, WeightAdapter),
        ({"adapter": "film"}, FiLMAdapter),
        ({"value_function": "adapter"}, FiLMAdapter),  # it reads φ, which is to be compact
        ({"value_function": "adapter", "adapter": "weights"}, WeightAdapter),
    ],
)
def test_weights_adapt_in_a_small_classifier_unless_the_value_function_reads_phi(params, adapter):
    finetuner = fast(frozen(), max_observations=8, **params).fit(X, Y)
    assert type(finetuner.adapter_) is adapter


@pytest.mark.parametrize(
    "hidden, adapter", [((2**16 - 2) // 9, WeightAdapter), ((2**16 - 2) // 9 + 1, FiLMAdapter)]
)
def test_scale_and_shift_adapt_in_a_net_of_more_than_65536_weights(hidden, adapter):
    net = nn.Sequential(nn.Linear(6, hidden), nn.Linear(hidden, 2))  # 9 weights a unit, and 2
    finetuner = fast(net, max_observations=2).fit(X, Y)
    assert type(finetuner.adapter_) is adapter


# what the estimator is --------------------------------------------------------------------------


def test_methods_and_tags_are_those_of_the_net_before_and_after_fit():
    finetuner = fast()
    for _ in range(2):
        assert is_classifier(finetuner)
        assert hasattr(finetuner, "predict") and hasattr(finetuner, "predict_proba")
        assert not hasattr(finetuner, "decision_function") and not hasattr(finetuner, "transform")
        tags = get_tags(finetuner)
        assert tags.estimator_type == "classifier" and tags.target_tags.required
        assert tags.classifier_tags.multi_class and tags.regressor_tags is None
        assert tags._skip_test is False
        finetuner.fit(X, Y)


@pytest.mark.parametrize(
    "estimator, multi_class",
    [
        (frozen(), True),
        (binary_classifier(), False),
        (FrozenEstimator(binary_classifier()), False),
        (MLP(), True),
    ],
)
def test_tags_of_frozen_and_binary_nets_and_modules(estimator, multi_class):
    tags = get_tags(fast(estimator))
    assert tags.estimator_type == "classifier" and tags.target_tags.required
    assert tags.classifier_tags.multi_class is multi_class
    assert tags._skip_test is False
    assert hasattr(fast(estimator), "predict_proba")


class ScoringNet(NeuralNetClassifier):
    """A net with more to it than predictions."""

    def decision_function(self, X):
        return self.forward(X).numpy()[:, 1]


def test_decision_function_is_the_nets_where_it_has_one():
    finetuner = fast(ScoringNet(MLP, criterion=nn.CrossEntropyLoss, train_split=None, verbose=0))
    with pytest.raises(NotFittedError):
        finetuner.decision_function(X)
    finetuner.fit(X, Y)
    expected = finetuner.estimator_.decision_function(X)
    assert expected.shape == (300,)
    assert (finetuner.decision_function(X) == expected).all()


def test_every_method_asks_to_be_fitted_first():
    finetuner = fast()
    for method in (finetuner.predict, finetuner.predict_proba, finetuner.export_onnx):
        with pytest.raises(NotFittedError):
            method(X)
    with pytest.raises(NotFittedError):
        finetuner.score(X, Y)


def test_fitted_attributes():
    finetuner = fast(frozen()).fit(X, Y)
    check_is_fitted(finetuner)
    assert finetuner.classes_.tolist() == [0, 1]
    assert finetuner.n_features_in_ == 6
    assert finetuner.scorer_ is log_likelihood
    assert finetuner.adapter_params_.shape == (6 * 8 + 8 + 8 * 2 + 2,)
    assert isinstance(finetuner.adapter_params_, np.ndarray)
    assert isinstance(finetuner.value_function_, BehaviourValueFunction)
    assert finetuner.improved_ is True and finetuner.verdict_.startswith("finetuned")
    assert isinstance(finetuner.initial_score_, float) and isinstance(finetuner.best_score_, float)
    assert np.isfinite([finetuner.score_gain_, finetuner.score_gain_se_]).all()
    assert finetuner.best_score_ == pytest.approx(finetuner.initial_score_ + finetuner.score_gain_)
    assert len(finetuner.history_) == 4
    assert type(finetuner.estimator_) is type(classifier())
    assert finetuner.n_observations_ <= 16 and finetuner.n_scorer_calls_ >= 16


def test_observations_are_a_table():
    finetuner = fast().fit(X, Y)
    table = pd.DataFrame(finetuner.observations_)
    assert set(table) == {"step", "trajectory", "phase", "score", "predicted_score"}
    assert len(table) == finetuner.n_observations_
    assert table.phase[0] == "initial" and table.score[0] == finetuner.initial_score_
    assert {"explore", "guide"} <= set(table.phase)
    guided = table.phase == "guide"
    assert table.predicted_score[guided].notna().all()
    assert table.predicted_score[~guided].isna().all()


@pytest.mark.parametrize("max_observations", [1, 2, 3, 5, 8, 40])
def test_budget_is_kept(max_observations):
    calls = []

    def counting(estimator, X, y):
        calls.append(len(y))
        return macro_f1(estimator, X, y)

    finetuner = fast(scoring=counting, max_observations=max_observations).fit(X, Y)
    assert 1 <= finetuner.n_observations_ <= max_observations
    assert len(calls) == finetuner.n_scorer_calls_


def test_score_is_the_metric():
    finetuner = fast(scoring="f1_macro").fit(X, Y)
    assert finetuner.score(X, Y) == f1_score(Y, finetuner.predict(X), average="macro")
    default = fast(scoring=None, max_observations=2).fit(X, Y)
    assert default.score(X, Y) == accuracy_score(Y, default.predict(X))


# nets, modules and data --------------------------------------------------------------------------


NETS = {
    "logits": (classifier(), X, Y),
    "three classes": (classifier(module__n_classes=3), X3, Y3),
    "log softmax by criterion": (nll_classifier(), X, Y),
    "binary": (binary_classifier(), X, Y),
    "binary, a column": (binary_classifier(flat=False), X, Y),
    "binary, threshold": (binary_classifier(threshold=0.3), X, Y),
    "norms and dropout": (classifier(NormMLP), X, Y),
    "conv1d": (classifier(Conv1dNet), images()[0][:, 0, :3], images()[1]),
    "cnn": (classifier(CNN), *images()),
    "cnn that views": (classifier(ViewCNN), *images()),
    "embedding": (classifier(TokenNet, module__n_classes=3, max_epochs=20), *tokens(3)),
}


@pytest.mark.parametrize("name", NETS)
def test_net_is_trained_and_finetuned(name):
    net, X, y = NETS[name]
    finetuner = fast(net).fit(X, y)
    proba = finetuner.predict_proba(X)
    assert proba.shape == (len(X), len(np.unique(y)))
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    if name == "binary, threshold":
        assert (finetuner.predict(X) == (proba[:, 1] > 0.3)).all()
    else:
        assert (finetuner.predict(X) == proba.argmax(axis=1)).all()
    assert finetuner.improved_ and finetuner.adapter_params_.any()
    assert finetuner.best_score_ > finetuner.initial_score_


@pytest.mark.parametrize("name", NETS)
def test_batched_predictions_are_those_of_the_folded_net(name):
    net, X, y = NETS[name]
    seen = []

    def watching(estimator, X, y):
        # The first observations, of trajectories; a judged one is put together from several.
        if isinstance(estimator, Candidate) and len(seen) < 8 and len(X) == len(y_val):
            model = estimator._model()
            seen.append((estimator.predict_proba(X), model.predict_proba(X)))
            seen.append((estimator.predict(X), model.predict(X)))
        return macro_f1(estimator, X, y)

    y_val = y[:60]
    opaque = {"use_validation_labels": False}  # otherwise rows are scored by twins
    fast(net, scoring=watching, max_observations=8, **opaque).fit(X, y, X_val=X[:60], y_val=y_val)
    assert len(seen) == 8
    assert not np.allclose(seen[0][0], seen[-2][0], atol=1e-4)
    for known, real in seen:
        np.testing.assert_allclose(known, real, atol=1e-5)


def test_shifted_candidate_predicts_other_rows_with_its_shift():
    found = []

    def watching(estimator, X, y):
        if isinstance(estimator, Candidate) and len(X) == 100:
            known = estimator.predict_proba(X)
            real = estimator.predict_proba(X[:50])
            found.append(np.abs(known[:50] - real).max())
        return macro_f1(estimator, X, y)

    opaque = {"use_validation_labels": False, "max_observations": 30}
    finetuner = fast(scoring=watching, **opaque).fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    phases = finetuner.observations_["phase"]
    assert (phases == "shift").sum() > 3
    assert np.max(np.array(found)[: len(phases)][phases[: len(found)] == "shift"]) < 1e-5


def test_folded_net_has_no_trace_of_us():
    net = classifier(NormMLP).fit(X, Y)
    finetuner = fast(FrozenEstimator(net)).fit(X, Y)
    own, folded = net.module_, finetuner.estimator_.module_
    assert finetuner.improved_
    assert [(n, type(m)) for n, m in own.named_modules()] == [
        (n, type(m)) for n, m in folded.named_modules()
    ]
    for module in folded.modules():
        assert type(module).__module__.split(".")[0] in ("torch", "tests")
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert b"sk_metricopt" not in pickle.dumps(finetuner.estimator_)
    assert set(vars(finetuner.estimator_)) == set(vars(net))
    # What the net's next training would use is its own, too.
    parameters = {
        id(p) for group in finetuner.estimator_.optimizer_.param_groups for p in group["params"]
    }
    assert parameters == {id(p) for p in folded.parameters()}
    finetuner.estimator_.partial_fit(X, Y)


def test_normalisation_statistics_stay_as_they_were():
    net = classifier(NormMLP).fit(X, Y)
    finetuner = fast(FrozenEstimator(net)).fit(X, Y)
    before, after = (dict(n.module_.named_buffers()) for n in (net, finetuner.estimator_))
    assert finetuner.improved_ and before
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("n_classes, softmax", [(2, False), (3, False), (3, True), (1, False)])
def test_initialised_module_counts_as_pre_trained(n_classes, softmax):
    n_labels = max(n_classes, 2)
    X, y = table(n_labels)
    module = MLP(n_classes=n_classes, softmax=softmax)
    finetuner = fast(module, guard_z=100.0).fit(X, y)
    with torch.no_grad():
        output = module(torch.as_tensor(X))
    if n_classes == 1:
        p = torch.sigmoid(output).numpy()
        expected = np.hstack([1 - p, p])
    else:
        expected = (output if softmax else output.softmax(1)).numpy()
    assert not finetuner.improved_
    np.testing.assert_allclose(finetuner.predict_proba(X), expected, atol=1e-6)


LABELS = {
    "str": ["no", "yes"],
    "object": np.array(["no", "yes"], dtype=object),
    "bool": [False, True],
    "non-contiguous": [-7, 40],
    "float": [0.0, 1.0],
    "ints that sort otherwise as text": [9, 10],
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("make", [classifier, binary_classifier])
def test_labels_may_be_of_any_type(kind, make):
    labels = np.asarray(LABELS[kind])
    y = labels[Y]
    finetuner = fast(make()).fit(X, y)
    assert finetuner.classes_.tolist() == labels.tolist()
    assert finetuner.classes_.dtype == labels.dtype
    predicted = finetuner.predict(X)
    assert predicted.dtype == labels.dtype
    assert accuracy_score(y, predicted) > 0.6
    same = fast(make()).fit(X, Y)
    assert (predicted == labels[same.predict(X)]).all()
    assert finetuner.initial_score_ == same.initial_score_


@pytest.mark.parametrize("kind", LABELS)
def test_frozen_net_on_codes_takes_labels_in_their_order(kind):
    labels = np.asarray(LABELS[kind])
    net = classifier().fit(X, Y)
    finetuner = fast(FrozenEstimator(net), guard_z=100.0).fit(X, labels[Y])
    assert finetuner.classes_.tolist() == labels.tolist()
    assert (finetuner.predict(X) == labels[net.predict(X)]).all()


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        torch.from_numpy,
        np.float64,
        np.asfortranarray,
        lambda X: pd.DataFrame(X, columns=list("abcdef")),
    ],
    ids=["list", "torch", "float64", "fortran", "pandas"],
)
def test_same_rows_in_any_container_give_the_same_model(convert):
    reference = fast().fit(X, Y)
    y = torch.as_tensor(Y) if convert is torch.from_numpy else Y.tolist()
    finetuner = fast().fit(convert(X), y)
    expected = reference.predict_proba(X)
    assert (finetuner.adapter_params_ == reference.adapter_params_).all()
    assert (finetuner.predict_proba(convert(X)) == expected).all()
    assert finetuner.score(convert(X), y) == reference.score(X, Y)


@pytest.mark.parametrize("convert", [np.ndarray.tolist, torch.from_numpy], ids=["list", "torch"])
def test_images_may_come_as_lists_or_tensors(convert):
    X, y = images()
    finetuner = fast(classifier(CNN)).fit(convert(X), y)
    assert (finetuner.predict(convert(X)) == finetuner.predict(X)).all()
    assert not hasattr(finetuner, "n_features_in_")
    assert len(finetuner.predict(X[:1])) == 1


def test_column_names_are_kept_and_checked():
    frame = pd.DataFrame(X, columns=list("abcdef"))
    finetuner = fast().fit(frame, pd.Series(Y))
    assert finetuner.feature_names_in_.tolist() == list("abcdef")
    with pytest.raises(ValueError, match="feature names"):
        finetuner.predict(frame[list("fedcba")])


def test_refit_on_rows_of_another_shape_forgets_the_first():
    X_images, y_images = images()
    finetuner = fast(classifier(CNN)).fit(X_images, y_images)
    finetuner.set_params(estimator=classifier()).fit(pd.DataFrame(X, columns=list("abcdef")), Y)
    assert finetuner.n_features_in_ == 6
    finetuner.set_params(estimator=classifier(CNN)).fit(X_images, y_images)
    assert not hasattr(finetuner, "n_features_in_") and not hasattr(finetuner, "feature_names_in_")
    assert finetuner.predict(X_images).shape == y_images.shape


def test_indices_survive_steps_that_turn_them_into_floats():
    X, y = tokens()
    texts = np.array(list("abcdefghij"))[X]
    encoder = OrdinalEncoder(categories=[list("abcdefghij")] * X.shape[1])
    model = make_pipeline(encoder, fast(classifier(TokenNet))).fit(texts, y)
    assert (model.predict(texts) == fast(classifier(TokenNet)).fit(X, y).predict(X)).all()


class MixedNet(nn.Module):
    """The first column is an index, the rest are numbers."""

    def __init__(self):
        super().__init__()
        self.embedding, self.output = nn.Embedding(4, 3), nn.Linear(8, 2)

    def forward(self, X):
        return self.output(torch.hstack([self.embedding(X[:, 0].long()), X[:, 1:]]))


def test_numbers_beside_an_embedding_are_not_cut_to_integers(tmp_path):
    X_mixed = X.copy()
    X_mixed[:, 0] = np.arange(300) % 4
    finetuner = fast(classifier(MixedNet)).fit(X_mixed, Y)
    cut = finetuner.predict_proba(np.trunc(X_mixed))
    assert np.abs(finetuner.predict_proba(X_mixed) - cut).max() > 0.01
    finetuner.export_onnx(tmp_path / "model.onnx", X_mixed)  # compares with predict


# validation rows --------------------------------------------------------------------------------


def test_given_validation_rows_are_the_ones_observed():
    shapes = set()

    def watching(estimator, X, y):
        if len(y) == 90:
            shapes.add(X.shape)
        return macro_f1(estimator, X, y)

    finetuner = fast(frozen(), scoring=watching).fit(
        X[:200], Y[:200], X_val=X[200:290], y_val=Y[200:290]
    )
    assert shapes == {(90, 6)}
    net = finetuner.estimator.estimator
    assert finetuner.initial_score_ == pytest.approx(
        f1_score(Y[200:290], net.predict(X[200:290]), average="macro")
    )


def test_validation_rows_may_be_other_than_arrays():
    reference = fast().fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    for X_val, y_val in [
        (X[200:].tolist(), Y[200:].tolist()),
        (torch.as_tensor(X[200:]), torch.as_tensor(Y[200:])),
    ]:
        finetuner = fast().fit(X[:200], Y[:200], X_val=X_val, y_val=y_val)
        assert (finetuner.adapter_params_ == reference.adapter_params_).all()


def test_validation_rows_go_through_a_pipeline():
    with sklearn.config_context(enable_metadata_routing=True):
        finetuner = fast().set_fit_request(X_val=True, y_val=True)
        model = Pipeline(
            [("scaler", StandardScaler()), ("finetuner", finetuner)], transform_input=["X_val"]
        )
        model.fit(50 * X[:200], Y[:200], X_val=50 * X[200:], y_val=Y[200:])
    scaler = StandardScaler().fit(50 * X[:200])
    expected = fast().fit(
        scaler.transform(50 * X[:200]), Y[:200], X_val=scaler.transform(50 * X[200:]), y_val=Y[200:]
    )
    assert (model[-1].adapter_params_ == expected.adapter_params_).all()
    assert model[-1].initial_score_ == expected.initial_score_


def test_routing_works_for_a_module_which_asks_for_nothing():
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(accuracy_score).set_score_request(sample_weight=True)
        finetuner = fast(MLP(), scoring=scorer)
        finetuner.fit(X, Y, sample_weight=np.linspace(0, 1, 300))
    assert finetuner.initial_score_ > 0


def test_split_is_stratified_and_of_the_fraction_asked_for():
    sizes = []

    def watching(estimator, X, y):
        sizes.append((len(y), y.mean()))
        return macro_f1(estimator, X, y)

    fast(scoring=watching, validation_fraction=0.3, max_observations=2).fit(X, Y)
    assert sizes[0][0] == 90
    assert sizes[0][1] == pytest.approx(Y.mean(), abs=0.02)


def ignoring_labels(estimator, X, y):
    return float(np.log(estimator.predict_proba(X)[:, 1]).mean())


@pytest.mark.parametrize("use_validation_labels", [False, True])
def test_validation_labels_reach_only_the_scorer_of_an_opaque_oracle(use_validation_labels):
    params = {"scoring": ignoring_labels, "use_validation_labels": use_validation_labels}
    y_other = np.random.RandomState(0).permutation(Y[200:])
    estimator = frozen()
    one, other = (
        fast(estimator, **params).fit(X[:200], Y[:200], X_val=X[200:], y_val=y_val)
        for y_val in (Y[200:], y_other)
    )
    same = np.array_equal(one.adapter_params_, other.adapter_params_)
    assert one.improved_
    assert same is not use_validation_labels


@pytest.mark.parametrize("params", [{"guidance_weight": 0}, {"use_validation_labels": False}])
def test_variants_of_the_method_run(params):
    net = classifier(module__n_classes=3)
    finetuner = fast(net, max_observations=30, **params).fit(X3, Y3)
    phases = set(finetuner.observations_["phase"])
    assert phases == {"initial", "shift", "explore", "guide", "judge"}
    assert finetuner.improved_


def test_guidance_weight_moves_the_guided_agents_and_nothing_before():
    slight, strong = (
        fast(guidance_weight=w, max_observations=30).fit(X, Y).observations_ for w in (0.01, 50.0)
    )
    explored = slight["phase"] == "explore"
    guided = slight["phase"] == "guide"
    assert (slight["score"][explored] == strong["score"][explored]).all()
    assert (slight["score"][guided] != strong["score"][guided]).any()


# the guard --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logits", "binary, threshold", "cnn", "embedding"])
def test_decisions_are_those_of_the_input_model_unless_improved(name):
    net, X, y = NETS[name]
    net = clone(net).fit(X, y.astype(np.float32 if "binary" in name else np.int64))
    finetuner = fast(FrozenEstimator(net), guard_z=1000.0).fit(X, y)
    assert not finetuner.improved_ and finetuner.verdict_.startswith("unchanged")
    assert not finetuner.adapter_params_.any()
    assert finetuner.best_score_ == finetuner.initial_score_
    assert (finetuner.predict(X) == net.predict(X)).all()
    np.testing.assert_allclose(finetuner.predict_proba(X), net.predict_proba(X), atol=1e-7)
    assert same_weights(finetuner.estimator_.module_, weights_of(net.module_))


def test_net_that_is_trained_first_is_the_one_scikit_learn_would_have_trained():
    finetuner = fast(guard_z=1000.0).fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    again = fast(guard_z=1000.0, max_observations=1).fit(
        X[:200], Y[:200], X_val=X[200:], y_val=Y[200:]
    )
    assert same_weights(finetuner.estimator_.module_, weights_of(again.estimator_.module_))


def test_guard_z_decides():
    estimator = frozen(classifier(max_epochs=1))
    kept = [fast(estimator, guard_z=z).fit(X, Y).improved_ for z in (None, 0, 1000.0)]
    assert kept == [True, True, False]


def test_metric_that_hangs_on_a_rare_class_leaves_the_model_as_it_came():
    def recall_of_two(estimator, X, y):
        return float((estimator.predict(X)[y == 2] == 2).mean())

    rare = np.concatenate([np.flatnonzero(Y3 != 2), np.flatnonzero(Y3 == 2)[:10]])
    finetuner = fast(classifier(module__n_classes=3), scoring=recall_of_two, guard_z=0.0)
    finetuner.fit(X3[rare], Y3[rare])
    assert not finetuner.improved_
    if finetuner.score_gain_ or "hangs" in finetuner.verdict_:
        assert "hangs on class 2, of which there are 2 validation rows" in finetuner.verdict_


# same seed, nothing else moved ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logits", "norms and dropout", "cnn", "binary"])
def test_same_seed_gives_the_same_model_and_another_seed_another(name):
    net, X, y = NETS[name]
    net = clone(net).set_params(iterator_train__shuffle=True)
    one, same, other = (fast(net, random_state=seed).fit(X, y) for seed in (3, 3, 4))
    assert (one.predict_proba(X) == same.predict_proba(X)).all()
    assert np.array_equal(one.observations_["score"], same.observations_["score"], equal_nan=True)
    assert not (one.predict_proba(X) == other.predict_proba(X)).all()


def test_random_state_instance_is_drawn_from():
    state = np.random.RandomState(0)
    one, other = (fast(random_state=state).fit(X, Y) for _ in range(2))
    assert not (one.predict_proba(X) == other.predict_proba(X)).all()


def global_states():
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def same_states(before, after):
    python, numpy_, torch_ = zip(before, after, strict=True)
    same_numpy = all(np.array_equal(a, b) for a, b in zip(*numpy_, strict=True))
    return python[0] == python[1] and same_numpy and torch.equal(*torch_)


@pytest.mark.parametrize("estimator", [classifier(NormMLP), frozen(), MLP()])
def test_global_random_streams_are_left_where_they_were(estimator):
    before = global_states()
    finetuner = fast(estimator, random_state=0).fit(X, Y)
    assert same_states(before, global_states())
    for use in (finetuner.predict, finetuner.predict_proba, lambda X: finetuner.score(X, Y)):
        use(X)
        assert same_states(before, global_states())


def test_global_random_streams_are_left_where_they_were_by_a_fit_that_fails():
    before = global_states()
    with pytest.raises(ValueError, match="diverged"):
        fast(classifier(lr=1e9)).fit(X, Y)
    assert same_states(before, global_states())


def test_global_random_streams_have_no_say():
    models = []
    for seed in (0, 1):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        models.append(fast(classifier(NormMLP)).fit(X, Y))
    assert (models[0].predict_proba(X) == models[1].predict_proba(X)).all()


@pytest.mark.parametrize("training", [True, False])
def test_frozen_net_is_unchanged_bit_for_bit(training):
    net = classifier(NormMLP).fit(X, Y)
    net.module_.train(training)
    net.module_[1].eval()
    modes = [module.training for module in net.module_.modules()]
    module, attributes, weights = net.module_, dict(vars(net)), weights_of(net.module_)
    optimizer = copy.deepcopy(net.optimizer_.state_dict())

    finetuner = fast(FrozenEstimator(net)).fit(X, Y)

    assert finetuner.improved_
    assert vars(net) == attributes and net.module_ is module
    assert same_weights(module, weights)
    assert [module.training for module in net.module_.modules()] == modes
    assert all(p.requires_grad and p.grad_fn is None for p in module.parameters())
    assert net.optimizer_.state_dict() == optimizer
    shared = {id(p) for p in module.parameters()} & {
        id(p) for p in finetuner.estimator_.module_.parameters()
    }
    assert not shared


@pytest.mark.parametrize("training", [True, False])
def test_module_is_unchanged_bit_for_bit(training):
    module = NormMLP().train(training)
    weights = weights_of(module)
    finetuner = fast(module).fit(X, Y)
    assert finetuner.improved_
    assert same_weights(module, weights)
    assert all(part.training is training for part in module.modules())
    assert finetuner.estimator_.module_ is not module


def test_unfitted_net_and_parameters_are_unchanged():
    net = classifier(NormMLP)
    value_function, params = BehaviourValueFunction(), net.get_params(deep=False)
    finetuner = fast(net, value_function=value_function)
    before = finetuner.get_params(deep=False)
    finetuner.fit(X, Y)
    assert not net.initialized_ and net.get_params(deep=False) == params
    assert finetuner.get_params(deep=False) == before
    assert not hasattr(value_function, "expert_") and hasattr(finetuner.value_function_, "expert_")


def test_net_around_a_module_instance_warns_and_leaves_it_alone():
    module = MLP()
    weights = weights_of(module)
    with pytest.warns(UserWarning, match="The net's module is an instance.*FrozenEstimator"):
        fast(classifier(module)).fit(X, Y)
    assert same_weights(module, weights)


def test_unfrozen_net_starts_afresh_and_frozen_net_does_not():
    net = classifier(max_epochs=30, lr=0.3).fit(X, Y)
    expected = net.predict_proba(X)
    kept = fast(FrozenEstimator(net), guard_z=1000.0).fit(X, Y)
    np.testing.assert_allclose(kept.predict_proba(X), expected, atol=1e-7)
    afresh = fast(net.set_params(max_epochs=1), guard_z=1000.0).fit(X, Y)
    assert np.abs(afresh.predict_proba(X) - expected).max() > 0.1


# scikit-learn's tools ---------------------------------------------------------------------------


def test_clone_shares_nothing_fitted():
    finetuner = fast().fit(X, Y)
    cloned = clone(finetuner)
    assert not hasattr(cloned, "estimator_") and cloned.max_observations == 16
    assert cloned.estimator is not finetuner.estimator
    assert (cloned.fit(X, Y).predict_proba(X) == finetuner.predict_proba(X)).all()


def test_nested_parameters_are_set_and_got():
    finetuner = fast()
    finetuner.set_params(estimator__lr=0.5, estimator__module__hidden=3, lr=0.01)
    params = finetuner.get_params()
    assert params["estimator__lr"] == 0.5 and params["estimator__module__hidden"] == 3
    assert params["lr"] == finetuner.lr == 0.01
    finetuner.fit(X, Y)
    assert finetuner.estimator_.module_.hidden.out_features == 3
    with pytest.raises(ValueError, match="Invalid parameter"):
        finetuner.set_params(max_observation=3)


def test_pickle_in_a_new_process_predicts_the_same(tmp_path):
    finetuner = fast(classifier(NormMLP)).fit(X, np.array(["no", "yes"])[Y])
    paths = [tmp_path / name for name in ("model.pkl", "X.npy", "proba.npy", "labels.npy")]
    paths[0].write_bytes(pickle.dumps(finetuner))
    np.save(paths[1], X)
    code = (
        "import pickle, sys, numpy as np; model, X, proba, labels = sys.argv[1:];"
        "est = pickle.load(open(model, 'rb')); X = np.load(X);"
        "np.save(proba, est.predict_proba(X)); np.save(labels, est.predict(X));"
        "est.score(X, est.predict(X))"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, cwd=root)
    np.testing.assert_allclose(np.load(paths[2]), finetuner.predict_proba(X), atol=1e-7)
    assert (np.load(paths[3]) == finetuner.predict(X)).all()


def test_copy_and_pickle_keep_everything():
    finetuner = fast(frozen()).fit(X, Y)
    for other in (copy.deepcopy(finetuner), pickle.loads(pickle.dumps(finetuner))):
        assert (other.predict_proba(X) == finetuner.predict_proba(X)).all()
        assert (other.adapter_params_ == finetuner.adapter_params_).all()
        assert other.history_ == finetuner.history_
        assert other.score(X, Y) == finetuner.score(X, Y)


def test_grid_search_over_a_pipeline_in_two_processes():
    model = Pipeline([("scaler", StandardScaler()), ("finetuner", fast())])
    grid = {"finetuner__max_observations": [4, 8], "finetuner__estimator__lr": [0.01, 0.3]}
    search = GridSearchCV(model, grid, n_jobs=2, cv=2, scoring="balanced_accuracy").fit(X, Y)
    table = pd.DataFrame(search.cv_results_)
    assert len(table) == 4 and table.mean_test_score.notna().all()
    best = search.best_estimator_[-1]
    assert best.estimator.lr == search.best_params_["finetuner__estimator__lr"]
    assert best.n_observations_ <= search.best_params_["finetuner__max_observations"]
    assert search.score(X, Y) > 0.5


def test_cross_validate_with_several_scorers():
    results = cross_validate(
        fast(), X, Y, cv=3, scoring=["f1", "roc_auc", "neg_log_loss"], return_estimator=True
    )
    for name in ("f1", "roc_auc", "neg_log_loss"):
        assert np.isfinite(results[f"test_{name}"]).all()
    again = cross_validate(fast(), X, Y, cv=3, scoring="f1")
    assert (again["test_score"] == results["test_f1"]).all()


@pytest.mark.parametrize("optimizer, lr", [("adam", 0.05), ("sgd", 2.0), (torch.optim.AdamW, 0.05)])
def test_optimizers(optimizer, lr):
    assert fast(optimizer=optimizer, lr=lr).fit(X, Y).adapter_params_.any()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["logits", "cnn", "binary", "embedding"])
def test_net_on_a_gpu_is_finetuned_there(name):
    net, X, y = NETS[name]
    state = torch.cuda.get_rng_state()
    one, same = (fast(clone(net).set_params(device="cuda")).fit(X, y) for _ in range(2))
    assert torch.equal(state, torch.cuda.get_rng_state())
    assert next(one.estimator_.module_.parameters()).is_cuda
    np.testing.assert_allclose(one.predict_proba(X), same.predict_proba(X), atol=1e-5)
    bridge = NetBridge(one.estimator_)
    assert bridge.device.type == "cuda" and isinstance(one.adapter_params_, np.ndarray)

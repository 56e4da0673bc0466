"""What cannot work is refused: the message names the parameter and says what to do next."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.compose import make_column_transformer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, fbeta_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from skorch import NeuralNet, NeuralNetRegressor
from torch import nn

from sk_metricopt import MetricOptFinetuner
from sk_metricopt.exceptions import AdapterError
from tests.nets import (
    CNN,
    MLP,
    BinaryNet,
    Hostless,
    NormMLP,
    TokenNet,
    binary_classifier,
    classifier,
    images,
    table,
    tokens,
)

X, Y = table(2, 120)
X3, Y3 = table(3, 120)
IMAGES, IMAGE_LABELS = images(2, 40)


def fit(estimator=None, X=X, y=Y, X_val=None, y_val=None, fit_params=None, **params):
    estimator = classifier() if estimator is None else estimator
    finetuner = MetricOptFinetuner(
        estimator, **({"max_observations": 3, "random_state": 0} | params)
    )
    return finetuner.fit(X, y, X_val=X_val, y_val=y_val, **(fit_params or {}))


def trimmed_net():
    net = classifier().fit(X, Y)
    net.trim_for_prediction()
    return net


def holding(value, X=X):
    X = X.copy()
    X.flat[5] = value
    return X


def frozen(net, X=X, y=Y):
    return FrozenEstimator(net.fit(X, y))


@pytest.mark.parametrize(
    "estimator, error, message",
    [
        (FrozenEstimator(classifier()), ValueError, "fitted net inside FrozenEstimator.*net.fit"),
        (FrozenEstimator(classifier().initialize()), ValueError, "never fitted.*net.fit"),
        (trimmed_net(), ValueError, "trim_for_prediction.*Pass the net as it was before"),
        (FrozenEstimator(trimmed_net()), ValueError, "trim_for_prediction.*Pass the net as it was"),
        (LogisticRegression(), TypeError, "skorch NeuralNetClassifier.*Got LogisticRegression"),
        (make_pipeline(StandardScaler(), classifier()), TypeError, "preprocessing steps before"),
        (NeuralNet(MLP, nn.CrossEntropyLoss), TypeError, "must be a skorch NeuralNetClassifier"),
        (MLP, TypeError, r"Got the class MLP .*an instance, MLP\(.*NeuralNetClassifier\(MLP, "),
        (NeuralNet, TypeError, r"Got the class NeuralNet instead. Pass .*, NeuralNet\(\.\.\.\)\.$"),
        (classifier(lr=1e9), ValueError, "training diverged. Lower its learning rate or scale X"),
        (classifier(module__n_classes=4), ValueError, "Got outputs of shape .* last layer"),
        (classifier(module__n_classes=1), ValueError, "IndexError.*one output per class, 2"),
        (classifier(module__input_dim=7), ValueError, r"RuntimeError.*rows of shape \(6,\)"),
        (MLP(7), ValueError, r"a net that takes X.*rows of shape \(6,\) in float32"),
        (MLP(n_classes=3), ValueError, r"every class the estimator knows.*no row of \[2\].*Add"),
        (classifier(module__hiden=3), TypeError, "unexpected.*'hiden'.*Check the parameters"),
        (
            classifier(criterion=nn.NLLLoss),
            ValueError,
            "with criterion NLLLoss. Use .*CrossEntropy",
        ),
        (classifier(NormMLP, batch_size=19), ValueError, "iterator_train__drop_last=True"),
        (classifier(Hostless), AdapterError, "host the adapter .Linear, Conv1d.*Add such a layer"),
        (classifier(TokenNet), ValueError, "RuntimeError.*in float32"),
    ],
)
@pytest.mark.filterwarnings("ignore:The net's module is an instance")
def test_estimator_that_cannot_be_finetuned_is_refused(estimator, error, message):
    with pytest.raises(error, match="(?s)" + message) as info:
        fit(estimator)
    assert re.search("'(estimator|y)' parameter of MetricOptFinetuner", str(info.value))


@pytest.mark.parametrize("wrap", [lambda net: net, FrozenEstimator], ids=["net", "frozen"])
def test_regression_net_with_a_classification_scorer_is_refused(wrap):
    net = wrap(NeuralNetRegressor(BinaryNet))
    with pytest.raises(TypeError, match="(?s)'estimator' parameter.*NeuralNetClassifier.*Wrap"):
        fit(net, scoring="f1")


def test_table_index_that_is_out_of_range_is_refused():
    X_tokens, y = tokens()
    with pytest.raises(ValueError, match="'estimator' parameter .*index out of range"):
        fit(classifier(TokenNet, module__n_tokens=3), X_tokens, y)


def test_binary_net_and_three_classes_are_refused():
    with pytest.raises(ValueError, match="'estimator' parameter .* NeuralNetClassifier for 3"):
        fit(binary_classifier(), X3, Y3)


def test_net_that_cannot_be_copied_is_refused_with_the_reason():
    class LocalMLP(MLP):
        pass

    net = classifier(LocalMLP).fit(X, Y)
    net.handle = (row for row in X)  # what no copy can be made of
    with pytest.raises(TypeError, match="'estimator' .* can be copied.*generator.*out of the net"):
        fit(FrozenEstimator(net))


@pytest.mark.parametrize(
    "scoring, error, message",
    [
        ({"f1": "f1"}, TypeError, "must be one metric.*Got a dict.*combine"),
        (["f1", "accuracy"], TypeError, "must be one metric.*Got a list.*combine"),
        (("f1",), TypeError, "must be one metric.*Got a tuple.*combine"),
        (1, TypeError, "must be one metric.*Got a int"),
        ("f1_marco", ValueError, "Got 'f1_marco' instead. Did you mean 'f1_macro'"),
        ("no such", ValueError, "get_scorer_names.. lists all names"),
        (f1_score, ValueError, "use `make_scorer`"),
        ("f1", ValueError, r"labels are \['a', 'b'\].*make_scorer\(f1_score, pos_label='b'\)\."),
    ],
)
def test_scoring_that_is_no_single_metric_is_refused(scoring, error, message):
    with pytest.raises(error, match=message) as info:
        fit(y=np.array(["a", "b"])[Y], scoring=scoring)
    assert "scoring" in str(info.value)


@pytest.mark.parametrize(
    "scoring",
    ["recall", "average_precision", "neg_brier_score", metrics.make_scorer(fbeta_score, beta=2)],
    ids=str,
)
def test_scorer_without_a_positive_label_is_refused_with_one_that_works(scoring):
    y = np.array(["a", "b"])[Y]
    with pytest.raises(ValueError, match="pos_label") as info:
        fit(y=y, scoring=scoring)
    call = re.search(r"make_scorer\(.*\)(?=\.$)", str(info.value)).group()
    fit(y=y, scoring=eval(call, vars(metrics).copy()))


def raising(error):
    def scorer(estimator, X, y):
        raise error

    return scorer


@pytest.mark.parametrize(
    "scorer, error, message",
    [
        (lambda estimator, X, y: np.nan, ValueError, "returned nan, which is not finite"),
        (lambda estimator, X, y: -np.inf, ValueError, "returned -inf, which is not finite"),
        (lambda estimator, X, y: None, TypeError, "returned None instead of a number"),
        (lambda estimator, X, y: "0.5", TypeError, "returned '0.5' instead of a number"),
        (lambda estimator, X, y: True, TypeError, "returned True instead of a number"),
        (lambda estimator, X, y: [0.5], TypeError, r"returned \[0.5\] instead of a number"),
        (lambda y, y_pred: 0.5, TypeError, "takes 2 positional arguments"),
        (raising(ValueError("no such cost")), ValueError, "ValueError: no such cost"),
        (raising(TypeError("no such type")), TypeError, "TypeError: no such type"),
        (raising(KeyError("cost")), ValueError, "KeyError: 'cost'"),
        (raising(ZeroDivisionError("x")), ValueError, "ZeroDivisionError"),
        (raising(UnicodeDecodeError("utf-8", b"", 0, 1, "x")), ValueError, "UnicodeDecodeError"),
    ],
)
def test_scorer_that_fails_on_the_model_as_it_came_is_refused(scorer, error, message):
    with pytest.raises(error, match=message) as info:
        fit(scoring=scorer)
    assert "'scoring' parameter of MetricOptFinetuner" in str(info.value)
    assert "Try scorer(estimator, X_val, y_val) by hand" in str(info.value)


@pytest.mark.parametrize(
    "score", [np.array(0.5), np.float32(0.5), torch.tensor(0.5), 1], ids=lambda s: type(s).__name__
)
def test_scorer_may_return_any_real_number(score):
    finetuner = fit(scoring=lambda estimator, X, y: score)
    assert finetuner.initial_score_ == float(score)


@pytest.mark.parametrize(
    "data, message",
    [
        ({"X": holding(np.nan)}, "(?s)Input X contains NaN.*imputer"),
        ({"X": holding(np.inf)}, "Input X contains infinity"),
        ({"X": holding(np.nan, IMAGES), "y": IMAGE_LABELS}, "Input X contains NaN"),
        ({"y": np.where(Y == 0, np.nan, Y)}, "Input y contains NaN"),
        ({"X": X[:0], "y": Y[:0]}, "0 sample"),
        ({"X": X[:, 0]}, "Expected 2D array, got 1D array instead"),
        ({"y": Y[:-1]}, "inconsistent numbers of samples"),
        ({"y": None}, "requires y to be passed"),
        ({"y": X[:, 0]}, "Unknown label type: continuous"),
        ({"y": np.zeros(120)}, r"'y' parameter .* at least 2 classes. Got one class: \[0.0\]"),
        ({"X": X[:3], "y": [0, 0, 1]}, r"'y' parameter .* at least 2 rows .* one row of \[1\]"),
        ({"X": X[:2], "y": [0, 1]}, r"'y' parameter .* one row of \[0, 1\]. Add rows"),
    ],
)
def test_training_rows_that_cannot_be_used_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        fit(classifier(CNN) if np.ndim(data.get("X", X)) == 4 else None, **data)


def test_columns_of_text_are_named_and_may_be_encoded_before():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X[:, :4], columns=list("abcd"))
    frame = frame.assign(color=np.where(X[:, 4] > 0, "red", "blue"))
    frame["size"] = pd.Categorical(np.where(X[:, 5] > 0, "S", "L"))
    message = r"'X' parameter .* text in columns \['color', 'size'\] .*OneHotEncoder"
    finetuner = MetricOptFinetuner(classifier(module__input_dim=8), max_observations=3)
    with pytest.raises(ValueError, match=message):
        finetuner.fit(frame, Y)
    encoder = OneHotEncoder(sparse_output=False)
    columns = make_column_transformer((encoder, ["color", "size"]), remainder="passthrough")
    assert make_pipeline(columns, finetuner).fit(frame, Y).predict(frame).shape == Y.shape


@pytest.mark.parametrize("kind", [dict, torch.utils.data.TensorDataset])
def test_X_that_is_no_array_is_refused(kind):
    data = {"X": X} if kind is dict else kind(torch.as_tensor(X))
    with pytest.raises(TypeError, match=f"'X' parameter .* Got a {kind.__name__} instead. Stack"):
        fit(X=data)


@pytest.mark.parametrize(
    "data, message",
    [
        ({"X_val": X}, "'y_val' parameter .*together with 'X_val'.*Pass both, or neither"),
        ({"y_val": Y}, "'X_val' parameter .*together with 'y_val'.*Pass both, or neither"),
        (
            {"X_val": X[Y == 0], "y_val": Y[Y == 0]},
            r"'y_val' parameter .* no row of \[1\]. Add .* leave X_val and y_val out",
        ),
        ({"X_val": X3, "y_val": Y3}, r"'y_val' parameter .* labels .* knows, \[0, 1\]. Got \[2\]"),
        ({"X_val": holding(np.nan), "y_val": Y}, "'X_val' .* contains NaN"),
        ({"X_val": holding(np.inf), "y_val": Y}, "'X_val' .* contains infinity"),
        ({"X_val": X[:, :3], "y_val": Y}, "'X_val' .* X has 3 features, but .* expecting 6"),
        ({"X_val": X, "y_val": Y[:-1]}, "'X_val' .* inconsistent numbers of samples"),
        ({"X_val": X[:0], "y_val": Y[:0]}, "'X_val' .* 0 sample"),
    ],
)
def test_validation_rows_that_cannot_be_used_are_refused(data, message):
    with pytest.raises(ValueError, match="(?s)" + message):
        fit(**data)


@pytest.mark.parametrize("X_other", [IMAGES[:, :, :4], IMAGES.reshape(len(IMAGES), -1)])
def test_images_of_another_shape_are_refused(X_other):
    message = r"'X' parameter .* shape seen in fit, \(2, 8, 8\). Got .* Reshape X"
    with pytest.raises(ValueError, match=message):
        fit(classifier(CNN), IMAGES, IMAGE_LABELS, X_other, IMAGE_LABELS)
    finetuner = fit(classifier(CNN), IMAGES, IMAGE_LABELS)
    with pytest.raises(ValueError, match=message):
        finetuner.predict(X_other)


def test_labels_that_a_frozen_net_cannot_know_are_refused():
    net = frozen(classifier())
    with pytest.raises(ValueError, match=r"'y' parameter .* classes of the fitted net, \[0, 1\]"):
        fit(net, X3, Y3)
    net = frozen(classifier(module__n_classes=3), X3, Y3)
    with pytest.raises(ValueError, match=r"'y' parameter .* Got no row of \[2\]. Add rows"):
        fit(net)


@pytest.mark.parametrize(
    "params, error, message",
    [
        ({"adapter_targets": ["no*"]}, AdapterError, r"Choose from \['hidden', 'output'\]"),
        ({"adapter_targets": []}, AdapterError, r"Choose from \['hidden', 'output'\]"),
        ({"adapter_targets": "output"}, ValueError, "'all', 'auto'|'auto', 'all'"),
        ({"optimizer": torch.optim.LBFGS}, ValueError, "without a closure. Got LBFGS. Use 'adam'"),
        ({"optimizer": int}, TypeError, "subclass of torch.optim.Optimizer. Got int"),
        ({"optimizer": "rmsprop"}, ValueError, "Got 'rmsprop' instead"),
        ({"adapter": "lora"}, ValueError, "'film'.*Got 'lora' instead"),
        ({"value_function": "mlp"}, ValueError, "'auto'.*Got 'mlp' instead"),
        ({"exploration": "x"}, ValueError, "'auto'.*Got 'x' instead"),
        ({"lr": 0}, ValueError, "Got 0 instead"),
        ({"guidance_weight": -1}, ValueError, "Got -1 instead"),
        ({"max_observations": 0}, ValueError, "Got 0 instead"),
        ({"observation_interval": 0}, ValueError, "Got 0 instead"),
        ({"validation_fraction": 1.0}, ValueError, "Got 1.0 instead"),
        ({"use_validation_labels": "no"}, ValueError, "Got 'no' instead"),
        ({"guard_z": -1}, ValueError, "Got -1 instead"),
        ({"verbose": -1}, ValueError, "Got -1 instead"),
    ],
)
def test_parameter_out_of_range_is_refused_by_name(params, error, message):
    with pytest.raises(error, match=f"'{next(iter(params))}' parameter .*{message}"):
        fit(**params)


def test_optimizer_is_refused_before_the_net_is_trained():
    net = classifier(module__hiden=3)  # would fail in training
    with pytest.raises(TypeError, match="'optimizer' parameter"):
        fit(net, optimizer=int)


def test_metadata_that_nobody_asked_for_is_refused():
    with pytest.raises(ValueError, match="enable_metadata_routing=True.*'sample_weight'"):
        fit(fit_params={"sample_weight": np.ones(120)})


def test_fit_that_is_refused_leaves_an_unfitted_estimator():
    finetuner = MetricOptFinetuner(classifier(), scoring="no such")
    with pytest.raises(ValueError, match="scoring"):
        finetuner.fit(X, Y)
    with pytest.raises(ValueError, match="not fitted"):
        finetuner.predict(X)

"""Tests of our converters of scikit-learn's steps: the graph says what predict says."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomTreesEmbedding,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.metrics import fbeta_score, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier
from skorch import NeuralNetClassifier
from torch import nn

from sk_metricopt.export import to_onnx
from sk_metricopt.export._sklearn_converters import overrides

OPSETS = (18, 20, 22)
TEXTS, NUMBERS = ["job", "town"], ["age", "pay", "rooms", "gap"]


def people(n_rows, seed, unknown=False):
    """Rows of a table with missing texts and numbers; ages and rooms are integers."""
    random = np.random.default_rng(seed)
    jobs = ["clerk", "smith", "nurse", "pilot", "rare", "scarce"]
    job = random.choice(jobs, n_rows, p=[0.3, 0.25, 0.2, 0.15, 0.05, 0.05]).astype(object)
    town = random.choice(["Aa", "Bb", "Cc"], n_rows).astype(object)
    table = pd.DataFrame({"job": job, "age": random.integers(18, 80, n_rows), "town": town})
    table["pay"] = random.normal(3, 1, n_rows)
    table["rooms"] = random.integers(1, 5, n_rows)
    table["gap"] = random.normal(0, 1, n_rows)
    for column, share in (("job", 0.15), ("town", 0.1), ("pay", 0.1)):
        table.loc[random.random(n_rows) < share, column] = np.nan
    if unknown:
        table.loc[::7, "job"] = "alien"
    return table


def outcome(table):
    score = (table.job == "nurse") * 1.5 - (table.job == "clerk") + (table.age - 45) / 20
    noise = np.random.default_rng(0).normal(0, 0.5, len(table))
    return (score + table.gap + 0.3 * table.pay.fillna(5) + (table.rooms == 2) + noise).to_numpy()


FITTED, SEEN, NEW = people(300, 1), people(200, 2), people(200, 3, unknown=True)
SCORE = outcome(FITTED)
TWO = np.where(np.median(SCORE) < SCORE, "yes", "no")
THREE = 10 + 5 * np.digitize(SCORE, np.quantile(SCORE, [0.4, 0.75]))


def converted(estimator, X, opset):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of skl2onnx
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType

        if isinstance(X, pd.DataFrame):
            numeric = X.dtypes.map(pd.api.types.is_numeric_dtype)
            kinds = [FloatTensorType if number else StringTensorType for number in numeric]
            inputs = [(n, kind([None, 1])) for n, kind in zip(X.columns, kinds, strict=True)]
        else:
            inputs = [("X", FloatTensorType([None, X.shape[1]]))]
        converters, shapes, parsers = overrides()
        return convert_sklearn(
            estimator,
            initial_types=inputs,
            target_opset={"": opset, "ai.onnx.ml": 3},
            options={"zipmap": False},
            black_op={"Scaler"},
            custom_conversion_functions=converters,
            custom_shape_calculators=shapes,
            custom_parsers=parsers,
        )


def run(model, X):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = session.get_inputs()
    if not isinstance(X, pd.DataFrame):
        return session.run(None, {inputs[0].name: X.astype(np.float32)})
    feed = {}
    for node, (_, column) in zip(inputs, X.items(), strict=True):
        if node.type == "tensor(string)":
            values = ["nan" if pd.isna(value) else str(value) for value in column]
            feed[node.name] = np.array(values, dtype=object)[:, None]
        else:
            feed[node.name] = column.to_numpy(np.float32)[:, None]
    return session.run(None, feed)


def check(estimator, X, y, rows):
    """Fit, convert at each opset, and compare labels and probabilities."""
    if not isinstance(estimator, FrozenEstimator):
        estimator.fit(X, y)
    labels = estimator.predict(rows)
    hard = not hasattr(estimator, "predict_proba")
    for opset in OPSETS:
        found, probabilities = run(converted(estimator, X, opset), rows)
        assert found.tolist() == labels.tolist()
        assert len(set(labels.tolist())) > 1, "a test of one label says little"
        if not hard:
            np.testing.assert_allclose(
                probabilities, estimator.predict_proba(rows), rtol=0, atol=1e-5
            )


def logistic():
    return LogisticRegression(max_iter=1000)


def numbers():
    return make_pipeline(SimpleImputer(), StandardScaler())


def onehot(**settings):
    return OneHotEncoder(**{"handle_unknown": "ignore", **settings})


def frequent():
    return SimpleImputer(strategy="most_frequent")


def with_texts(step, columns=TEXTS, last=None):
    """A step on texts beside scaled numbers."""
    both = ColumnTransformer([("step", step, columns), ("numbers", numbers(), NUMBERS)])
    return make_pipeline(both, logistic() if last is None else last)


def with_numbers(step):
    """A step on numbers that are complete."""
    complete = ColumnTransformer([("complete", SimpleImputer(strategy="median"), NUMBERS)])
    return make_pipeline(complete, step, StandardScaler(with_mean=False), logistic())


def chosen(*transformers, **settings):
    """A choice of columns, then what a classifier needs."""
    choice = ColumnTransformer(list(transformers), **settings)
    return make_pipeline(choice, SimpleImputer(), StandardScaler(), logistic())


def of(classifier):
    return with_texts(onehot(), last=classifier)


TEXT_STEPS = {
    "imputed": make_pipeline(frequent(), onehot()),
    "imputed by a constant": make_pipeline(
        SimpleImputer(strategy="constant", fill_value="none"), onehot()
    ),
    "imputed by the default": make_pipeline(SimpleImputer(strategy="constant"), onehot()),
    "missing is a category": onehot(),
    "infrequent": onehot(min_frequency=30),
    "infrequent, unknown ones too": onehot(max_categories=3, handle_unknown="infrequent_if_exist"),
    "infrequent of one table": make_pipeline(
        frequent(), onehot(min_frequency=30, handle_unknown="infrequent_if_exist")
    ),
    "first dropped": onehot(drop="first"),
    "named dropped": onehot(drop=["Bb", "nurse"]),
    "binary dropped": onehot(drop="if_binary"),
    "dropped and infrequent": onehot(
        drop="first", min_frequency=30, handle_unknown="infrequent_if_exist"
    ),
    "integer one-hot": onehot(dtype=np.int64),
    "ordinal, missing is NaN": make_pipeline(
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), frequent()
    ),
    "ordinal, unknown is NaN": make_pipeline(
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), frequent()
    ),
    "ordinal, missing is -2": OrdinalEncoder(
        encoded_missing_value=-2, handle_unknown="use_encoded_value", unknown_value=-1
    ),
    "ordinal, infrequent of one table": make_pipeline(
        frequent(),
        OrdinalEncoder(min_frequency=30, handle_unknown="use_encoded_value", unknown_value=-1),
    ),
    "ordinal integers": make_pipeline(
        frequent(),
        OrdinalEncoder(dtype=np.int64, handle_unknown="use_encoded_value", unknown_value=-1),
    ),
    "target": TargetEncoder(),
    "target of imputed": make_pipeline(frequent(), TargetEncoder()),
}


@pytest.mark.filterwarnings("ignore:Found unknown categories")  # scikit-learn says so, rightly
@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("name", TEXT_STEPS)
def test_steps_on_texts_agree_on_known_and_unknown_categories(name, y):
    check(with_texts(TEXT_STEPS[name], ["town", "job"]), FITTED, y, NEW)


def test_categories_known_at_fit_agree_where_unknown_ones_raise():
    model = with_texts(onehot(handle_unknown="error")).fit(FITTED, TWO)
    check(model, FITTED, TWO, SEEN)
    graph = converted(model, FITTED, 18)
    with pytest.raises(Exception, match="out of data bounds"):
        run(graph, NEW)


@pytest.mark.parametrize("step", [OrdinalEncoder(), onehot(handle_unknown="error")], ids=repr)
def test_an_unknown_number_raises_as_in_scikit_learn(step):
    model = with_texts(step, ["rooms"]).fit(FITTED, TWO)
    graph = converted(model, FITTED, 18)
    with pytest.raises(ValueError, match="unknown categories"):
        model.predict(SEEN.assign(rooms=9))
    with pytest.raises(Exception, match="out of data bounds"):
        run(graph, SEEN.assign(rooms=9))


@pytest.mark.parametrize("missing", ["?", None], ids=["question mark", "None"])
def test_other_missing_strings_are_imputed(missing):
    step = make_pipeline(SimpleImputer(missing_values=missing, strategy="most_frequent"), onehot())
    tables = [
        table.assign(job=[missing if pd.isna(v) else v for v in table.job])
        for table in (FITTED, SEEN)
    ]
    for table in tables:  # pandas turns None into NaN but in columns of objects
        values = [missing if pd.isna(v) else v for v in table.job]
        table["job"] = pd.Series(values, dtype=object)
    check(with_texts(step, ["job"]), tables[0], TWO, tables[1])


def test_columns_of_pandas_strings_and_categories_are_texts():
    tables = [t.astype({"job": "str", "town": "category"}) for t in (FITTED, SEEN)]
    check(with_texts(make_pipeline(frequent(), onehot())), tables[0], TWO, tables[1])


@pytest.mark.parametrize(
    "imputer",
    [
        SimpleImputer(add_indicator=True),
        SimpleImputer(missing_values=3),
        SimpleImputer(strategy="constant", fill_value=-1),
        SimpleImputer(strategy="median", keep_empty_features=True),
        SimpleImputer(strategy="most_frequent", add_indicator=True),
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore:Skipping features without any observed values")
def test_numbers_are_imputed_with_an_empty_column(imputer):
    columns = ["rooms", "age"] if imputer.missing_values == 3 else [*NUMBERS, "empty"]
    choice = ColumnTransformer([("imputer", imputer, columns)])
    model = make_pipeline(choice, StandardScaler(), logistic())
    check(model, FITTED.assign(empty=np.nan), TWO, SEEN.assign(empty=np.nan))


@pytest.mark.parametrize(
    "step, columns",
    [
        (onehot(), ["rooms", "age"]),
        (onehot(), ["code"]),
        (onehot(), ["pay"]),
        (onehot(), ["job", "rooms", "old"]),
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["code", "rooms"]),
        (OrdinalEncoder(encoded_missing_value=-1), ["job", "rooms", "old"]),
        (TargetEncoder(), ["rooms"]),
        (TargetEncoder(), ["job", "rooms"]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else type(value).__name__,
)
def test_numbers_are_categories_too(step, columns):
    tables = [t.assign(code=t.rooms / 10, old=t.age > 40) for t in (FITTED, SEEN)]
    check(with_texts(step, columns), tables[0], TWO, tables[1])


@pytest.mark.parametrize(
    "step",
    [
        *(
            KBinsDiscretizer(4, encode=encode, strategy="uniform")
            for encode in ("onehot", "onehot-dense", "ordinal")
        ),
        PolynomialFeatures(2),
        PowerTransformer(),
        QuantileTransformer(n_quantiles=50),
        RobustScaler(),
        MinMaxScaler(clip=True),
        MaxAbsScaler(),
        PCA(3, whiten=True),
        TruncatedSVD(3),
        SelectKBest(k=2),
        VarianceThreshold(),
        FunctionTransformer(),
        FunctionTransformer(np.float32),
        FunctionTransformer(np.asarray, kw_args={"dtype": np.float32}),
        FunctionTransformer(np.tanh),
        FunctionTransformer(np.square),
        "passthrough",
        FrozenEstimator(StandardScaler().fit(FITTED[NUMBERS].fillna(0).to_numpy())),
    ],
    ids=str,
)
def test_steps_on_numbers_agree(step):
    check(with_numbers(step), FITTED, THREE, SEEN)


@pytest.mark.parametrize("function", [np.log1p, np.log, np.sqrt, np.exp])
def test_functions_of_positive_numbers_agree(function):
    check(
        chosen(("function", FunctionTransformer(function), ["rooms"]), ("gap", "passthrough", [5])),
        FITTED,
        TWO,
        SEEN,
    )


CHOICES = {
    "names": ["gap", "age"],
    "indices": [5, 1],
    "numpy indices": np.array([5, 1]),
    "negative indices": [-1, 1],
    "slice": slice(3, 6),
    "open slice": slice(3, None),
    "negative slice": slice(-2, None),
    "slice of names": slice("pay", "gap"),
    "booleans": [False, True, False, False, True, True],
    "boolean array": np.array([False, True, False, False, True, True]),
    "index of pandas": FITTED.columns[3:6],
    "selector": make_column_selector("a|g", dtype_include="number"),
}


@pytest.mark.parametrize("remainder", ["drop", "passthrough", StandardScaler()], ids=str)
@pytest.mark.parametrize("name", CHOICES)
def test_columns_are_chosen_in_every_way(name, remainder):
    if remainder == "drop":
        check(chosen(("step", MinMaxScaler(), CHOICES[name])), FITTED, TWO, SEEN)
        return
    if name in ("names", "slice of names", "index of pandas", "selector"):
        model = chosen(("step", MinMaxScaler(), CHOICES[name]), remainder=remainder)
        check(model, FITTED[NUMBERS], TWO, SEEN[NUMBERS])
        return
    texts = ("texts", onehot(), TEXTS)
    model = chosen(("step", MinMaxScaler(), CHOICES[name]), texts, remainder=remainder)
    check(model, FITTED, TWO, SEEN)


INNER = ColumnTransformer([("a", StandardScaler(), [1]), ("b", MinMaxScaler(), ["age"])])


@pytest.mark.parametrize(
    "model",
    [
        chosen(
            ("b", StandardScaler(), ["gap", "age"]),
            ("a", MinMaxScaler(), ["rooms", "pay"]),
            ("s", onehot(), ["town"]),
        ),
        chosen(("b", "passthrough", ["gap", "age"]), ("a", "drop", ["pay"])),
        chosen(("b", StandardScaler(), ["gap", "age"]), ("a", MinMaxScaler(), ["age", "pay"])),
        chosen(
            ("b", StandardScaler(), ["gap", "age"]),
            ("a", MinMaxScaler(), ["rooms"]),
            transformer_weights={"b": 2.5},
        ),
        chosen(("z", INNER, ["rooms", "gap", "age"])),
        chosen(
            (
                "z",
                FeatureUnion([("a", StandardScaler()), ("b", MinMaxScaler())]),
                ["age", "gap"],
            )
        ),
    ],
    ids=["order", "passthrough", "twice", "weights", "nested", "union"],
)
def test_columns_keep_their_order(model):
    check(model, FITTED, TWO, SEEN)


@pytest.mark.parametrize(
    "columns",
    [[12, *range(12)], [2, 0, 1], [True, False, True] + 10 * [False], slice(12, None, -3)],
    ids=["all, in another order", "some", "booleans", "backwards"],
)
@pytest.mark.parametrize("first", ["passthrough", StandardScaler()], ids=["first", "later"])
def test_columns_of_one_array_keep_their_order(columns, first):
    X, y = load_wine(return_X_y=True)
    choice = ColumnTransformer([("step", StandardScaler(), columns)])
    check(make_pipeline(first, choice, logistic()), X.astype(np.float32), y, X.astype(np.float32))


RATHER_NO = make_scorer(fbeta_score, beta=3, pos_label="no")
PREPARED = of(logistic()).fit(FITTED, TWO)
CLASSIFIERS = {
    "threshold": lambda: of(FixedThresholdClassifier(logistic(), threshold=0.3)),
    "threshold for the other": lambda: of(
        FixedThresholdClassifier(logistic(), threshold=0.3, pos_label="no")
    ),
    "threshold by default": lambda: of(FixedThresholdClassifier(logistic())),
    "threshold of a pipeline": lambda: FixedThresholdClassifier(of(logistic()), threshold=0.7),
    "tuned": lambda: of(TunedThresholdClassifierCV(logistic(), scoring=RATHER_NO)),
    "tuned pipeline": lambda: TunedThresholdClassifierCV(of(logistic()), scoring=RATHER_NO),
    "search of thresholds": lambda: GridSearchCV(
        FixedThresholdClassifier(of(logistic())), {"threshold": [0.2, 0.3]}, cv=2
    ),
    "threshold of a search": lambda: of(
        FixedThresholdClassifier(GridSearchCV(logistic(), {"C": [0.1, 1]}, cv=2), threshold=0.7)
    ),
    "threshold of a frozen one": lambda: make_pipeline(
        FrozenEstimator(PREPARED[0]),
        FixedThresholdClassifier(FrozenEstimator(PREPARED[-1]), threshold=0.3),
    ),
    "hard votes of thresholds": lambda: of(
        VotingClassifier([(n, FixedThresholdClassifier(logistic(), threshold=0.05)) for n in "abc"])
    ),
    "thresholds in a stack": lambda: of(
        StackingClassifier(
            [("a", FixedThresholdClassifier(logistic(), threshold=0.2)), ("b", GaussianNB())],
            final_estimator=FixedThresholdClassifier(logistic(), threshold=0.7),
            cv=2,
        )
    ),
    "bagged thresholds": lambda: of(
        BaggingClassifier(FixedThresholdClassifier(logistic(), threshold=0.2), 3, random_state=0)
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("kind", ["texts", "integers"])
def test_thresholds_decide_as_in_predict(name, kind):
    if kind == "texts":
        check(CLASSIFIERS[name](), FITTED, TWO, SEEN)
    elif "other" not in name and "tuned" not in name and "frozen" not in name:
        check(CLASSIFIERS[name](), FITTED, 3 * (TWO == "yes") - 1, SEEN)
    else:
        pytest.skip("names a class that is a text")


def test_thresholds_move_labels():
    model = of(FixedThresholdClassifier(logistic(), threshold=0.1)).fit(FITTED, TWO)
    moved = model.predict(SEEN) != of(logistic()).fit(FITTED, TWO).predict(SEEN)
    assert moved.mean() > 0.1


def members():
    scaled = make_pipeline(StandardScaler(), logistic())
    return [("a", logistic()), ("b", GaussianNB()), ("c", scaled)]


def stack(**settings):
    return StackingClassifier(members(), final_estimator=logistic(), cv=2, **settings)


WRAPPERS = {
    "soft votes": lambda: of(VotingClassifier(members(), voting="soft")),
    "weighted votes": lambda: of(VotingClassifier(members(), voting="soft", weights=[1, 2, 0.5])),
    "dropped voter": lambda: of(VotingClassifier(members(), voting="soft").set_params(b="drop")),
    "hard votes": lambda: of(VotingClassifier(members())),
    "hard votes of scores": lambda: of(
        VotingClassifier([("a", LinearSVC()), ("b", RidgeClassifier()), ("c", logistic())])
    ),
    "votes of pipelines": lambda: VotingClassifier(
        [("a", of(logistic())), ("b", of(GaussianNB()))], voting="soft"
    ),
    "stack": lambda: of(stack()),
    "stack that passes rows": lambda: of(stack(passthrough=True)),
    "stack of decisions": lambda: of(
        StackingClassifier(
            [("a", LinearSVC()), ("b", logistic())], final_estimator=logistic(), cv=2
        )
    ),
    "stack of logistic decisions": lambda: of(
        StackingClassifier(
            [("a", logistic()), ("b", SGDClassifier(random_state=0))],
            final_estimator=logistic(),
            stack_method="decision_function",
            cv=2,
        )
    ),
    "stack of labels": lambda: of(stack(stack_method="predict")),
    "stack of pipelines": lambda: StackingClassifier(
        [("a", of(logistic())), ("b", of(GaussianNB()))], final_estimator=logistic(), cv=2
    ),
    "search around": lambda: GridSearchCV(
        of(logistic()), {"logisticregression__C": [0.1, 1]}, cv=2
    ),
    "search inside": lambda: of(GridSearchCV(logistic(), {"C": [0.1, 1]}, cv=2)),
    "random search": lambda: RandomizedSearchCV(
        of(logistic()), {"logisticregression__C": [0.1]}, cv=2, n_iter=1
    ),
    "bag": lambda: of(BaggingClassifier(logistic(), 4, max_features=0.6, random_state=0)),
    "bag of pipelines": lambda: of(
        BaggingClassifier(make_pipeline(StandardScaler(), logistic()), 3, random_state=0)
    ),
    "one versus rest": lambda: of(OneVsRestClassifier(logistic())),
    "discriminant": lambda: of(LinearDiscriminantAnalysis()),
    "boosted trees": lambda: with_texts(
        OrdinalEncoder(), last=HistGradientBoostingClassifier(max_iter=10)
    ),
}


@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_classifiers_of_classifiers_agree(name, y):
    if name == "boosted trees":  # scaled rows may tie with a split: see the float32 test
        trees = HistGradientBoostingClassifier(max_iter=10)
        texts = ("texts", OrdinalEncoder(), TEXTS)
        table = ColumnTransformer([texts, ("numbers", "passthrough", NUMBERS)])
        check(make_pipeline(table, trees), FITTED, y, SEEN)
    else:
        check(WRAPPERS[name](), FITTED, y, SEEN)


@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize(
    "held",
    [
        logistic(),
        GaussianNB(),
        LinearSVC(),
        make_pipeline(StandardScaler(), logistic()),
        GridSearchCV(logistic(), {"C": [0.1, 1]}, cv=2),
    ],
    ids=lambda held: type(held).__name__,
)
@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
def test_calibrated_classifiers_agree(method, held, y):
    if isinstance(held, GaussianNB) and method == "isotonic":
        pytest.skip("its probabilities crowd near 1, where float32 cannot tell steps apart")
    if method == "temperature" and (y is THREE or isinstance(held, LinearSVC | GaussianNB)):
        pytest.skip("scikit-learn fits no temperature to these scores, or not on every machine")
    check(of(CalibratedClassifierCV(held, method=method, cv=2)), FITTED, y, SEEN)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_one_calibration_of_all_folds_agrees(method):
    check(
        of(CalibratedClassifierCV(logistic(), method=method, cv=2, ensemble=False)),
        FITTED,
        TWO,
        SEEN,
    )
    check(CalibratedClassifierCV(of(logistic()), method=method, cv=2), FITTED, THREE, SEEN)


def test_frozen_estimators_are_what_they_hold():
    check(FrozenEstimator(PREPARED), FITTED, TWO, SEEN)
    frozen = CalibratedClassifierCV(FrozenEstimator(PREPARED[-1]), cv=2)
    check(make_pipeline(FrozenEstimator(PREPARED[0]), frozen), FITTED, TWO, SEEN)


def test_a_forest_agrees_on_numbers_that_float32_holds():
    table = ColumnTransformer([("numbers", SimpleImputer(strategy="median"), NUMBERS)])
    model = make_pipeline(table, RandomForestClassifier(8, random_state=0))
    check(model, FITTED.astype(dict.fromkeys(NUMBERS, np.float32)), THREE, SEEN)


def with_gaps(X, share, seed):
    X = X.astype(np.float32)
    X[np.random.default_rng(seed).random(X.shape) < share] = np.nan
    return X


FOREST = RandomForestClassifier(5, random_state=0)
TREES = {
    "tree": DecisionTreeClassifier(random_state=0),
    "random tree": ExtraTreeClassifier(random_state=0),
    "forest": FOREST,
    "random forest": ExtraTreesClassifier(5, random_state=0),
    "boosted": HistGradientBoostingClassifier(max_iter=5),
    "bag": BaggingClassifier(n_estimators=3, max_features=0.5, random_state=0),
    "votes": VotingClassifier([("a", DecisionTreeClassifier()), ("b", FOREST)], voting="soft"),
    "calibrated": CalibratedClassifierCV(FOREST, cv=2),
    "rest": OneVsRestClassifier(DecisionTreeClassifier(max_depth=1)),
}


@pytest.mark.parametrize("share", [0, 0.2], ids=["complete in fit", "missing in fit"])
@pytest.mark.parametrize("name", TREES)
def test_trees_send_missing_numbers_where_predict_does(name, share):
    X, y = load_wine(return_X_y=True)
    check(TREES[name], with_gaps(X, share, 0), y, with_gaps(X, 0.3, 1))


@pytest.mark.parametrize("share", [0, 0.2], ids=["complete in fit", "missing in fit"])
def test_leaves_of_missing_numbers_are_those_of_transform(share):
    X, _ = load_wine(return_X_y=True)
    trees = RandomTreesEmbedding(4, max_depth=3, sparse_output=False, random_state=0)
    trees.fit(with_gaps(X, share, 0))
    rows = with_gaps(X, 0.3, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of skl2onnx
        (found,) = run(to_onnx(trees, with_gaps(X, share, 0)), rows)
    np.testing.assert_array_equal(found, trees.transform(rows))


def linear_net(n_features, n_classes):
    settings = {"module__in_features": n_features, "module__out_features": n_classes}
    criterion = nn.CrossEntropyLoss
    return NeuralNetClassifier(
        nn.Linear, criterion=criterion, train_split=None, max_epochs=2, verbose=0, **settings
    )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("method", ["predict_proba", "decision_function"])
@pytest.mark.parametrize("passthrough", [False, True])
def test_a_net_reads_what_a_stack_gives_it(passthrough, method, n_classes):
    X, y = load_wine(return_X_y=True)
    X, y = StandardScaler().fit_transform(X).astype(np.float32), np.minimum(y, n_classes - 1)
    width = 2 * (n_classes if n_classes > 2 else 1) + passthrough * X.shape[1]
    parts = [("a", logistic()), ("b", make_pipeline(StandardScaler(), logistic()))]
    net = linear_net(width, n_classes)
    stacked = StackingClassifier(parts, net, cv=2, stack_method=method, passthrough=passthrough)
    stacked.fit(X, y)
    _, probabilities = run(to_onnx(stacked, X), X)
    np.testing.assert_allclose(probabilities, stacked.predict_proba(X), rtol=0, atol=1e-5)


def test_names_of_columns_do_not_matter():
    names = {"age": "age-years", "job": "1 job", "gap": "label", "rooms": "variable"}
    choice = ColumnTransformer(
        [("texts", onehot(), ["1 job"]), ("numbers", numbers(), ["age-years", "label", "variable"])]
    )
    model = make_pipeline(choice, logistic())
    check(model, FITTED.rename(columns=names), TWO, SEEN.rename(columns=names))


REFUSED = {
    "indicator of texts": (
        with_texts(
            make_pipeline(SimpleImputer(strategy="most_frequent", add_indicator=True), onehot())
        ),
        "add_indicator=True",
    ),
    "fixed on decisions": (
        of(FixedThresholdClassifier(logistic(), response_method="decision_function")),
        "FixedThresholdClassifier decides on decision_function",
    ),
    "fixed without probabilities": (
        of(FixedThresholdClassifier(LinearSVC())),
        "FixedThresholdClassifier decides on decision_function",
    ),
    "tuned on decisions": (
        of(TunedThresholdClassifierCV(logistic(), response_method="decision_function")),
        "TunedThresholdClassifierCV decides on decision_function",
    ),
    "function": (
        with_numbers(FunctionTransformer(lambda rows: rows.astype(np.float32))),
        r"FunctionTransformer of <lambda>.*FunctionTransformer\(np.float32\)",
    ),
    "cast to integers": (
        with_numbers(FunctionTransformer(np.asarray, kw_args={"dtype": np.int64})),
        "FunctionTransformer of asarray",
    ),
    "texts beside numbers": (
        make_pipeline(
            ColumnTransformer([("a", frequent(), ["rooms"]), ("b", frequent(), TEXTS)]),
            onehot(),
            logistic(),
        ),
        "strings and numbers",
    ),
    "splits by category": (
        make_pipeline(
            ColumnTransformer([("a", OrdinalEncoder(), TEXTS), ("b", "passthrough", NUMBERS)]),
            HistGradientBoostingClassifier(categorical_features=[0, 1], max_iter=3),
        ),
        "categorical_features",
    ),
    "votes in a bag": (
        of(BaggingClassifier(LinearSVC(), 3, random_state=0)),
        "BaggingClassifier of LinearSVC",
    ),
    "integers that float32 rounds to one": (
        with_texts(onehot(), ["big"]),
        "OneHotEncoder has numbers of 2",
    ),
    "integers whose neighbours float32 rounds to them": (
        with_texts(OrdinalEncoder(), ["distinct"]),
        "OrdinalEncoder has numbers of 2",
    ),
    "negative integers beyond float32": (
        with_texts(TargetEncoder(), ["negative"]),
        "TargetEncoder has numbers of 2",
    ),
    "fractions that float32 rounds to one": (
        with_texts(onehot(), ["close"]),
        "OneHotEncoder has categories that the graph cannot tell apart",
    ),
    "category that reads as missing": (
        with_texts(onehot(), ["nan"]),
        "OneHotEncoder has a category 'nan'",
    ),
    "neighbours": (
        make_pipeline(ColumnTransformer([("a", KNNImputer(), NUMBERS)]), logistic()),
        "KNNImputer",
    ),
    "splines": (with_numbers(SplineTransformer()), "SplineTransformer"),
    "normal quantiles": (
        with_numbers(QuantileTransformer(n_quantiles=50, output_distribution="normal")),
        "QuantileTransformer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_by_name(name):
    model, words = REFUSED[name]
    rooms = FITTED.rooms
    X = FITTED.assign(
        big=rooms + 2**25,
        distinct=4 * rooms + 2**25,
        negative=-4 * rooms - 2**25,
        close=1 + rooms * 1e-12,
        nan=FITTED.town.fillna("nan"),
    )
    model.fit(X, TWO)
    with pytest.raises(Exception, match=words):
        converted(model, X, 18)


@pytest.mark.parametrize(
    "step, owner",
    [
        (onehot(), "OneHotEncoder"),
        (OrdinalEncoder(encoded_missing_value=-2), "OrdinalEncoder"),
        (TargetEncoder(), "TargetEncoder"),
        (make_pipeline(frequent(), onehot()), "SimpleImputer"),
    ],
    ids=["one-hot", "ordinal", "target", "imputed"],
)
def test_a_column_of_strings_without_any_is_refused_with_the_reason(step, owner):
    model = with_texts(step, ["town"]).fit(FITTED, TWO)
    with pytest.raises(NotImplementedError, match=f"^{owner} was fitted on strings, and that"):
        converted(model, FITTED.assign(town=np.nan), 18)


def test_tied_probabilities_are_refused():
    model = of(SGDClassifier(loss="modified_huber", random_state=0)).fit(FITTED, THREE)
    with pytest.raises(NotImplementedError, match="modified_huber"):
        converted(model, FITTED, 18)


@functools.cache
def adult():
    table = pd.read_csv(
        Path(os.environ["SK_METRICOPT_DATA_HOME"], "adult_raw.csv.gz"), na_values="?"
    ).iloc[::10]
    part = table.pop("split")
    y = table.pop("income").to_numpy()
    return table[part == "train"], y[part == "train"], table[part == "test"]


@pytest.mark.data
@pytest.mark.parametrize(
    "encoder",
    [
        make_pipeline(frequent(), onehot(min_frequency=20, handle_unknown="infrequent_if_exist")),
        TargetEncoder(),
    ],
    ids=["imputed one-hot", "target"],
)
def test_census_rows_with_missing_texts_agree(encoder):
    X, y, rows = adult()
    texts = make_column_selector(dtype_exclude="number")
    choice = ColumnTransformer([("texts", encoder, texts)], remainder=StandardScaler())
    last = TunedThresholdClassifierCV(logistic(), scoring="balanced_accuracy", cv=2)
    check(make_pipeline(choice, last), X, y, rows)

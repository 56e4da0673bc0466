"""What skl2onnx converts wrongly or not at all, in the form that convert_sklearn takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    OrdinalEncoder,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier, ExtraTreeRegressor

from sk_metricopt.export import _sklearn_classifiers as classifiers
from sk_metricopt.export import _sklearn_encoders as encoders
from sk_metricopt.export import _sklearn_functions as functions
from sk_metricopt.export import _sklearn_imputer as imputer
from sk_metricopt.export import _sklearn_parsers as parsers
from sk_metricopt.export._sklearn_nodes import classifier_shapes, table_shape

_CONVERTERS = {
    SimpleImputer: imputer.simple_imputer,
    OneHotEncoder: encoders.one_hot_encoder,
    OrdinalEncoder: encoders.ordinal_encoder,
    TargetEncoder: encoders.target_encoder,
    KBinsDiscretizer: encoders.k_bins_discretizer,
    FunctionTransformer: functions.function_transformer,
    LinearDiscriminantAnalysis: classifiers.linear_discriminant,
    Pipeline: parsers.pipeline,
    FixedThresholdClassifier: classifiers.threshold_classifier,
    TunedThresholdClassifierCV: classifiers.threshold_classifier,
    VotingClassifier: classifiers.voting_classifier,
    StackingClassifier: classifiers.stacking_classifier,
    CalibratedClassifierCV: classifiers.calibrated_classifier,
}

_SHAPES = {
    SimpleImputer: table_shape(imputer.imputed_width, imputer.imputed_type),
    OneHotEncoder: table_shape(encoders.one_hot_width, encoders.encoded_type),
    OrdinalEncoder: table_shape(lambda encoder: len(encoder.categories_), encoders.encoded_type),
    TargetEncoder: table_shape(encoders.target_width),
    KBinsDiscretizer: table_shape(encoders.binned_width),
    FunctionTransformer: table_shape(lambda step: step.n_features_in_, functions.function_type),
    LinearDiscriminantAnalysis: classifier_shapes,
    FixedThresholdClassifier: classifier_shapes,
    TunedThresholdClassifierCV: classifier_shapes,
    VotingClassifier: classifier_shapes,
    StackingClassifier: classifier_shapes,
    CalibratedClassifierCV: classifier_shapes,
}


def overrides() -> tuple[dict, dict, dict]:
    """Return converters, shape calculators and parsers by class of scikit-learn.

    Returns
    -------
    custom_conversion_functions : dict
        Converter of each class.
    custom_shape_calculators : dict
        Shape calculator of each class.
    custom_parsers : dict
        Parser of classes that are only containers of others.
    """
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common._registration import get_shape_calculator

    _register_what_has_no_name()
    names = {kind: sklearn_operator_name_map[kind] for kind in (*_REFUSALS, *_TREES)}
    repaired = {kind: _repaired(name, _REFUSALS.get(kind)) for kind, name in names.items()}
    converters = _CONVERTERS | repaired
    shapes = _SHAPES | {kind: get_shape_calculator(name) for kind, name in names.items()}
    return converters, shapes, dict(parsers.PARSERS)


def _register_what_has_no_name() -> None:
    """Give skl2onnx a name for the one classifier that it asks by name and does not know."""
    from skl2onnx import update_registered_converter
    from skl2onnx._supported_operators import sklearn_operator_name_map

    if FixedThresholdClassifier not in sklearn_operator_name_map:
        flags = [True, False]
        update_registered_converter(
            FixedThresholdClassifier,
            "SklearnFixedThresholdClassifier",
            classifier_shapes,
            classifiers.threshold_classifier,
            options={"zipmap": [*flags, "columns"], "nocl": flags, "output_class_labels": flags},
        )


def _repaired(name: str, refuse):
    """Return skl2onnx's own converter, refusing or putting right what it gets wrong."""

    def convert(scope, operator, container) -> None:
        from skl2onnx.common._registration import get_converter

        estimator = operator.raw_operator
        if refuse is not None:
            refuse(estimator)
        trees = getattr(estimator, "estimators_", [estimator])
        repairs = _Repairs(container, trees if isinstance(estimator, _TREES) else None)
        get_converter(name)(scope, operator, repairs)

    return convert


def _refuse_categorical_splits(classifier) -> None:
    if classifier.is_categorical_ is not None and np.any(classifier.is_categorical_):
        raise NotImplementedError(
            "HistGradientBoostingClassifier(categorical_features=...): skl2onnx reads its splits "
            "by category as splits by size; encode the categories one-hot instead"
        )


def _refuse_tied_probabilities(classifier) -> None:
    if classifier.loss == "modified_huber" and len(classifier.classes_) > 2:
        raise NotImplementedError(
            "SGDClassifier(loss='modified_huber') of several classes: its probabilities are tied "
            "at 0 and 1, where predict decides by decision_function; pass loss='log_loss'"
        )


def _refuse_votes(classifier) -> None:
    if not hasattr(classifier.estimators_[0], "predict_proba"):
        raise NotImplementedError(
            f"BaggingClassifier of {type(classifier.estimators_[0]).__name__}, which has no "
            "predict_proba: skl2onnx does not count votes"
        )


def _refuse_neighbours(imputer) -> None:
    raise NotImplementedError(
        "KNNImputer: skl2onnx writes functions of its own for it, which the file would have to "
        "hold; pass SimpleImputer instead"
    )


_REFUSALS = {
    HistGradientBoostingClassifier: _refuse_categorical_splits,
    SGDClassifier: _refuse_tied_probabilities,
    BaggingClassifier: _refuse_votes,
    KNNImputer: _refuse_neighbours,
}

_TREES = (
    DecisionTreeClassifier,
    ExtraTreeClassifier,
    ExtraTreeRegressor,  # of RandomTreesEmbedding
    ExtraTreesClassifier,
    RandomForestClassifier,
)


class _Repairs:
    """A container of skl2onnx that puts attributes right.

    Lists of booleans become integers: protobuf takes no booleans for those any more. And NaN goes
    where scikit-learn's trees send it, which skl2onnx leaves out.

    Parameters
    ----------
    container : skl2onnx ModelComponentContainer
        Takes the nodes.
    trees : list of estimators or None
        Fitted trees in the order of their ids, where NaN has to be put right.
    """

    def __init__(self, container, trees: list | None):
        self._container = container
        self._trees = trees

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *args, **attributes) -> None:
        for name, value in attributes.items():
            if isinstance(value, list) and any(isinstance(entry, bool) for entry in value):
                attributes[name] = [int(entry) for entry in value]
        if self._trees is not None and "nodes_missing_value_tracks_true" in attributes:
            places = zip(attributes["nodes_treeids"], attributes["nodes_nodeids"], strict=True)
            attributes["nodes_missing_value_tracks_true"] = [
                int(self._trees[tree].tree_.missing_go_to_left[node]) for tree, node in places
            ]
        self._container.add_node(*args, **attributes)

"""What skl2onnx converts wrongly or not at all, in the form that convert_sklearn takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    BaggingClassifier,
    HistGradientBoostingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
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
    names = {kind: sklearn_operator_name_map[kind] for kind in _GUARDED}
    converters = _CONVERTERS | {kind: _guarded(names[kind], _GUARDED[kind]) for kind in _GUARDED}
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


def _guarded(name: str, refuse):
    """Return skl2onnx's own converter, after a refusal of what it gets wrong.

    Its lists of booleans become integers: protobuf takes no booleans for those any more.
    """

    def convert(scope, operator, container) -> None:
        from skl2onnx.common._registration import get_converter

        refuse(operator.raw_operator)
        get_converter(name)(scope, operator, _WithIntegers(container))

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


_GUARDED = {
    HistGradientBoostingClassifier: _refuse_categorical_splits,
    SGDClassifier: _refuse_tied_probabilities,
    BaggingClassifier: _refuse_votes,
}


class _WithIntegers:
    """A container of skl2onnx that writes booleans in lists as integers."""

    def __init__(self, container):
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *args, **attributes) -> None:
        for name, value in attributes.items():
            if isinstance(value, list) and any(isinstance(entry, bool) for entry in value):
                attributes[name] = [int(entry) for entry in value]
        self._container.add_node(*args, **attributes)

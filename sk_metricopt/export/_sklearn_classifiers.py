"""Classifiers around classifiers: thresholds, votes, stacks, calibration, as predict decides."""

from __future__ import annotations

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.pipeline import Pipeline

from sk_metricopt.export._sklearn_nodes import Nodes
from sk_metricopt.export._sklearn_parsers import allowed_options, outputs_of

# Whose decision_function is that of what they hold.
_DECIDE_AS = {
    FrozenEstimator: "estimator",
    GridSearchCV: "best_estimator_",
    RandomizedSearchCV: "best_estimator_",
    FixedThresholdClassifier: "estimator_",
    TunedThresholdClassifierCV: "estimator_",
}


def threshold_classifier(scope, operator, container) -> None:
    """Write the converter of FixedThresholdClassifier and TunedThresholdClassifierCV."""
    classifier, nodes = operator.raw_operator, Nodes(scope, container)
    held = getattr(classifier, "estimator_", classifier.estimator)
    _refuse_decision_function(classifier, held)
    _, probabilities = _outputs(nodes, held, operator.inputs)
    positive, threshold = _decision(classifier)
    score = nodes("Gather", probabilities, nodes.constant(positive), axis=1)
    above = nodes("GreaterOrEqual", score, nodes.constant(float(threshold)))
    index = nodes("Where", above, nodes.constant(positive), nodes.constant(1 - positive))
    label, given = (output.full_name for output in operator.outputs)
    nodes.label(index, classifier.classes_, label)
    nodes.give("Identity", [probabilities], given)


def linear_discriminant(scope, operator, container) -> None:
    """Write the converter of LinearDiscriminantAnalysis as a classifier."""
    classifier, nodes = operator.raw_operator, Nodes(scope, container)
    rows = nodes.cast(operator.inputs[0].full_name, "FLOAT")
    product = nodes("MatMul", rows, nodes.constant(classifier.coef_.T))
    scores = nodes("Add", product, nodes.constant(classifier.intercept_[None]))
    if len(classifier.classes_) == 2:
        positive = nodes("Sigmoid", scores)
        table = nodes("Concat", nodes("Sub", nodes.constant(1.0), positive), positive, axis=1)
    else:
        table = nodes("Softmax", scores, axis=1)
    _give_largest(nodes, table, classifier.classes_, operator)


def _refuse_decision_function(classifier, held) -> None:
    method = classifier.response_method
    if method == "auto":
        method = "predict_proba" if hasattr(held, "predict_proba") else "decision_function"
    if method == "decision_function":
        raise NotImplementedError(
            f"{type(classifier).__name__} decides on decision_function, which the graph does not "
            "hold: pass response_method='predict_proba' and a classifier that has predict_proba"
        )


def _decision(classifier) -> tuple[int, float]:
    """Index of the positive class, and the least probability for it."""
    if isinstance(classifier, TunedThresholdClassifierCV):
        label, threshold = classifier._curve_scorer._get_pos_label(), classifier.best_threshold_
    else:
        label, threshold = classifier.pos_label, classifier.threshold
    positive = 1 if label is None else int(np.flatnonzero(classifier.classes_ == label)[0])
    return positive, 0.5 if isinstance(threshold, str) else threshold


def voting_classifier(scope, operator, container) -> None:
    """Write the converter of VotingClassifier: mean probabilities, or the share of votes."""
    classifier, nodes = operator.raw_operator, Nodes(scope, container)
    members, classes = classifier.estimators_, classifier.classes_
    weights = classifier._weights_not_none
    weights = np.ones(len(members)) if weights is None else np.asarray(weights, float)
    parts = []
    for member, weight in zip(members, weights / weights.sum(), strict=True):
        label, votes = _outputs(nodes, member, operator.inputs)
        if classifier.voting == "hard":  # members are fitted on indices of the classes
            column = nodes("Reshape", label, nodes.constant([-1, 1]))
            equal = nodes("Equal", column, nodes.constant(np.arange(len(classes))[None]))
            votes = nodes.cast(equal, "FLOAT")
        parts.append(nodes("Mul", votes, nodes.constant(weight)))
    _give_largest(nodes, nodes("Sum", *parts), classes, operator)


def stacking_classifier(scope, operator, container) -> None:
    """Write the converter of StackingClassifier: the last one's own label and probabilities."""
    classifier, nodes = operator.raw_operator, Nodes(scope, container)
    binary, parts = len(classifier.classes_) == 2, []
    for member, method in zip(classifier.estimators_, classifier.stack_method_, strict=True):
        answer = _answer(nodes, member, operator.inputs, method)
        parts.append(nodes.column(answer, 1) if binary and method == "predict_proba" else answer)
    if classifier.passthrough:
        parts += [nodes.cast(variable.full_name, "FLOAT") for variable in operator.inputs]
    table = scope.declare_local_variable("stacked", _float_table(_stacked_width(operator)))
    nodes.give("Concat", parts, table.full_name, axis=1)
    label, probabilities = _outputs(nodes, classifier.final_estimator_, [table])
    # All are fitted on indices of the classes.
    nodes.label(label, classifier.classes_, operator.outputs[0].full_name)
    nodes.give("Identity", [probabilities], operator.outputs[1].full_name)


def _stacked_width(operator) -> int:
    """Columns that the last one of a stack reads; nets do not count theirs."""
    classifier = operator.raw_operator
    if hasattr(classifier.final_estimator_, "n_features_in_"):
        return classifier.final_estimator_.n_features_in_
    n_classes = len(classifier.classes_)
    scores = n_classes if n_classes > 2 else 1
    width = sum(1 if method == "predict" else scores for method in classifier.stack_method_)
    passed = operator.inputs if classifier.passthrough else []
    return width + sum(variable.type.shape[1] for variable in passed)


def calibrated_classifier(scope, operator, container) -> None:
    """Write the converter of CalibratedClassifierCV: the mean of its calibrated classifiers."""
    classifier, nodes = operator.raw_operator, Nodes(scope, container)
    parts = [
        _calibrated(nodes, member, operator.inputs) for member in classifier.calibrated_classifiers_
    ]
    mean = nodes("Div", nodes("Sum", *parts), nodes.constant(float(len(parts))))
    _give_largest(nodes, mean, classifier.classes_, operator)


def _calibrated(nodes: Nodes, member, inputs: list) -> str:
    held, n_classes = member.estimator, len(member.classes)
    if len(held.classes_) != n_classes:
        raise NotImplementedError("CalibratedClassifierCV with a fold that lacks a class")
    method = "decision_function" if hasattr(held, "decision_function") else "predict_proba"
    scores = _answer(nodes, held, inputs, method)
    if member.method == "temperature":
        return _tempered(nodes, scores, method, n_classes, float(member.calibrators[0].beta_))
    one = nodes.constant(1.0)
    if n_classes == 2:
        column = scores if method == "decision_function" else nodes.column(scores, 1)
        positive = _curve(nodes, column, member.calibrators[0])
        return nodes("Concat", nodes("Sub", one, positive), positive, axis=1)
    columns = [
        _curve(nodes, nodes.column(scores, k), calibrator)
        for k, calibrator in enumerate(member.calibrators)
    ]
    table = nodes("Concat", *columns, axis=1)
    total = nodes("ReduceSum", table, nodes.constant([1]), keepdims=1)
    none = nodes("Equal", total, nodes.constant(0.0))
    shares = nodes("Div", table, nodes("Where", none, one, total))
    return nodes("Where", none, nodes.constant(1 / n_classes), shares)


def _curve(nodes: Nodes, column: str, calibrator) -> str:
    """Value of a calibration curve at each entry of a column."""
    if hasattr(calibrator, "a_"):
        slope, offset = nodes.constant(-calibrator.a_), nodes.constant(-calibrator.b_)
        return nodes("Sigmoid", nodes("Add", nodes("Mul", column, slope), offset))
    # A piecewise linear curve is the sum of what each piece has risen by.
    x, y = (
        np.asarray(values, np.float32)
        for values in (calibrator.X_thresholds_, calibrator.y_thresholds_)
    )
    if len(x) == 1:
        x, y = np.append(x, x + 1), np.append(y, y)
    speed = 1 / np.maximum(np.diff(x), np.float32(1e-30))
    passed = nodes("Mul", nodes("Sub", column, nodes.constant(x[None, :-1])), nodes.constant(speed))
    share = nodes("Clip", passed, nodes.constant(0.0), nodes.constant(1.0))
    risen = nodes("MatMul", share, nodes.constant(np.diff(y)[:, None]))
    return nodes("Add", risen, nodes.constant(y[0]))


def _tempered(nodes: Nodes, scores: str, method: str, n_classes: int, beta: float) -> str:
    if method == "predict_proba":
        scores = nodes("Log", nodes("Add", scores, nodes.constant(1e-12)))
    elif n_classes == 2:
        scores = nodes("Concat", nodes("Neg", scores), scores, axis=1)
    return nodes("Softmax", nodes("Mul", scores, nodes.constant(beta)), axis=1)


def _answer(nodes: Nodes, estimator, inputs: list, method: str) -> str:
    """Table that a method of a classifier gives; one column for the decisions of two classes."""
    if method == "decision_function":
        scores = _decisions(nodes, estimator, inputs)
        return nodes.column(scores, -1) if len(estimator.classes_) == 2 else scores
    label, probabilities = _outputs(nodes, estimator, inputs)
    if method == "predict_proba":
        return probabilities
    return nodes.cast(nodes("Reshape", label, nodes.constant([-1, 1])), "FLOAT")


def _decisions(nodes: Nodes, estimator, inputs: list) -> str:
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps[:-1]:
            inputs = outputs_of(nodes.scope, step, inputs, nodes.container)
        return _decisions(nodes, estimator.steps[-1][1], inputs)
    for wrapper, attribute in _DECIDE_AS.items():
        if isinstance(estimator, wrapper):
            return _decisions(nodes, getattr(estimator, attribute), inputs)
    if "raw_scores" in allowed_options(estimator):
        return _outputs(nodes, estimator, inputs, raw_scores=True)[1]
    raise NotImplementedError(
        f"decision_function of {type(estimator).__name__}, which skl2onnx does not hold"
    )


def _outputs(nodes: Nodes, estimator, inputs: list, **options) -> tuple[str, str]:
    """Names of the label and of the float32 probabilities, or scores, of a classifier."""
    label, scores = outputs_of(nodes.scope, estimator, inputs, nodes.container, **options)
    return label.full_name, nodes.cast(scores.full_name, "FLOAT")


def _give_largest(nodes: Nodes, probabilities: str, classes: np.ndarray, operator) -> None:
    label, given = (output.full_name for output in operator.outputs)
    nodes.label(nodes("ArgMax", probabilities, axis=1, keepdims=0), classes, label)
    nodes.give("Identity", [probabilities], given)


def _float_table(width: int):
    from skl2onnx.common.data_types import FloatTensorType

    return FloatTensorType([None, width])

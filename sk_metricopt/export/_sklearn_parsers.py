"""How skl2onnx parses what only holds other estimators: who reads which columns."""

from __future__ import annotations

from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from sk_metricopt.export._sklearn_nodes import is_text

# Their converters read one input per column, so strings and numbers may stand side by side.
_READ_COLUMNS = (ColumnTransformer, OneHotEncoder, OrdinalEncoder, SimpleImputer, TargetEncoder)


def outputs_of(scope, estimator, inputs, container=None, **options) -> list:
    """Variables that an estimator gives inside another one: no ZipMap, our parsers.

    Parameters
    ----------
    scope : skl2onnx Scope
        Where the estimator's operators are declared.
    estimator : estimator
        Fitted.
    inputs : list of skl2onnx Variable
        What it reads.
    container : skl2onnx ModelComponentContainer, optional
        Needed for other options than those of parsers.
    **options
        Options of skl2onnx for this estimator.
    """
    from skl2onnx._parse import _parse_sklearn

    if "zipmap" in allowed_options(estimator):
        options["zipmap"] = False
    for holder in (scope, container):
        if options and holder is not None:
            holder.add_options(id(estimator), options)
    return _parse_sklearn(scope, estimator, inputs, custom_parsers=PARSERS)


def allowed_options(estimator) -> set[str]:
    """Options that skl2onnx takes for an estimator."""
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common._registration import _converter_pool

    alias = sklearn_operator_name_map.get(type(estimator))
    allowed = _converter_pool[alias].get_allowed_options() if alias in _converter_pool else None
    if allowed == "passthrough":  # skl2onnx hands them on
        return {"zipmap"}
    return set(allowed or ())


def column_transformer(scope, model, inputs, custom_parsers=None) -> list:
    """Parse a ColumnTransformer by the indices it found in fit, in the order it takes them."""
    blocks = []
    for name, step, _ in model.transformers_:
        indices = [int(i) for i in model._transformer_to_input_indices[name]]
        if not indices or (isinstance(step, str) and step == "drop"):
            continue
        taken = _taken(scope, inputs, indices)
        if not isinstance(_first(step), _READ_COLUMNS):
            taken = [_joined(scope, taken)]
        if not isinstance(step, str):
            taken = outputs_of(scope, step, taken)[:1]
        block = _joined(scope, taken)
        weight = (model.transformer_weights or {}).get(name)
        blocks.append(block if weight is None else _weighted(scope, block, weight))
    return [_joined(scope, blocks)]


def pipeline_parser(scope, model, inputs, custom_parsers=None) -> list:
    """Parse a Pipeline step by step; one that is left out hands its input on."""
    for _, step in model.steps:
        if step is not None and not isinstance(step, str):
            inputs = outputs_of(scope, step, inputs)
    return inputs


def inner(attribute: str):
    """Return a parser of a wrapper that predicts and transforms as what it holds.

    Parameters
    ----------
    attribute : str
        Where the wrapper holds it.
    """

    def parse(scope, model, inputs, custom_parsers=None) -> list:
        return outputs_of(scope, getattr(model, attribute), inputs)

    return parse


def pipeline(scope, operator, container) -> None:
    """Write the converter of a Pipeline that skl2onnx parses late, inside another estimator."""
    outputs = pipeline_parser(scope, operator.raw_operator, operator.inputs)
    for found, wanted in zip(outputs, operator.outputs, strict=True):
        name = scope.get_unique_operator_name("Identity")
        container.add_node("Identity", [found.full_name], [wanted.full_name], name=name)


def _first(step):
    while isinstance(step, Pipeline):
        step = step.steps[0][1]
    return step


def _taken(scope, inputs: list, indices: list[int]) -> list:
    """Return the variables of some columns, in their order."""
    if len(inputs) > 1:
        return [inputs[i] for i in indices]
    operator = scope.declare_local_operator("SklearnArrayFeatureExtractor")
    operator.inputs = inputs
    operator.column_indices = indices
    kind = type(inputs[0].type)
    operator.outputs.append(scope.declare_local_variable("taken", kind([None, len(indices)])))
    return operator.outputs


def _joined(scope, variables: list):
    """Return one variable that holds several side by side."""
    if len(variables) == 1:
        return variables[0]
    if len({is_text(variable) for variable in variables}) > 1:
        raise NotImplementedError("a table of strings and numbers between two steps")
    operator = scope.declare_local_operator("SklearnConcat")
    operator.inputs = variables
    kind = type(variables[0].type)
    operator.outputs.append(scope.declare_local_variable("joined", kind([None, None])))
    return operator.outputs[0]


def _weighted(scope, variable, weight: float):
    operator = scope.declare_local_operator("SklearnMultiply")
    operator.inputs.append(variable)
    operator.operand = weight
    operator.outputs.append(scope.declare_local_variable("weighted", type(variable.type)()))
    return operator.outputs[0]


PARSERS = {
    Pipeline: pipeline_parser,
    ColumnTransformer: column_transformer,
    FrozenEstimator: inner("estimator"),
    GridSearchCV: inner("best_estimator_"),
    RandomizedSearchCV: inner("best_estimator_"),
}

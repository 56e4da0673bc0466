"""Converters of nets and of our estimators, for skl2onnx on its own."""

from __future__ import annotations

from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier

from sk_metricopt._finetuner import MetricOptFinetuner
from sk_metricopt._optional import import_optional_dependency
from sk_metricopt._post_shift import PostShiftClassifier
from sk_metricopt._retriever import EmbeddingRetriever
from sk_metricopt.export._nested import convert, output_names, parse, set_types
from sk_metricopt.export._parts import own_source

_TYPES = (
    EmbeddingRetriever,
    MetricOptFinetuner,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    PostShiftClassifier,
)


def register(*types: type) -> None:
    """Register converters of nets and of our estimators with skl2onnx.

    Afterwards ``skl2onnx.to_onnx`` converts what holds them as well: pipelines, searches, stacks.
    `to_onnx` needs no such call, and compares the graph with the estimator besides.

    Parameters
    ----------
    *types : type
        Further types of estimators, such as subclasses of skorch's classifiers; skl2onnx knows
        types only, and no subclasses. What was registered for a type before is kept.

    Raises
    ------
    ImportError
        If skl2onnx is missing.

    See Also
    --------
    to_onnx : Exports, and compares.

    Examples
    --------
    >>> from skl2onnx import supported_converters
    >>> from sk_metricopt.export import register
    >>> register()
    >>> "SkMetricOptMetricOptFinetuner" in supported_converters()
    True
    """
    import_optional_dependency("skl2onnx", "onnx")
    from skl2onnx import update_registered_converter
    from skl2onnx._supported_operators import sklearn_operator_name_map

    for type_ in dict.fromkeys((*_TYPES, *types)):
        if type_ not in sklearn_operator_name_map:
            update_registered_converter(
                type_,
                "SkMetricOpt" + type_.__name__,
                set_types_of,
                convert_estimator,
                parser=_parse,
                options={"zipmap": [False], "nocl": [True, False]},
            )


def parser_of(estimator):
    """Return what names the outputs of `estimator`, as skl2onnx asks for it."""
    names = output_names(own_source(estimator))
    return lambda scope=None, inputs=None: names


def set_types_of(operator) -> None:
    """Tell skl2onnx types and shapes of an estimator's outputs."""
    set_types(operator, own_source(operator.raw_operator))


def convert_estimator(scope, operator, container) -> None:
    """Write an estimator's graph where skl2onnx is."""
    convert(scope, operator, container, own_source(operator.raw_operator))


def _parse(scope, model, inputs, custom_parsers=None) -> list:
    # skl2onnx compares the names of these arguments with those of its own parsers.
    from skl2onnx._supported_operators import sklearn_operator_name_map

    alias = sklearn_operator_name_map[type(model)]
    return parse(scope, model, inputs, own_source(model), alias)

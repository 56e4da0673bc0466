"""What OnnxPredictor does with a file whose properties were damaged or do not fit its graph."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from sk_metricopt.export import OnnxPredictor
from tests.onnx_files import foreign_model, serialized

X = np.eye(4, 3, dtype=np.float32)
CLASSES = {"classes": "[4, 5, 6]", "classes_dtype": "int64", "labels": "class"}


def classifier_content(width=3, kind="int", **properties):
    """Label, an index or the word of one, and X as the probabilities."""
    make = onnx.helper.make_tensor_value_info
    types = {"int": onnx.TensorProto.INT64, "str": onnx.TensorProto.STRING}
    outputs = [
        make("label", types[kind], ["n"]),
        make("probabilities", onnx.TensorProto.FLOAT, ["n", width]),
    ]
    words = {"keys_int64s": [0, 1, 2], "values_strings": ["a", "b", "c"]}
    index = onnx.helper.make_node("ArgMax", ["X"], ["index"], axis=1, keepdims=0)
    label = onnx.helper.make_node("Identity", ["index"], ["label"])
    if kind == "str":
        label = onnx.helper.make_node(
            "LabelEncoder", ["index"], ["label"], domain="ai.onnx.ml", **words
        )
    nodes = [index, label, onnx.helper.make_node("Identity", ["X"], ["probabilities"])]
    inputs = [make("X", onnx.TensorProto.FLOAT, ["n", 3])]
    graph = onnx.helper.make_graph(nodes, "graph", inputs, outputs)
    return serialized(graph, {f"sk_metricopt.{key}": text for key, text in properties.items()})


def refused(content, got):
    with pytest.raises(ValueError) as caught:
        OnnxPredictor(content)
    start = (
        "The 'model' parameter of OnnxPredictor must be a file with properties that fit its "
        f"graph. Got {got}"
    )
    assert str(caught.value).startswith(start), str(caught.value)
    assert str(caught.value).endswith(" instead. Export again.")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "changes, got",
    [
        ({"classes": "[4, 5"}, "classes '[4, 5', which is no JSON"),
        ({"classes": "[" * 100_000}, "classes '[[["),
        ({"classes": "[]"}, "classes []"),
        ({"classes": "[1, 2]"}, "classes [1, 2] for probabilities of shape [rows, *[3]]"),
        ({"classes": "[1, 2, [3]]"}, "classes [1, 2, [3]]"),
        ({"classes": "[1, 2, null]"}, "classes [1, 2, None]"),
        ({"classes": "5"}, "classes 5"),
        ({"classes": '"abc"'}, "classes 'abc'"),
        ({"classes": '["a", "b", "c"]'}, "classes ['a', 'b', 'c'] of dtype 'int64'"),
        ({"classes": f"[1, 2, {2**70}]"}, f"classes [1, 2, {2**70}] of dtype 'int64'"),
        ({"classes_dtype": None}, "classes [4, 5, 6] of dtype ''"),
        ({"classes_dtype": "foo"}, "classes [4, 5, 6] of dtype 'foo'"),
        ({"classes_dtype": "(1, 2"}, "classes [4, 5, 6] of dtype '(1, 2'"),
        ({"classes_dtype": "i4,i4"}, "classes of dtype 'i4,i4'"),
        ({"classes_dtype": "S500"}, "classes of dtype 'S500'"),
        ({"classes_dtype": "<U3"}, "classes of <U1 for labels of tensor(int64)"),
        ({"classes": None, "labels": "index"}, "labels by index without classes"),
        ({"feature_names": '["a"]'}, "feature_names ['a'] for columns of shape [3]"),
        ({"feature_names": '["a", "b", "b"]'}, "feature_names ['a', 'b', 'b']"),
        ({"feature_names": '["a", "b", 3]'}, "feature_names ['a', 'b', 3]"),
        ({"feature_names": "5"}, "feature_names 5"),
        ({"feature_names": "null"}, "feature_names None"),
        ({"feature_names": "{"}, "feature_names '{', which is no JSON"),
        ({"adapters": '["f1"'}, "adapters '[\"f1\"', which is no JSON"),
        ({"adapters": '["f1"]'}, "adapters that its input 'adapter' does not take"),
        ({"adapters": "5"}, "adapters that its input 'adapter' does not take"),
    ],
)
def test_properties_that_do_not_fit_the_graph_are_refused(changes, got):
    told = {key: text for key, text in {**CLASSES, **changes}.items() if text is not None}
    refused(classifier_content(**told), got)


def test_properties_that_fit_the_graph_are_taken():
    predictor = OnnxPredictor(classifier_content(**CLASSES, feature_names='["a", "b", "c"]'))
    assert predictor.classes_.tolist() == [4, 5, 6]
    assert predictor.feature_names_in_.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("labels, dtype", [("class", "int64"), ("class", "bool"), ("index", "<U3")])
def test_classes_of_another_kind_than_the_labels_are_refused(labels, dtype):
    classes = {"classes": '["1", "2", "3"]', "classes_dtype": dtype, "labels": labels}
    refused(classifier_content(kind="str", **classes), "classes of ")


@pytest.mark.parametrize("dtype", ["<U1", "<U500000000", "object"])
@pytest.mark.parametrize("labels, kind", [("class", "str"), ("index", "int")])
def test_classes_that_are_strings_are_as_wide_as_they_are(dtype, labels, kind):
    classes = ["a", "b", "née"]
    told = {"classes": json.dumps(classes), "classes_dtype": dtype, "labels": labels}
    predictor = OnnxPredictor(classifier_content(kind=kind, **told))
    assert predictor.classes_.tolist() == classes
    assert predictor.classes_.dtype == ("object" if dtype == "object" else "<U3")
    assert predictor.predict(X[:2]).tolist() == ["a", "b"]


def test_classes_of_probabilities_of_any_width_are_taken():
    predictor = OnnxPredictor(classifier_content(width="k", **CLASSES))
    assert predictor.classes_.tolist() == [4, 5, 6]


@pytest.mark.parametrize("text", ["output", "dimension", "key", "property"])
def test_names_that_are_no_text_are_refused(text):
    make, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    places = ("output", "dimension", "key", "property")
    named = {name: f"{name}-to-damage" for name in places}  # found nowhere else in the bytes
    nodes = [
        onnx.helper.make_node("Identity", ["X"], ["embeddings"]),
        onnx.helper.make_node("Identity", ["X"], [named["output"]]),
    ]
    outputs = [
        make("embeddings", kind, [named["dimension"], 3]),
        make(named["output"], kind, [named["dimension"], 3]),
    ]
    inputs = [make("X", kind, [named["dimension"], 3])]
    graph = onnx.helper.make_graph(nodes, "graph", inputs, outputs)
    content = serialized(graph, {named["key"]: named["property"]})
    assert OnnxPredictor(content).transform(X).shape == (4, 3)
    refused(
        content.replace(named[text].encode(), named[text].encode()[:-1] + b"\xff"), "names that"
    )


@pytest.mark.parametrize(
    "form, adapters",
    [
        ("free", '["f1"]'),
        ("free", '{"f1": [1.0, 2.0, 3.0]}'),
        ("free", '{"f1": "one"}'),
        ("free", '{"f1": [1.0, 1' + "0" * 400 + "]}"),
        ("named", '{"f1": [1.0, 2.0]}'),
        ("named", "[1]"),
        ("named", "5"),
    ],
)
def test_adapters_that_the_graph_does_not_take_are_refused(form, adapters):
    make, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto
    values = [make(name, kind.FLOAT, ["n", 2]) for name in ("X", "embeddings")]
    chosen = make("adapter", *((kind.FLOAT, [2]) if form == "free" else (kind.INT64, [])))
    default = np.ones(2, np.float32) if form == "free" else np.array(0)
    nodes = [
        onnx.helper.make_node("Cast", ["adapter"], ["phi"], to=kind.FLOAT),
        onnx.helper.make_node("Mul", ["X", "phi"], ["embeddings"]),
    ]
    initial = [onnx.numpy_helper.from_array(default, "adapter")]
    graph = onnx.helper.make_graph(nodes, "graph", [values[0], chosen], values[1:], initial)
    content = serialized(graph, {"sk_metricopt.adapters": adapters})
    refused(content, "adapters that its input 'adapter' does not take")


def test_numbers_beyond_float32_become_infinite_with_a_warning():
    predictor = OnnxPredictor(foreign_model(output="embeddings"))
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert predictor.transform([[1e300, -1e300, 0]]).tolist() == [[np.inf, -np.inf, 0]]

"""OnnxPredictor on strings, and on tables with an input for each column."""

from __future__ import annotations

import numpy as np
import onnx
import pandas as pd
import pytest

from sk_metricopt.export import OnnxPredictor
from tests.onnx_files import foreign_model, serialized


def test_strings_in_and_out():
    predictor = OnnxPredictor(foreign_model(dtype=onnx.TensorProto.STRING, output="label"))
    rows = np.array([["an", "né", None]], dtype=object)
    assert predictor.predict(rows).tolist() == [["an", "né", "nan"]]
    assert predictor.predict(rows[:0]).shape == (0, 3)


def table_content():
    """Embeddings of two columns: a number, and the length-one code of a string."""
    make = onnx.helper.make_tensor_value_info
    inputs = [
        make("size", onnx.TensorProto.FLOAT, ["n", 1]),
        make("town", onnx.TensorProto.STRING, ["n", 1]),
    ]
    nodes = [
        onnx.helper.make_node(
            "LabelEncoder",
            ["town"],
            ["code"],
            domain="ai.onnx.ml",
            keys_strings=["Bo", "Ulm"],
            values_floats=[1.0, 2.0],
            default_float=-1.0,
        ),
        onnx.helper.make_node("Concat", ["size", "code"], ["embeddings"], axis=1),
    ]
    output = make("embeddings", onnx.TensorProto.FLOAT, ["n", 2])
    return serialized(onnx.helper.make_graph(nodes, "graph", inputs, [output]))


def strict_content(width):
    """Embeddings from a table of towns, which fails for any other."""
    make = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node(
            "LabelEncoder",
            ["town"],
            ["code"],
            domain="ai.onnx.ml",
            keys_strings=["Bo", "Ulm"],
            values_int64s=[0, 1],
            default_int64=99,
        ),
        onnx.helper.make_node("Gather", ["table", "code"], ["rows"]),
        onnx.helper.make_node("Squeeze", ["rows", "one"], ["embeddings"]),
        onnx.helper.make_node("Squeeze", ["town", "one"], ["label"]),
    ]
    initial = [
        onnx.numpy_helper.from_array(np.eye(2, 3, dtype=np.float32), "table"),
        onnx.numpy_helper.from_array(np.array([1]), "one"),
    ]
    outputs = [
        make("embeddings", onnx.TensorProto.FLOAT, ["n", width]),
        make("label", onnx.TensorProto.STRING, ["n"]),
    ]
    inputs = [make("town", onnx.TensorProto.STRING, ["n", 1])]
    return serialized(onnx.helper.make_graph(nodes, "graph", inputs, outputs, initial))


def test_no_rows_give_nothing_where_no_row_could_be_made_up():
    predictor = OnnxPredictor(strict_content(3))
    assert predictor.transform([["Ulm"]]).tolist() == [[0, 1, 0]]
    with pytest.raises(ValueError, match="on which onnxruntime failed"):
        predictor.transform([["Oslo"]])
    none = pd.DataFrame({"town": ["Ulm"]})[:0]
    assert predictor.transform(none).shape == (0, 3)
    assert predictor.transform(none).dtype == np.float32
    assert predictor.predict(none).shape == (0,) and predictor.predict(none).dtype == object


def test_columns_of_a_table_are_fed_by_name():
    predictor = OnnxPredictor(table_content())
    frame = pd.DataFrame({"size": [1, 2, 3], "town": ["Ulm", "Bo", None]})
    assert predictor.transform(frame).tolist() == [[1, 2], [2, 1], [3, -1]]
    assert predictor.transform(frame[:0]).shape == (0, 2)
    assert predictor.feature_names_in_.tolist() == ["size", "town"]
    assert predictor.n_features_in_ == 2
    with pytest.raises(ValueError, match="Got columns in another order"):
        predictor.transform(frame[["town", "size"]])
    with pytest.raises(TypeError, match="must have numbers in column 'size'"):
        predictor.transform(frame.assign(size="big"))


def test_polars_frames_are_taken():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"size": [1.0, 2.0], "town": ["Ulm", "Bo"]})
    assert OnnxPredictor(table_content()).transform(frame).tolist() == [[1, 2], [2, 1]]

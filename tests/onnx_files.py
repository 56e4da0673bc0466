"""Small ONNX files, made by hand."""

from __future__ import annotations

import onnx


def foreign_model(dtype=onnx.TensorProto.FLOAT, width=3, output="out"):
    values = [
        onnx.helper.make_tensor_value_info(name, dtype, ["n", width]) for name in ("X", output)
    ]
    node = onnx.helper.make_node("Identity", ["X"], [output])
    return serialized(onnx.helper.make_graph([node], "graph", values[:1], values[1:]))


def serialized(graph, properties=None):
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.helper.set_model_props(model, properties or {})
    return model.SerializeToString()

"""What OnnxPredictor sees in the bytes of a file before onnxruntime opens it."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch

from sk_metricopt.export import OnnxPredictor, _content
from sk_metricopt.export._runtime import open_session
from sk_metricopt.export._torch_graph import export_lock
from tests.onnx_files import foreign_model


def fields_that_lead_to_tensors():
    """By message of onnx.proto, the fields whose messages are tensors or hold some."""
    pending, messages = [onnx.ModelProto.DESCRIPTOR], {}
    while pending:
        message = pending.pop()
        fields = [field for field in message.fields if field.message_type is not None]
        messages[message.name] = {field.number: field.message_type.name for field in fields}
        known = set(messages) | {message.name for message in pending}
        pending += [f.message_type for f in fields if f.message_type.name not in known]
    holding = {"TensorProto"}
    for _ in messages:
        holding |= {name for name, fields in messages.items() if holding & set(fields.values())}
    return {
        name.removesuffix("Proto"): {
            number: inner.removesuffix("Proto")
            for number, inner in messages[name].items()
            if inner in holding and name != "TensorProto"
        }
        for name in holding
    }


def test_all_places_where_onnx_keeps_tensors_are_known():
    assert fields_that_lead_to_tensors() == _content._NESTED


def external_tensor(location):
    tensor = onnx.TensorProto(name="W", data_type=onnx.TensorProto.FLOAT, dims=[3, 3])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph", "function", "sparse"])
def test_tensors_in_other_files_are_not_read(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(np.eye(3, dtype=np.float32).tobytes())
    tensor = external_tensor("secret.bin")
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3])
        for name in ("X", "embeddings")
    ]
    product = onnx.helper.make_node("MatMul", ["X", "W"], ["embeddings"])
    constant = onnx.helper.make_node("Constant", [], ["W"], value=tensor)
    graph = onnx.helper.make_graph([product], "graph", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 8
    if where == "initializer":
        model.graph.initializer.append(tensor)
        session = open_session(model.SerializeToString())  # it would have been read
        assert (session.run(None, {"X": np.ones((1, 3), np.float32)})[0] == 1).all()
    elif where == "attribute":
        model.graph.node.insert(0, constant)
    elif where == "subgraph":
        inner = onnx.helper.make_graph([constant], "inner", [], [values[1]])
        model.graph.node.append(
            onnx.helper.make_node("If", ["c"], ["e"], then_branch=inner, else_branch=inner)
        )
    elif where == "function":
        opsets = model.opset_import
        function = onnx.helper.make_function("own", "f", [], ["W"], [constant], opsets)
        model.functions.append(function)
    else:
        model.graph.sparse_initializer.add(values=tensor, dims=[3, 3])
    with pytest.raises(ValueError, match="one file with all of its tensors. .* nothing is read"):
        OnnxPredictor(model.SerializeToString())


def test_file_cut_short_anywhere_in_its_graph_is_refused():
    content = foreign_model(output="embeddings")
    for length in range(content.rindex(b"embeddings")):  # what follows may be missing
        with pytest.raises(ValueError, match="'model' parameter of OnnxPredictor must"):
            OnnxPredictor(content[:length])


def half_attention():
    """A net in float16 on which onnxruntime crashes the process at its highest level."""
    module = TokenAttention().half().eval()
    with export_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (torch.zeros(2, 5, dtype=torch.int64),),
            dynamo=True,
            opset_version=18,
            input_names=["X"],
            output_names=["embeddings"],
            dynamic_shapes={"X": {0: "batch"}},
            verbose=False,
        )
    return program.model_proto.SerializeToString()


class TokenAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 16)
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, X):
        z = self.table(X)
        return self.attention(z, z, z, need_weights=False)[0].mean(1).float()


def test_attention_in_float16_runs_on_the_cpu():
    script = (
        "import sys; import numpy as np; from sk_metricopt.export import OnnxPredictor; "
        "print(OnnxPredictor(sys.stdin.buffer.read()).transform(np.ones((3, 5))).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=half_attention(), capture_output=True, timeout=120
    )
    assert done.stdout.split() == [b"(3,", b"16)"], done.stderr

"""Files to load, whole ones and what damage or malice makes of them; the same for the same seed."""

from __future__ import annotations

import functools
import json
import os
import pickle
import random
import tempfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import torch
from onnx import TensorProto, helper
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_metricopt.export import to_onnx
from sk_metricopt.export._wire import fields
from sk_metricopt.value_functions import AdapterValueFunction, BehaviourValueFunction
from tests.nets import classifier, table

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
OPSETS = [helper.make_opsetid(d, v) for d, v in (("", 18), ("ai.onnx.ml", 3), ("own", 1))]
EXTREMES = [0, 1, 2, 16, 127, 2**31 - 1, 2**31, 2**32 + 1, 2**40, 2**62, 2**63, 2**64 - 1]
WORDS = [b"", b"\xff\xfe", b"nan", b"own", b"com.microsoft", b"../secret", b"a" * 5000, b"\0"]
TEXTS = ["", "[", "[" * 10**5, "{}", "null", "[NaN, 1, 2]", "[Infinity]", "1" * 5000, '"a"', "[1]"]
TEXTS += [json.dumps([1] * 10**6), json.dumps(["a"] * 20_000 + ["b" * 20_000]), "[1e999]", "\0"]
TEXTS += ["U999999999", "(9999999,)f8", "99999999f8", "__import__('os').system('touch CANARY')"]
TEXTS += ["M8[s]", "O", "index", "f8,f8", "datetime64[9999999999999s]", "(" * 10**5]


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def tensor(name, dims, **values):
    made = TensorProto(name=name, data_type=values.pop("data_type", FLOAT), dims=dims)
    for key, value in values.items():
        setattr(made, key, value) if key == "raw_data" else getattr(made, key).extend(value)
    return made


def model(nodes, initial=(), functions=(), sparse=(), properties=None, width=3):
    values = [helper.make_tensor_value_info(n, FLOAT, ["n", width]) for n in ("X", "embeddings")]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], list(initial))
    made = helper.make_model(graph, opset_imports=OPSETS, ir_version=8, functions=functions)
    made.graph.sparse_initializer.extend(sparse)
    helper.set_model_props(made, properties or {})
    return made.SerializeToString()


def node(kind, *names, domain="", **attributes):
    return helper.make_node(kind, names[:-1], names[-1:], domain=domain, **attributes)


def plus(weights="W"):
    return node("Add", "X", weights, "embeddings")


def function(name, nodes):
    return helper.make_function("own", name, ["a"], ["b"], nodes, OPSETS)


def doubling(n_times):
    """A function that calls one twice, that calls one twice..."""
    made = [function("f0", [node("Identity", "a", "b")])]
    for i in range(n_times):
        calls = [node(f"f{i}", a, b, domain="own") for a, b in (("a", "c"), ("c", "b"))]
        made.append(function(f"f{i + 1}", calls))
    return model([node(f"f{n_times}", "X", "embeddings", domain="own")], functions=made)


def calling_itself(*names):
    made = [
        function(name, [node(names[i - 1], "a", "b", domain="own")]) for i, name in enumerate(names)
    ]
    return model([node(names[0], "X", "embeddings", domain="own")], functions=made)


def deep_tree(depth):
    """Every branch has a leaf on one side, and the next branch on the other."""
    n_nodes = 2 * depth + 1
    modes = ["BRANCH_LEQ", "LEAF"] * depth + ["LEAF"]
    return model(
        [
            node(
                "TreeEnsembleRegressor",
                "X",
                "embeddings",
                domain="ai.onnx.ml",
                nodes_treeids=[0] * n_nodes,
                nodes_nodeids=list(range(n_nodes)),
                nodes_featureids=[0] * n_nodes,
                nodes_values=[0.5] * n_nodes,
                nodes_modes=modes,
                nodes_truenodeids=[i + 2 if m != "LEAF" else 0 for i, m in enumerate(modes)],
                nodes_falsenodeids=[i + 1 if m != "LEAF" else 0 for i, m in enumerate(modes)],
                target_treeids=[0],
                target_nodeids=[n_nodes - 1],
                target_ids=[0],
                target_weights=[1.0],
                n_targets=3,
            )
        ]
    )


def sparse(dims):
    values = tensor("W", [1], float_data=[1.0])
    indices = tensor("W_indices", [1], data_type=INT64, int64_data=[0])
    return onnx.SparseTensorProto(values=values, indices=indices, dims=dims)


def external(location):
    made = tensor("W", [3, 3])
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value=location)
    return model([node("MatMul", "X", "W", "embeddings")], [made])


def nested(depth):
    """Attributes with graphs with nodes with attributes, by hand: no library writes that deep."""
    data = b""
    for _ in range(depth):
        for number in (6, 5, 1):  # graph of an attribute, attribute of a node, node of a graph
            data = encoded([(number, data)])
    return encoded([(7, data)])


def twice(content):
    """The graph two times, which parsers merge."""
    graph = dict(fields(memoryview(content)))[7]
    return content + encoded([(7, bytes(graph))])


def labels_beyond(n_classes):
    """Labels up to 2, by index, of fewer classes."""
    values = [helper.make_tensor_value_info("X", FLOAT, ["n", 3])]
    label = helper.make_tensor_value_info("label", INT64, ["n"])
    nodes = [node("ArgMax", "X", "i", axis=1, keepdims=0), node("Add", "i", "two", "label")]
    two = tensor("two", [1], data_type=INT64, int64_data=[2])
    graph = helper.make_graph(nodes, "graph", values, [label], [two])
    made = helper.make_model(graph, opset_imports=OPSETS, ir_version=8)
    told = {"labels": "index", "classes": json.dumps([*range(n_classes)]), "classes_dtype": "int64"}
    helper.set_model_props(made, {f"sk_metricopt.{key}": text for key, text in told.items()})
    return made.SerializeToString()


def adapters(told):
    nodes = [node("Mul", "X", "adapter", "embeddings")]
    content = model(nodes, [tensor("adapter", [3], float_data=[1, 1, 1])])
    made = onnx.ModelProto.FromString(content)
    made.graph.input.append(helper.make_tensor_value_info("adapter", FLOAT, [3]))
    helper.set_model_props(made, {"sk_metricopt.adapters": told})
    return made.SerializeToString()


REFUSED = {  # what is in a file, and what has to be said of it
    "dims of more than the data": (
        lambda: model([plus()], [tensor("W", [2**34], raw_data=b"1234")]),
        "a tensor of 17179869184 values in",
    ),
    "dims of more than the strings": (
        lambda: model([plus()], [tensor("W", [2**30, 8], data_type=8, string_data=[b"a"])]),
        "a tensor of 8589934592 values in",
    ),
    "dims beyond 64 bits that come to zero": (
        lambda: model([plus()], [tensor("W", [2**62, 2**62, 0])]),
        "a tensor of ",
    ),
    "negative dims": (
        lambda: model([plus()], [tensor("W", [-1, -1], raw_data=b"1234")]),
        "negative",
    ),
    "dims of an attribute": (
        lambda: model([node("Constant", "W", value=tensor("v", [2**34])), plus()]),
        "a tensor of 17179869184 values in",
    ),
    "a sparse tensor of a gigabyte": (
        lambda: model([plus()], sparse=[sparse([2**28])]),
        "sparse tensors have more than",
    ),
    "sparse tensors that come to a gigabyte": (
        lambda: model([plus()], sparse=[sparse([2**24])] * 16),
        "sparse tensors have more than",
    ),
    "a function that doubles 29 times": (lambda: doubling(29), "come to more than 16384 nodes"),
    "a function that calls itself": (lambda: calling_itself("f"), "a function that calls itself"),
    "functions that call each other": (
        lambda: calling_itself("f", "g", "h"),
        "a function that calls itself",
    ),
    "a tree of 20000 levels": (lambda: deep_tree(20_000), "a tree deeper than 1000"),
    "graphs in graphs": (lambda: nested(2000), "nested too deeply"),
    "a graph twice": (lambda: twice(model([node("Identity", "X", "embeddings")])), "damaged"),
    "nothing": (lambda: b"", "must be"),
    "a pickle": (lambda: pickle.dumps(Trap("CANARY")), "must be an ONNX model"),
    "a length beyond the file": (lambda: b"\x3a\xff\xff\xff\xff\x7f", "damaged or cut short"),
    "labels beyond the classes": (lambda: labels_beyond(2), "index its 2 classes"),
    "adapters that are no numbers": (lambda: adapters('{"f1": [NaN, 1, 1]}'), "NaN is no number"),
    "adapters that are infinite": (lambda: adapters('{"f1": [1e999, 1, 1]}'), "does not take"),
    **{
        f"tensors in {place}": (
            functools.partial(external, place),
            "one file with all of its tensors",
        )
        for place in ("secret.bin", "../secret.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*")
    },
}


def sources():
    """Whole files by name, as their subject reads them."""
    X, y = table(2, 60)
    frame = pd.DataFrame({"a": X[:, 0], "b": np.where(X[:, 1] > 0, "u", "v")})
    columns = make_column_transformer(
        (StandardScaler(), ["a"]), (OneHotEncoder(handle_unknown="ignore"), ["b"])
    )
    forest = RandomForestClassifier(n_estimators=2, max_depth=3, random_state=0)
    pipeline = make_pipeline(columns, forest).fit(frame, np.where(y, "yes", "no"))
    net = classifier(max_epochs=1).fit(X, y)
    branch = function("half", [node("Relu", "a", "b")])
    return {
        "model net": to_onnx(net, X).SerializeToString(),
        "model forest": to_onnx(pipeline, frame).SerializeToString(),
        "model adapters": adapters('{"f1": [2.0, 3.0, 4.0]}'),
        "model foreign": model(
            [node("half", "X", "h", domain="own"), node("Add", "h", "W", "embeddings")],
            [tensor("W", [3], float_data=[1, 2, 3])],
            [branch],
        ),
        "journal run": journal_of(),
        "value behaviour": value_function_of(BehaviourValueFunction()),
        "value adapter": value_function_of(AdapterValueFunction(2, n_steps=2)),
    }


def value_function_of(value_function):
    """The file of a value function that was fitted to three classes."""
    rng = torch.Generator().manual_seed(0)
    y, scores = torch.arange(30) % 3, torch.randn(12, 30, 3, generator=rng)
    value_function.start(scores[0], y)
    described = value_function.describe(torch.randn(12, 4, generator=rng), scores, y)
    value_function.fit(described.numpy(), np.linspace(0, 1, 12))
    with tempfile.TemporaryDirectory() as folder:
        value_function.to_file(Path(folder) / "value")
        return (Path(folder) / "value").read_bytes()


def journal_of():
    identity = {"data": "0" * 16, "parameters": "1" * 16}
    header = {"schema": 1, "seed": 3, "identity": identity, "environment": {"torch": "2.0"}}
    records = [{"key": ["observation", i], "of": "ab" * 8, "score": i / 7} for i in range(6)]
    return b"".join(line(record) for record in [header, *records])


def line(record):
    text = json.dumps(record, separators=(",", ":")).encode()
    return sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n"


# Mutations ---------------------------------------------------------------------------------------


def flipped(content, rng):
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 4, 32])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(content, rng):
    return content[: rng.randrange(len(content))]


def inserted(content, rng):
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.choice([1, 8, 300])) + content[at:]


def removed(content, rng):
    at = rng.randrange(len(content))
    return content[:at] + content[at + rng.choice([1, 8, 300]) :]


def with_length(content, rng):
    """A length that is declared somewhere becomes huge."""
    at = rng.randrange(len(content))
    return content[:at] + varint(rng.choice(EXTREMES[4:])) + content[at + 1 :]


def edited(content, rng):
    """A field is removed, doubled, emptied or becomes extreme; what is around it stays right."""
    return _edited(onnx.ModelProto.DESCRIPTOR, content, rng)


def _edited(descriptor, data, rng):
    parts = [(n, v if isinstance(v, int) else bytes(v)) for n, v in fields(memoryview(data))]
    if not parts:
        return encoded([(rng.randrange(1, 30), rng.choice(EXTREMES))])
    at = rng.randrange(len(parts))
    number, value = parts[at]
    field = descriptor.fields_by_number.get(number)
    inner = field.message_type if field is not None else None
    if inner is not None and not isinstance(value, int) and rng.random() < 0.85:
        parts[at] = (number, _edited(inner, value, rng))
        return encoded(parts)
    act = rng.choice(["remove", "double", "move", "change", "change", "change"])
    if act == "remove":
        del parts[at]
    elif act == "double":
        parts[at:at] = [parts[at]] * rng.choice([1, 1, 1000])
    elif act == "move":
        parts.append(parts.pop(at))
    elif isinstance(value, int):
        parts[at] = (number, rng.choice([*EXTREMES, value + 1, value ^ 3]))
    else:
        parts[at] = (number, rng.choice([*WORDS, flipped(value or b"a", rng), value[:-1]]))
    return encoded(parts)


def with_property(content, rng):
    """A property says something else."""
    made = onnx.ModelProto.FromString(content)
    keys = ["classes", "classes_dtype", "labels", "feature_names", "adapters", "metric"]
    for key in rng.sample(keys, rng.choice([1, 2])):
        key, text = f"sk_metricopt.{key}", rng.choice(TEXTS)
        kept = [prop for prop in made.metadata_props if prop.key != key]
        del made.metadata_props[:]
        made.metadata_props.extend([*kept, onnx.StringStringEntryProto(key=key, value=text)])
    return made.SerializeToString()


def with_line(content, rng):
    """A line of a journal says something else, with the checksum that belongs to it."""
    lines = content.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    record = json.loads(lines[at].partition(b" ")[2])
    odd = [None, -1, 2**70, "x" * 5000, [], {}, [[]], True, 1e308, [["a"]], {"seed": 1}]
    if rng.random() < 0.1:
        lines[at] = line(rng.choice(odd))
    elif rng.random() < 0.1:
        text = rng.choice([b"[" * 10**5, b"1" * 5000, b'{"key":NaN}', b"\xff", b"a" * 2**21])
        lines[at] = sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n"
    else:
        record[rng.choice([*record, "extra"])] = rng.choice(odd)
        lines[at] = line(record)
    return b"".join(lines)


def with_state(content, rng):
    """Say something else somewhere in what a value function has learned."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    ((name, text),) = header["__metadata__"].items()
    told = json.loads(text)
    part = told
    while isinstance(part, dict) and rng.random() < 0.7:
        inner = [value for value in part.values() if isinstance(value, dict)]
        if not inner:
            break
        part = rng.choice(inner)
    key = rng.choice([*part, "extra"])
    part[key] = rng.choice([None, -1, 0, 2**70, 1e308, "", [], {}, True, {"$array": "0"}])
    if rng.random() < 0.2:
        del part[key]
    header["__metadata__"] = {name: json.dumps(told)}
    header = json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


BYTES = [flipped, cut, inserted, removed, with_length]
MUTATIONS = {
    "model": [*BYTES, *[edited] * 8, *[with_property] * 2],
    "journal": [*BYTES, *[with_line] * 5],
    "value": [*BYTES, *[with_state] * 5],
}


def mutated(name, content, seed):
    """Return the name of a mutation and what it makes of a file."""
    rng = random.Random(seed)
    mutation = rng.choice(MUTATIONS[name.partition(" ")[0]])
    return f"{seed} {mutation.__name__} {name}", mutation(content, rng)


def encoded(parts):
    """Return fields as a message; numbers of fixed width come back as bytes."""
    data = b""
    for number, value in parts:
        if isinstance(value, int):
            data += varint(number << 3) + varint(value)
        else:
            data += varint(number << 3 | 2) + varint(len(value)) + value
    return data


def varint(value):
    data = b""
    while value > 127:
        data, value = data + bytes([value & 127 | 128]), value >> 7
    return data + bytes([value])

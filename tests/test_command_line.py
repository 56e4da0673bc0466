"""Tests of the command sk-metricopt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, get_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from sk_metricopt import EmbeddingRetriever, MetricOptFinetuner
from sk_metricopt._command_line import main
from sk_metricopt.export import OnnxPredictor, to_onnx
from tests.nets import classifier, trained
from tests.nets import table as net_table

N_ROWS = 60
CODES = ["1", "02", "?"]  # strings, most of which look like numbers


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    codes = rng.choice(CODES, N_ROWS)
    age = rng.integers(20, 60, N_ROWS)
    noise = rng.normal(size=N_ROWS)
    good = (age / 20 + (codes == "02") + noise > 2.5).astype(int)
    return pd.DataFrame({"age": age, "code": codes, "good": good, "note": "x, y"})


def export(frame: pd.DataFrame, y, path: Path) -> Path:
    """Write the file of a Pipeline on a column of numbers and one of strings."""
    X = frame[["age", "code"]].replace("?", np.nan)
    columns = make_column_transformer(
        (StandardScaler(), ["age"]), (OneHotEncoder(handle_unknown="ignore"), ["code"])
    )
    to_onnx(make_pipeline(columns, LogisticRegression()).fit(X, y), X, path, metadata={"by": "me"})
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    frame = table()
    export(frame, frame["good"], folder / "int.onnx")
    export(frame, frame["good"].map({0: "no", 1: "None"}), folder / "str.onnx")
    export(frame, frame["good"].astype(bool), folder / "bool.onnx")
    frame.to_csv(folder / "int.csv", index=False)
    frame.assign(good=frame["good"].map({0: "no", 1: "None"})).to_csv(
        folder / "str.csv", index=False
    )
    frame.assign(good=frame["good"].astype(bool)).to_csv(folder / "bool.csv.gz", index=False)
    return folder


def score(folder, model, data, *options):
    return main(
        ["score", str(folder / model), str(folder / data), "--target", "good", *map(str, options)]
    )


def error_of(capsys) -> str:
    """Return what was said on stderr, which has to be one line, and all that was said."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sk-metricopt: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("data", ["int.csv", "str.csv", "bool.csv.gz"])
@pytest.mark.parametrize("scoring", ["f1_macro", "roc_auc", "neg_log_loss"])
def test_score_is_what_the_scorer_says_of_the_predictor(folder, capsys, data, scoring):
    model = data.partition(".")[0] + ".onnx"
    options = ["--scoring", scoring, "--na-values", "?", "--json", "--batch-size", 7]
    assert score(folder, model, data, *options) == 0
    X = table()[["age", "code"]].replace("?", np.nan)
    predictor = OnnxPredictor(folder / model)
    y = predictor.classes_[table()["good"]]
    if data == "str.csv":
        y = table()["good"].map({0: "no", 1: "None"})
    found = json.loads(capsys.readouterr().out)
    assert found["score"] == get_scorer(scoring)(predictor, X, y)
    assert found["rows"] == N_ROWS


def test_rows_of_several_chunks_are_scored_together(folder, capsys, monkeypatch):
    monkeypatch.setattr("sk_metricopt._command_line._score._ROWS", 9)
    options = ["--scoring", "roc_auc", "--na-values", "?", "--batch-size", 4]
    assert score(folder, "int.onnx", "int.csv", *options) == 0
    X = table()[["age", "code"]].replace("?", np.nan)
    expected = get_scorer("roc_auc")(OnnxPredictor(folder / "int.onnx"), X, table()["good"])
    assert capsys.readouterr().out.split() == ["roc_auc", str(expected), "rows", str(N_ROWS)]


def test_positive_class_may_be_a_string(folder, capsys):
    options = ["--scoring", "f1", "--pos-label", "None", "--na-values", "?"]
    assert score(folder, "str.onnx", "str.csv", *options) == 0
    X = table()[["age", "code"]].replace("?", np.nan)
    y = table()["good"].map({0: "no", 1: "None"})
    expected = f1_score(y, OnnxPredictor(folder / "str.onnx").predict(X), pos_label="None")
    assert float(capsys.readouterr().out.split()[1]) == expected


@pytest.mark.parametrize(
    ("model", "options", "match"),
    [
        ("str", ["--scoring", "f1"], "--pos-label must say which class is the positive one"),
        ("str", ["--scoring", "f1", "--pos-label", "maybe"], "must be one of the classes"),
        ("str", ["--scoring", "f1_macro", "--pos-label", "no"], "must be left out"),
        ("int", ["--scoring", "f1_makro"], "Did you mean f1_macro"),
        ("int", ["--scoring", "f1_macro", "--batch-size", "0"], "'batch_size' parameter"),
        ("int", ["--scoring", "f1_macro", "--batch-size", "x"], "invalid int value"),
        ("int", ["--scoring", "f1_macro", "--adapter", "f1"], "'adapter' parameter"),
        ("int", ["--scoring", "f1_macro", "--device", "gpu"], "'device' parameter"),
        ("int", [], "--scoring"),
    ],
)
def test_bad_options_are_named_in_one_line(folder, capsys, model, options, match):
    assert score(folder, f"{model}.onnx", f"{model}.csv", *options) == 2
    assert match in error_of(capsys)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "cannot be read"),
        ("age,code,good\n", "at least one row"),
        ("age,code\n1,a\n", "without 'good'"),
        ("age,good\n1,1\n", "without 'code'"),
        ("age,code,good,age\n1,a,1,2\n", "'age' several times"),
        ("age,code,good\n1,a,1\nold,b,0\n", "Got 'old' in row 2"),
        ("age,code,good\n1,a,1\n2,b,7\n3,b,\n", "Got '7', '' instead, in 2 of 3 rows"),
        ("age,code,good\nr,1,a,1\n", "cannot be read"),
        ("age,code,good\n1,a,1\n1,a,b,1\n", "cannot be read"),
        (b"age,code,good\n1,\xff,1\n", "cannot be read"),
    ],
)
def test_bad_table_is_named_in_one_line(folder, tmp_path, capsys, text, match):
    path = tmp_path / "bad.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert score(folder, "int.onnx", path, "--scoring", "accuracy") == 2
    assert match in error_of(capsys)


def test_file_of_a_retriever_is_refused_with_the_next_step(folder, tmp_path, capsys):
    X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    path = tmp_path / "retriever.onnx"
    to_onnx(EmbeddingRetriever(nn.Linear(3, 2)).fit(X), X, path)
    assert score(folder, path, "int.csv", "--scoring", "accuracy") == 2
    assert "EmbeddingRetriever(FrozenEstimator" in error_of(capsys)


def test_array_without_names_takes_all_columns_but_the_target(folder, tmp_path, capsys):
    X, y = table()[["age"]].to_numpy("float32"), table()["good"]
    path = tmp_path / "array.onnx"
    to_onnx(LogisticRegression().fit(X, y), X, path)
    table()[["good", "age"]].to_csv(tmp_path / "one.csv", index=False)
    assert score(folder, path, tmp_path / "one.csv", "--scoring", "accuracy") == 0
    expected = (OnnxPredictor(path).predict(X) == y).mean()
    assert float(capsys.readouterr().out.split()[1]) == pytest.approx(expected)
    assert score(folder, path, "int.csv", "--scoring", "accuracy") == 2
    assert "must have 1 columns besides" in error_of(capsys)


def test_inspect_shows_inputs_outputs_classes_and_other_metadata(folder, capsys):
    assert main(["inspect", str(folder / "str.onnx")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["age", "tensor(float)", "[batch,", "1]"] in lines
    assert ["code", "tensor(string)", "[batch,", "1]"] in lines
    assert ["probabilities", "tensor(float)", "[batch,", "2]"] in lines
    assert ["classes", "'None',", "'no'"] in lines
    assert ["by", "me"] in lines
    assert ["opset", "ai.onnx", "18,"] in [line[:3] for line in lines]


def test_inspect_as_json_is_one_object(folder, capsys):
    assert main(["inspect", str(folder / "int.onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sk_metricopt"]["classes"] == [0, 1]
    assert found["opset"]["ai.onnx"] == 18
    assert found["metadata"] == {"by": "me"}
    assert found["bytes"] == (folder / "int.onnx").stat().st_size


def test_inspect_shows_foreign_files_and_does_nothing_to_the_terminal(tmp_path, capsys):
    from onnx import TensorProto, helper, save

    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 2]) for n in "ab"]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"note": "\x1b[31mred\nline", "sk_metricopt.classes": "{"})
    save(model, tmp_path / "foreign.onnx")
    assert main(["inspect", str(tmp_path / "foreign.onnx")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[31mred\\nline" in out
    assert "ai.onnx 17" in out


def test_inspect_of_no_model_is_named_in_one_line(tmp_path, capsys):
    (tmp_path / "text.onnx").write_text("no model")
    for name in ("text.onnx", "absent.onnx"):
        assert main(["inspect", str(tmp_path / name)]) == 2
        assert "'model' parameter" in error_of(capsys)


def test_missing_pandas_is_named_with_its_extra(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert score(folder, "int.onnx", "int.csv", "--scoring", "accuracy") == 2
    assert 'pip install "sk_metricopt[cli]"' in error_of(capsys)


def test_interrupt_exits_with_130(folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sk_metricopt._command_line._inspect.content_of", interrupt)
    assert main(["inspect", str(folder / "int.onnx")]) == 130


def in_process(code: str, **options) -> subprocess.CompletedProcess:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, **options)


def test_neither_command_imports_torch(folder):
    score = ["score", str(folder / "int.onnx"), str(folder / "int.csv"), "--target", "good"]
    code = f"""
import sys
from sk_metricopt._command_line import main
assert main({["inspect", str(folder / "int.onnx")]!r}) == 0
assert not {{"torch", "sklearn", "pandas", "onnx"}} & set(sys.modules)
assert main({[*score, "--scoring", "accuracy"]!r}) == 0
assert not {{"torch", "skorch", "onnx"}} & set(sys.modules)
"""
    done = in_process(code)
    assert done.returncode == 0, done.stderr


def test_broken_pipe_is_quiet(folder):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sk_metricopt", "inspect", str(folder / "int.onnx")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            command, env=environment, stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.fixture(scope="module")
def finetuners():
    """Two finetuners of one net, and the rows that they were fitted on."""
    X, y = net_table(2)
    net = FrozenEstimator(trained(classifier(), X, y))
    fitted = {
        scoring: MetricOptFinetuner(
            net, scoring=scoring, max_observations=8, guard_z=None, random_state=0
        ).fit(X, y)
        for scoring in ("recall", "precision")
    }
    return fitted, X, y


def test_adapters_of_a_file_are_shown_and_each_is_scored_by_its_name(finetuners, tmp_path, capsys):
    fitted, X, y = finetuners
    path = tmp_path / "model.onnx"
    to_onnx(fitted["recall"], X, path, adapters=fitted)
    pd.DataFrame(X).assign(good=y).to_csv(tmp_path / "data.csv", index=False)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "recall, precision" in shown and "has a default" in shown
    for name, finetuner in fitted.items():
        options = ["--scoring", "neg_log_loss", "--adapter", name, "--json"]
        assert score(tmp_path, "model.onnx", "data.csv", *options) == 0
        expected = get_scorer("neg_log_loss")(finetuner, X, y)
        assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(expected, abs=1e-4)
    assert score(tmp_path, "model.onnx", "data.csv", "--scoring", "recall", "--adapter", "f1") == 2
    assert "['recall', 'precision']" in error_of(capsys)


@pytest.mark.parametrize(
    "output, works, fails", [("label", "accuracy", "roc_auc"), ("probabilities", "roc_auc", "f1")]
)
def test_file_of_one_output_serves_the_scorers_that_ask_for_it(
    finetuners, tmp_path, capsys, output, works, fails
):
    fitted, X, y = finetuners
    to_onnx(fitted["recall"], X, tmp_path / "model.onnx", outputs=[output])
    pd.DataFrame(X).assign(good=y).to_csv(tmp_path / "data.csv", index=False)
    assert score(tmp_path, "model.onnx", "data.csv", "--scoring", works, "--json") == 0
    expected = get_scorer(works)(fitted["recall"], X, y)
    assert json.loads(capsys.readouterr().out)["score"] == pytest.approx(expected, abs=1e-3)
    assert score(tmp_path, "model.onnx", "data.csv", "--scoring", fails) == 2
    assert "Export the file with both of its outputs" in error_of(capsys)

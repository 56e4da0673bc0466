"""OnnxPredictor: a file as an estimator, of a classifier or for search."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from sk_metricopt import EmbeddingRetriever
from sk_metricopt._onnx_mixin import OnnxMixin
from sk_metricopt.export import OnnxPredictor, to_onnx
from sk_metricopt.metrics import make_retrieval_scorer
from tests.embedding_nets import N_FEATURES, ImageEmbedder, TokenEmbedder, embedder, labelled_points
from tests.nets import binary_classifier, classifier, table, tokens
from tests.onnx_files import foreign_model

X, Y = labelled_points()
QUERIES, QUERY_LABELS = labelled_points(n_rows=40)
CLASSES = {
    "int": np.array([-3, 5, 2**40]),
    "str": np.array(["an", "né", "漢字"]),
    "object": np.array(["an", "bo", "cy"], dtype=object),
    "bool": np.array([False, True]),
    "float": np.array([0.0, 1.0, 2.0]),
    "int8": np.array([1, 2, 3], dtype=np.int8),
}


class Classifier(OnnxMixin, ClassifierMixin, BaseEstimator):
    """A net on encoded labels, and the labels."""

    def fit(self, X, y):
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) == 2:
            self.estimator_ = binary_classifier(threshold=0.4).fit(X, encoded.astype(np.float32))
        else:
            self.estimator_ = classifier(module__n_classes=3).fit(X, encoded)
        return self

    def predict_proba(self, X):
        return self.estimator_.predict_proba(X)

    def predict(self, X):
        return self.classes_[self.estimator_.predict(X)]


def content_of(estimator, rows=X, **options):
    return to_onnx(estimator, rows, **options).SerializeToString()


@functools.cache
def fitted_classifier(kind="str"):
    classes = CLASSES[kind]
    rows, y = table(len(classes))
    return Classifier().fit(rows, classes[y])


@functools.cache
def fitted_retriever(metric="cosine"):
    return EmbeddingRetriever(embedder(), metric=metric, random_state=0).fit(X, Y)


@functools.cache
def classifier_content(kind="str", labels="class"):
    return content_of(fitted_classifier(kind), table()[0][:20], labels=labels)


@functools.cache
def retriever_content(metric="cosine"):
    return content_of(fitted_retriever(metric))


@functools.cache
def named_content():
    frame = pd.DataFrame(X, columns=list("abcdef"))
    return content_of(EmbeddingRetriever(embedder(), random_state=0).fit(frame, Y), frame)


# What it says


@pytest.mark.parametrize(
    "kind, labels", [*((kind, "class") for kind in CLASSES), ("str", "index"), ("bool", "index")]
)
def test_file_of_a_classifier_predicts_as_the_classifier(kind, labels):
    estimator = fitted_classifier(kind)
    predictor = OnnxPredictor(classifier_content(kind, labels))
    rows, y = table(len(CLASSES[kind]))
    predicted = predictor.predict(rows)
    np.testing.assert_array_equal(predicted, estimator.predict(rows))
    assert predicted.dtype == estimator.predict(rows).dtype
    np.testing.assert_array_equal(predictor.classes_, estimator.classes_)
    assert predictor.classes_.dtype == estimator.classes_.dtype
    np.testing.assert_allclose(
        predictor.predict_proba(rows), estimator.predict_proba(rows), atol=1e-5
    )
    for weight in (None, np.arange(len(y))):
        expected = estimator.score(rows, CLASSES[kind][y], sample_weight=weight)
        assert predictor.score(rows, CLASSES[kind][y], sample_weight=weight) == expected


def test_classes_that_onnx_cannot_hold_come_back_from_their_index():
    estimator = copy.copy(fitted_classifier("int"))
    estimator.classes_ = np.array(["2020", "2021", "2022"], dtype="datetime64[Y]")
    rows = table(3)[0]
    predictor = OnnxPredictor(content_of(estimator, rows, labels="index"))
    np.testing.assert_array_equal(predictor.predict(rows), estimator.predict(rows))


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_file_of_a_retriever_transforms_as_the_retriever(metric):
    predictor = OnnxPredictor(retriever_content(metric))
    expected = fitted_retriever(metric).transform(QUERIES)
    np.testing.assert_allclose(predictor.transform(QUERIES), expected, atol=1e-5)
    assert predictor.metric == metric


def test_methods_and_attributes_are_those_the_file_has_outputs_for():
    labelling, embedding = OnnxPredictor(classifier_content()), OnnxPredictor(retriever_content())
    for name in ("predict", "predict_proba", "score", "classes_"):
        assert hasattr(labelling, name) and not hasattr(embedding, name)
    for name in ("transform", "metric"):
        assert hasattr(embedding, name) and not hasattr(labelling, name)
    assert is_classifier(labelling) and not is_classifier(embedding)


def in_memory(kind):
    return lambda path: kind(path.read_bytes())


@pytest.mark.parametrize(
    "read", [str, lambda path: path, *map(in_memory, (bytes, bytearray, memoryview, np.bytes_))]
)
def test_model_may_be_a_path_or_its_bytes(read, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(retriever_content())
    predictor = OnnxPredictor(read(path))
    other = clone(predictor)
    path.unlink()
    assert predictor.transform(X[:3]).shape == other.transform(X[:3]).shape == (3, 4)
    assert len(repr(predictor)) < 300


@pytest.mark.parametrize(
    "convert",
    [np.float64, np.ndarray.tolist, torch.from_numpy, np.asfortranarray, pd.DataFrame],
)
def test_X_may_be_any_array_like(convert):
    predictor = OnnxPredictor(retriever_content())
    expected = predictor.transform(QUERIES)
    np.testing.assert_array_equal(predictor.transform(convert(QUERIES)), expected)


def test_images_and_tokens_are_taken_as_the_net_took_them():
    rng = np.random.default_rng(0)
    for module, rows in [
        (ImageEmbedder(), rng.normal(size=(9, 2, 8, 8))),
        (TokenEmbedder(), rng.integers(0, 10, size=(9, 5))),
    ]:
        retriever = EmbeddingRetriever(module).fit(rows)
        predictor = OnnxPredictor(content_of(retriever, rows))
        np.testing.assert_allclose(
            predictor.transform(rows.astype(np.float64)), retriever.transform(rows), atol=1e-5
        )
        assert hasattr(predictor, "n_features_in_") == (rows.ndim == 2)


@pytest.mark.parametrize("batch_size", [None, 1, 7, np.int64(5000)])
def test_many_rows_are_run_in_parts(batch_size):
    predictor = OnnxPredictor(retriever_content(), batch_size=batch_size)
    rows = np.resize(X, (3000, N_FEATURES))
    expected = fitted_retriever().transform(rows)
    np.testing.assert_allclose(predictor.transform(rows), expected, atol=1e-5)


def test_no_rows_give_nothing_of_the_right_shape_and_dtype():
    rows = table(3)[0][:0]
    predictor = OnnxPredictor(classifier_content("int"))
    assert predictor.predict(rows).shape == (0,) and predictor.predict(rows).dtype == np.int64
    assert predictor.predict_proba(rows).shape == (0, 3)
    assert predictor.predict_proba(rows).dtype == np.float32


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.0, "8"])
def test_batch_size_that_is_none_is_refused(batch_size):
    predictor = OnnxPredictor(retriever_content())
    with pytest.raises(ValueError, match="'batch_size' parameter of OnnxPredictor must be an int"):
        predictor.set_params(batch_size=batch_size)
    assert predictor.batch_size is None and predictor.transform(X).shape == (len(X), 4)


# As a citizen of scikit-learn


def through_pickle(predictor, folder):
    return pickle.loads(pickle.dumps(predictor))


def through_joblib(predictor, folder):
    joblib.dump(predictor, folder / "predictor.joblib")
    return joblib.load(folder / "predictor.joblib")


@pytest.mark.parametrize("through", [through_pickle, through_joblib])
def test_pickle_holds_the_model(through, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(classifier_content())
    predictor = OnnxPredictor(path)
    loaded = through(predictor, tmp_path)
    path.unlink()
    rows = table()[0]
    np.testing.assert_array_equal(loaded.predict(rows), predictor.predict(rows))


@pytest.mark.parametrize("duplicate", [clone, copy.copy, copy.deepcopy])
def test_copies_and_clones_are_fitted(duplicate):
    predictor = OnnxPredictor(retriever_content())
    other = duplicate(predictor)
    check_is_fitted(other)
    np.testing.assert_array_equal(other.transform(X), predictor.transform(X))


def test_content_of_a_file_prints_as_its_size():
    content = retriever_content()
    predictor = OnnxPredictor(content)
    assert repr(predictor) == f"OnnxPredictor(model=<{len(content)} bytes>)"
    assert predictor.get_params() == {
        "model": content,
        "device": "cpu",
        "provider_options": None,
        "batch_size": None,
        "adapter": None,
    }
    assert len(pickle.dumps(predictor)) < 1.5 * len(content)


def test_fit_changes_nothing():
    predictor = OnnxPredictor(classifier_content())
    rows, y = table(3)
    expected = predictor.predict_proba(rows)
    assert predictor.fit(rows[:1], y[:1]) is predictor
    np.testing.assert_array_equal(predictor.predict_proba(rows), expected)


def test_set_params_reads_the_new_model_and_nothing_of_the_old_is_left(tmp_path):
    predictor = OnnxPredictor(classifier_content())
    assert predictor.set_params(model=retriever_content()) is predictor
    assert hasattr(predictor, "transform") and not hasattr(predictor, "classes_")
    with pytest.raises(FileNotFoundError):
        predictor.set_params(model=tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="Invalid parameter 'path'"):
        predictor.set_params(path="model.onnx")
    assert predictor.model == retriever_content()
    assert repr(predictor) == f"OnnxPredictor(model=<{len(retriever_content())} bytes>)"
    assert predictor.transform(X).shape == (len(X), 4)


def test_parameters_are_set_without_the_file_being_there_still(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(retriever_content())
    predictor = OnnxPredictor(path)
    path.unlink()
    predictor.set_params(device="CPUExecutionProvider").set_params(batch_size=3)
    assert predictor.model == path and predictor.transform(X).shape == (len(X), 4)


def test_set_params_of_an_adapter_or_batch_size_keeps_the_session():
    predictor = OnnxPredictor(retriever_content())
    session = predictor._opened().session
    assert predictor.set_params(batch_size=3)._opened().session is session
    assert predictor.set_params(device="cpu")._opened().session is not session


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_forked_process_opens_a_session_of_its_own():
    # In a process of its own, so that the child has no threads of torch to inherit.
    script = textwrap.dedent(
        """
        import os, signal, sys
        import numpy as np
        from sk_metricopt.export import OnnxPredictor
        predictor = OnnxPredictor(sys.stdin.buffer.read())
        X = np.ones((900, 3), dtype=np.float32)
        expected = predictor.transform(X)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if (predictor.transform(X) == expected).all() else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    content = foreign_model(output="embeddings")
    done = subprocess.run([sys.executable, "-c", script], input=content, timeout=120)
    assert done.returncode == 0


def test_predictor_works_in_other_processes():
    predictor = OnnxPredictor(retriever_content())
    got = joblib.Parallel(n_jobs=2)(joblib.delayed(predictor.transform)(X) for _ in range(2))
    for embeddings in got:
        np.testing.assert_array_equal(embeddings, predictor.transform(X))


def test_classifier_file_works_in_the_tools_of_scikit_learn():
    rows, y = table(3)
    names = CLASSES["str"][y]
    predictor = OnnxPredictor(classifier_content())
    pipeline = make_pipeline(FunctionTransformer(), predictor).fit(rows, names)
    assert (pipeline.predict(rows) == predictor.predict(rows)).all()
    assert cross_val_score(predictor, rows, names, scoring="roc_auc_ovr", cv=3).min() > 0.5
    assert permutation_importance(predictor, rows, names, n_repeats=2)["importances_mean"].max() > 0
    calibrated = CalibratedClassifierCV(FrozenEstimator(predictor)).fit(rows, names)
    assert calibrated.predict_proba(rows).shape == (300, 3)


def test_threads_share_one_predictor():
    predictor = pickle.loads(pickle.dumps(OnnxPredictor(retriever_content())))
    expected = predictor.transform(X)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: predictor.transform(X), range(20)):
            np.testing.assert_array_equal(got, expected)


# Search by a file


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_search_by_a_file_finds_what_the_retriever_finds(metric, tmp_path):
    retriever = fitted_retriever(metric)
    path = tmp_path / "model.onnx"
    path.write_bytes(retriever_content(metric))
    predictor = OnnxPredictor(path)
    search = EmbeddingRetriever(FrozenEstimator(predictor), metric=predictor.metric).fit(X, Y)
    search = pickle.loads(pickle.dumps(search))
    for queries in (QUERIES, None):
        distance, index = search.kneighbors(queries, n_neighbors=3)
        expected, expected_index = retriever.kneighbors(queries, n_neighbors=3)
        np.testing.assert_array_equal(index, expected_index)
        np.testing.assert_allclose(distance, expected, atol=1e-5)
    np.testing.assert_array_equal(search.predict(QUERIES), retriever.predict(QUERIES))
    assert search.score(QUERIES, QUERY_LABELS) == retriever.score(QUERIES, QUERY_LABELS)
    assert isinstance(search.estimator_, OnnxPredictor)


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_search_by_another_metric_than_the_files_is_refused(metric):
    predictor = OnnxPredictor(retriever_content(metric))
    with pytest.raises(ValueError, match=f"Got 'cosine' instead. Pass metric='{metric}'"):
        EmbeddingRetriever(FrozenEstimator(predictor)).fit(X)


def test_search_by_a_file_needs_no_labels_and_takes_other_galleries():
    search = EmbeddingRetriever(FrozenEstimator(OnnxPredictor(retriever_content()))).fit(X)
    search.set_gallery(QUERIES, QUERY_LABELS)
    expected = copy.copy(fitted_retriever()).set_gallery(QUERIES, QUERY_LABELS)
    np.testing.assert_array_equal(search.predict(X), expected.predict(X))


def test_search_by_a_file_takes_frames_with_the_columns_of_the_fit():
    frame = pd.DataFrame(X, columns=list("abcdef"))
    search = EmbeddingRetriever(FrozenEstimator(OnnxPredictor(named_content()))).fit(frame, Y)
    assert search.kneighbors(frame[:2], n_neighbors=1, return_distance=False).tolist() == [[0], [1]]
    with pytest.raises(ValueError, match="must have the columns of fit in their order"):
        search.kneighbors(frame[list("fedcba")])


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_retrieval_scorers_compare_the_embeddings_as_the_file_says(metric):
    scorer = make_retrieval_scorer("mean_average_precision_at_r")
    expected = scorer(fitted_retriever(metric), QUERIES, QUERY_LABELS)
    predictor = OnnxPredictor(retriever_content(metric))
    assert scorer(predictor, QUERIES, QUERY_LABELS) == pytest.approx(expected, abs=1e-6)


# Errors


def test_wrong_columns_are_refused():
    predictor = OnnxPredictor(named_content())
    frame = pd.DataFrame(X, columns=list("abcdef"))
    assert predictor.feature_names_in_.tolist() == list("abcdef")
    assert predictor.transform(frame).shape == (len(X), 4)
    with pytest.raises(ValueError, match=r"must have rows of shape \(6,\). Got .* \(96, 5\)"):
        OnnxPredictor(retriever_content()).transform(X[:, :5])
    with pytest.raises(ValueError, match="columns of fit in their order. Got columns in another"):
        predictor.transform(frame[list("fedcba")])
    with pytest.raises(ValueError, match=r"Got columns without \['a'\]"):
        predictor.transform(frame.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match="must have rows of shape"):
        predictor.transform({"a": X})
    with pytest.raises(TypeError, match="must have numbers in values"):
        predictor.transform(frame.astype(str))


def test_rows_of_another_shape_are_refused():
    images = np.ones((3, 2, 8, 8), dtype=np.float32)
    retriever = EmbeddingRetriever(ImageEmbedder()).fit(images)
    predictor = OnnxPredictor(content_of(retriever, images))
    with pytest.raises(ValueError, match="'X' parameter of OnnxPredictor must have rows of shape"):
        predictor.transform(images[:, :, :4])


def test_rows_that_the_runtime_refuses_are_named():
    rows = tokens()[0]
    predictor = OnnxPredictor(content_of(EmbeddingRetriever(TokenEmbedder()).fit(rows), rows))
    with pytest.raises(ValueError, match="'X' parameter of OnnxPredictor .* onnxruntime failed"):
        predictor.transform(rows + 100)


@pytest.mark.parametrize(
    "model, error, message",
    [
        ("no_such_file.onnx", FileNotFoundError, "must be a file. Got 'no_such_file.onnx'"),
        (b"", ValueError, "must be an ONNX model that onnxruntime can load. Got 0 bytes"),
        (b"no model", ValueError, "must be an ONNX model that onnxruntime can load. Got 8 bytes"),
        (None, TypeError, "must be a path or bytes. Got a NoneType instead"),
        (onnx.ModelProto(), TypeError, r".* Got a ModelProto .* model.SerializeToString\(\)"),
    ],
)
def test_model_that_is_none_is_refused_by_name(model, error, message):
    with pytest.raises(error, match=f"'model' parameter of OnnxPredictor {message}"):
        OnnxPredictor(model)


def test_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(retriever_content()[:-50])
    with pytest.raises(ValueError, match="'model' parameter of OnnxPredictor .* that it cannot"):
        OnnxPredictor(path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output": "out"}, r"must have outputs .* Got \['out'\] instead"),
        ({"output": "embeddings", "width": "columns"}, "must have one input 'X' with rows of a"),
        ({"output": "embeddings", "dtype": onnx.TensorProto.BOOL}, "must have one input 'X'"),
    ],
)
def test_model_of_another_kind_is_refused(options, message):
    with pytest.raises(ValueError, match=f"{message}.* Write it with to_onnx"):
        OnnxPredictor(foreign_model(**options))


@pytest.mark.parametrize(
    "output, method", [("label", "predict"), ("probabilities", "predict_proba")]
)
def test_file_with_one_output_of_a_classifier_has_its_method_alone(output, method):
    predictor = OnnxPredictor(foreign_model(output=output))
    np.testing.assert_array_equal(getattr(predictor, method)(np.eye(3)), np.eye(3))
    methods = {"predict", "predict_proba", "score", "transform"}
    others = methods - {method} - ({"score"} if output == "label" else set())
    assert not any(hasattr(predictor, other) for other in others)


def test_model_without_our_metadata_is_run_as_it_is():
    predictor = OnnxPredictor(foreign_model(output="embeddings"))
    np.testing.assert_array_equal(predictor.transform(np.eye(3)), np.eye(3))
    assert predictor.n_features_in_ == 3 and not hasattr(predictor, "metric")


def test_missing_runtime_is_named_with_what_installs_it(monkeypatch):
    content = retriever_content()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"'onnxruntime'.*pip install \"sk_metricopt\[cpu\]\""):
        OnnxPredictor(content)

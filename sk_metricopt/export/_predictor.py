"""OnnxPredictor: an exported file as a scikit-learn estimator."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import accuracy_score
from sklearn.utils import ClassifierTags, TransformerTags
from sklearn.utils.metaestimators import available_if

from sk_metricopt import _validation
from sk_metricopt._optional import import_optional_dependency
from sk_metricopt.export._metadata import PREFIX
from sk_metricopt.export._runtime import CPU, open_session, run

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def _has_output(name: str):
    """Whether the file has an output called `name`."""
    return lambda self: name in self._outputs


class OnnxPredictor(BaseEstimator):
    """Run a file that `to_onnx` wrote, by onnxruntime and without torch modules.

    The estimator is fitted from the start, and has the methods that the file has outputs for:
    `predict` and `predict_proba` those of a classifier, `transform` those of a retriever.

    Parameters
    ----------
    model : str, path-like or bytes
        An ONNX file, or what is in one. It is read when the estimator is made; a pickle holds it.
    providers : list or None, default=None
        Execution providers of onnxruntime in order of preference, as names or as tuples
        ``(name, options)``. None is the CPU. The first has to be there: nothing falls back to the
        CPU unnoticed.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, of a classifier.
    metric : str
        How embeddings are to be compared, of a retriever.
    n_features_in_ : int
        Number of features, for two-dimensional `X`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where the exported estimator was fitted on some.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an ONNX model with the outputs of a classifier or of a retriever, or a provider
        is not there.
    ImportError
        If onnxruntime is missing.

    See Also
    --------
    to_onnx : Writes the file.
    sk_metricopt.EmbeddingRetriever : Searches by the embeddings of a file.

    Notes
    -----
    ``FrozenEstimator(OnnxPredictor(file))`` is an embedder like any other, so that
    ``EmbeddingRetriever(FrozenEstimator(OnnxPredictor(file)), metric=...)`` searches by a file:
    its `fit` embeds the gallery, its ``kneighbors`` the queries.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sk_metricopt import EmbeddingRetriever
    >>> from sk_metricopt.export import OnnxPredictor, to_onnx
    >>> X = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")
    >>> retriever = EmbeddingRetriever(torch.nn.Linear(6, 3)).fit(X)
    >>> predictor = OnnxPredictor(to_onnx(retriever, X).SerializeToString())
    >>> predictor.transform(X).shape
    (20, 3)
    >>> search = EmbeddingRetriever(FrozenEstimator(predictor), metric=predictor.metric).fit(X)
    >>> search.kneighbors(X[:2], n_neighbors=1, return_distance=False).ravel()
    array([0, 1])
    """

    def __init__(self, model, *, providers=None):
        # The one parameter that is not kept as it came: printing it would take minutes.
        self.model = _Content(model) if type(model) is bytes else model
        self.providers = providers
        self._content = _content_of(self.model)
        self._session = None
        self._read()

    def fit(self, X, y=None):
        """Return the estimator as it is: it was fitted before it was exported.

        Parameters
        ----------
        X : object
            Not used.
        y : object, default=None
            Not used.

        Returns
        -------
        self : OnnxPredictor
        """
        return self

    def set_params(self, **params):
        """Set parameters, and read the model anew.

        Parameters
        ----------
        **params : dict
            Those of the constructor.

        Returns
        -------
        self : OnnxPredictor
        """
        # On a copy, so that a model that cannot be read leaves this one whole.
        changed = super(OnnxPredictor, copy.copy(self)).set_params(**params)
        self.__dict__ = type(self)(**changed.get_params(deep=False)).__dict__
        return self

    @available_if(_has_output("label"))
    def predict(self, X):
        """Return the labels that the file gives.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples,)
            Values of `classes_`.
        """
        label = self._run("label", X)
        if self._properties.get("labels") == "index":
            return self.classes_[label]
        return label.astype(self.classes_.dtype) if hasattr(self, "classes_") else label

    @available_if(_has_output("probabilities"))
    def predict_proba(self, X):
        """Return the probabilities that the file gives.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Columns are in the order of `classes_`.
        """
        return self._run("probabilities", X)

    @available_if(_has_output("label"))
    def score(self, X, y):
        """Return the share of labels that are right.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        float
        """
        return accuracy_score(y, self.predict(X))

    @available_if(_has_output("embeddings"))
    def transform(self, X):
        """Return the embeddings that the file gives.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Of length 1 where `metric` is "cosine".
        """
        return self._run("embeddings", X)

    def _run(self, name: str, X) -> np.ndarray:
        rows = _validation.features(self, X, self._dtype)
        try:
            return run(self._opened(), [name], rows)[name]
        except Exception as exc:
            raise ValueError(
                "The 'X' parameter of OnnxPredictor must be rows that its model takes. Got rows of "
                f"shape {rows.shape[1:]} on which onnxruntime failed: {exc}. Pass rows like those "
                "the exported estimator was fitted on (indices within the range of its table)."
            ) from exc

    def _opened(self):
        """Return the session; a copy of this estimator makes its own."""
        if self._session is None:
            self._session = _open(self._content, self.providers)
        return self._session

    def _read(self) -> None:
        """Set the attributes that the model tells."""
        session = self._opened()
        self._outputs = [output.name for output in session.get_outputs()]
        found = session.get_modelmeta().custom_metadata_map
        ours = {k.removeprefix(PREFIX): v for k, v in found.items() if k.startswith(PREFIX)}
        self._properties = ours
        self._dtype, shape = _input_of(session, self._outputs)
        if len(shape) == 1:
            self.n_features_in_ = shape[0]
        else:
            self._sample_shape = shape
        if "feature_names" in ours and len(shape) == 1:
            self.feature_names_in_ = np.array(json.loads(ours["feature_names"]), dtype=object)
        if "classes" in ours:
            self.classes_ = np.array(json.loads(ours["classes"]), dtype=ours["classes_dtype"])
        if "metric" in ours:
            self.metric = ours["metric"]

    def __getstate__(self):
        return {**super().__getstate__(), "_session": None}  # a session cannot be pickled

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        if "label" in self._outputs:
            tags.estimator_type = "classifier"
            tags.classifier_tags = ClassifierTags()
        if "embeddings" in self._outputs:
            tags.transformer_tags = TransformerTags(preserves_dtype=[])
        return tags


class _Content(bytes):
    """What is in a file; prints as its size."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


def _content_of(model) -> bytes:
    if isinstance(model, bytes):
        return model
    if not isinstance(model, str | os.PathLike):
        raise TypeError(
            "The 'model' parameter of OnnxPredictor must be a path or bytes. "
            f"Got a {type(model).__name__} instead. Of what to_onnx returned, pass "
            "model.SerializeToString()."
        )
    if not Path(model).is_file():
        raise FileNotFoundError(
            "The 'model' parameter of OnnxPredictor must be a file. "
            f"Got {os.fspath(model)!r} instead. Write it with to_onnx(estimator, X, path)."
        )
    return Path(model).read_bytes()


def _open(content: bytes, providers):
    """Return a session on the provider asked for, or say why there is none."""
    asked = _checked(providers)
    first = asked[0] if isinstance(asked[0], str) else asked[0][0]
    try:
        session = open_session(content, asked)
    except Exception as exc:
        raise ValueError(
            "The 'model' parameter of OnnxPredictor must be an ONNX model that onnxruntime can "
            f"load. Got {len(content)} bytes that it cannot: {exc}. Export again; a file that is "
            "newer than the runtime needs a newer onnxruntime or a lower opset."
        ) from exc
    if session.get_providers()[0] != first:
        raise ValueError(
            f"The 'providers' parameter of OnnxPredictor must start with a provider that works. "
            f"Got {first!r}, which onnxruntime could not start: it fell back to "
            f"{session.get_providers()[0]!r}. Check its driver and libraries, or leave "
            "'providers' out to run on the CPU."
        )
    return session


def _checked(providers) -> list[Any]:
    """Return `providers` as onnxruntime takes them, once it says that it has them."""
    onnxruntime = import_optional_dependency("onnxruntime", "cpu")
    if providers is None:
        return [CPU]
    available = onnxruntime.get_available_providers()
    valid = isinstance(providers, list | tuple) and len(providers) > 0
    if not valid or any((p if isinstance(p, str) else p[0]) not in available for p in providers):
        raise ValueError(
            "The 'providers' parameter of OnnxPredictor must be None or a list of providers that "
            f"this onnxruntime has, {available}. Got {providers!r} instead. Leave it out to run on "
            'the CPU; pip install "sk_metricopt[gpu]" in place of [cpu] brings CUDA.'
        )
    return list(providers)


def _input_of(session, outputs: list[str]) -> tuple[type, tuple[int, ...]]:
    """Return dtype and shape of a row, or say that the model is of another kind."""
    inputs = session.get_inputs()
    known = "embeddings" in outputs or {"label", "probabilities"} <= set(outputs)
    if known and len(inputs) == 1 and inputs[0].type in _DTYPES:
        shape = tuple(inputs[0].shape[1:])
        if all(isinstance(length, int) for length in shape):
            return _DTYPES[inputs[0].type], shape
    taken = ", ".join(f"{value.name}: {value.type} of {value.shape}" for value in inputs)
    raise ValueError(
        "The 'model' parameter of OnnxPredictor must have one numeric input with rows of a fixed "
        "shape, and the outputs 'label' and 'probabilities', or 'embeddings'. "
        f"Got inputs ({taken}) and outputs {outputs} instead. Write it with to_onnx."
    )

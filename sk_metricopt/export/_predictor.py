"""OnnxPredictor: an exported file as a scikit-learn estimator."""

from __future__ import annotations

import copy
import os
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.metrics import accuracy_score
from sklearn.utils import ClassifierTags, TransformerTags
from sklearn.utils.metaestimators import available_if

from sk_metricopt.export._adapter_choice import AdapterChoice
from sk_metricopt.export._content import Content, content_of
from sk_metricopt.export._device import open_on
from sk_metricopt.export._device_run import FixedRunner, Runner, bindable, check_fixed
from sk_metricopt.export._inputs import inputs_of
from sk_metricopt.export._properties import classes_of, feature_names_of, properties_of

if TYPE_CHECKING:
    import torch

_OUTPUTS = ("label", "probabilities", "embeddings")
# Sessions of a parent process: freeing one after a fork would wait forever.
_kept: list[object] = []
_GRAPH_OPTIONS = ("enable_cuda_graph", "trt_cuda_graph_enable")  # of CUDA and of TensorRT


def _has_output(name: str):
    """Whether the file has an output called `name`."""
    return lambda self: name in self._outputs


class OnnxPredictor(BaseEstimator):
    """Run a file that `to_onnx` wrote, by onnxruntime and without torch modules.

    The estimator is fitted from the start, and has the methods that the file has outputs for:
    `predict` and `predict_proba` those of a classifier, `transform` those of a retriever.

    Parameters
    ----------
    model : str, path-like, bytes, bytearray or memoryview
        An ONNX file, or what is in one. It is read when the estimator is made; a pickle holds it.
        Tensors that it keeps in other files are not read.
    device : str, default='cpu'
        Where it runs: 'cpu'; 'cuda', or 'cuda:1' for another GPU than the first; 'auto' for CUDA
        where that works and the CPU elsewhere, with a warning; or an execution provider by its
        name in onnxruntime, such as 'TensorrtExecutionProvider'. A device that was asked for
        works or is refused: nothing falls back to the CPU unnoticed.
    provider_options : dict or None, default=None
        Options of that device, in the words of onnxruntime. ``{'enable_cuda_graph': '1'}``
        together with `batch_size` replays a CUDA graph of that many rows.
    batch_size : int or None, default=None
        Rows per run. None is 1024, and all at once in `run_tensors`.
    adapter : str, int, array-like of shape (n_params,) or None, default=None
        Which adapter to run with, of a file that has several or takes any: one of
        `adapters_`, its index where the file numbers them, or parameters where it takes any. None
        is the default of the file.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, of a classifier.
    metric : str
        How embeddings are to be compared, of a retriever.
    adapters_ : list of str
        Adapters that the file knows by name.
    n_features_in_ : int
        Number of features, for two-dimensional `X`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where the exported estimator was fitted on some.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    OSError
        If it cannot be read.
    ValueError
        If it is not an ONNX model with the outputs of a classifier or of a retriever, or would
        take far more memory than its size tells, or its properties do not fit it, or the device
        does not run it.
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

    On a GPU, onnxruntime leaves what has no kernel there on the CPU, such as strings and the trees
    of scikit-learn, and copies between the two. Export with ``labels='index'`` for a graph without
    strings; `predict` returns the same. A device that would run no node at all is refused.

    Files take numbers as float32: a number beyond its range becomes infinite, with a warning of
    numpy.

    Threads may share one estimator. A pickle and a forked process open a session of their own.

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

    def __init__(
        self, model, *, device="cpu", provider_options=None, batch_size=None, adapter=None
    ):
        # The one parameter that is not kept as it came: printing it would take minutes.
        self.model = Content.of(model)
        self.device = device
        self.provider_options = provider_options
        self.batch_size = batch_size
        self.adapter = adapter
        self._content = content_of(self.model)
        self._runner: Any = None
        self._read(self._open())

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
        """Set parameters, and open the model anew where that takes it.

        Parameters
        ----------
        **params : dict
            Those of the constructor. Another `adapter` or `batch_size` keeps the session.

        Returns
        -------
        self : OnnxPredictor
        """
        # On a copy, so that parameters that do not go together leave this one whole.
        changed = super(OnnxPredictor, copy.copy(self)).set_params(**params)
        if params.keys() <= {"adapter", "batch_size"}:
            changed._take(self._session())
        else:
            asked = changed.get_params(deep=False)
            if "model" in params:
                changed = type(self)(**asked)
            else:  # the file may be gone by now
                changed = type(self)(**{**asked, "model": self._content})
                changed.model = self.model
        self.__dict__ = changed.__dict__
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
            return self._classes_at(label)
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
    def score(self, X, y, sample_weight=None):
        """Return the share of labels that are right.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), default=None
            How much each row counts. None is the same for all.

        Returns
        -------
        float
        """
        return accuracy_score(y, self.predict(X), sample_weight=sample_weight)

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

    def run_tensors(self, X: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return all outputs as tensors on the device of `X`, with no copy through the host.

        Parameters
        ----------
        X : Tensor of shape (n_samples, n_features) or (n_samples, ...)
            On the device of the predictor, of the dtype of the graph's input (float32, or int64
            for a table of embeddings).

        Returns
        -------
        dict of str to Tensor of shape (n_samples, ...)
            By the names of the outputs: 'label' as the file holds it, which is the index of a
            class with ``labels='index'``, 'probabilities', 'embeddings'. Labels that are strings
            are left out: no tensor holds them.

        Raises
        ------
        TypeError, ValueError
            If `X` is of another dtype or shape or elsewhere, or the file has several inputs.

        Examples
        --------
        >>> import torch
        >>> from sk_metricopt import EmbeddingRetriever
        >>> from sk_metricopt.export import OnnxPredictor, to_onnx
        >>> X = torch.eye(4)
        >>> retriever = EmbeddingRetriever(torch.nn.Linear(4, 2)).fit(X.numpy())
        >>> predictor = OnnxPredictor(to_onnx(retriever, X.numpy()).SerializeToString())
        >>> predictor.run_tensors(X)["embeddings"].shape
        torch.Size([4, 2])
        """
        runner = self._opened()
        return runner.run_tensors(bindable(runner.session), X)

    def _run(self, name: str, X) -> np.ndarray:
        feed = self._inputs.feed(X)
        runner = self._opened()
        try:
            return runner.run([name], feed)[name]
        except Exception as exc:
            raise ValueError(
                "The 'X' parameter of OnnxPredictor must be rows that its model takes. Got rows of "
                f"shape {self._inputs.row_shape} on which onnxruntime failed: {exc}. Pass rows "
                "like those the exported estimator was fitted on (indices within the range of its "
                "table), and a smaller batch_size where memory ran out."
            ) from exc

    def _classes_at(self, index: np.ndarray) -> np.ndarray:
        n_classes = len(self.classes_)
        if index.size and not 0 <= index.min() <= index.max() < n_classes:
            raise ValueError(
                "The 'model' parameter of OnnxPredictor must give labels that index its "
                f"{n_classes} classes. Got indices from {index.min()} to {index.max()} instead. "
                "Export again."
            )
        return self.classes_[index]

    def _opened(self) -> Runner | FixedRunner:
        """Return what runs rows; a copy of this estimator and a forked process make their own."""
        if self._runner is None:
            self._take(self._open())
        elif self._runner_pid != os.getpid():
            _kept.append(self._runner)
            self._take(self._open())
        return self._runner

    def _open(self):
        return open_on(self._content, self.device, self.provider_options)

    def _session(self):
        """Return a session for other runs; one that caught a CUDA graph can replay only that."""
        return self._open() if self._is_fixed() else self._opened().session

    def _is_fixed(self) -> bool:
        options = self.provider_options or {}
        return any(str(options.get(name, 0)).lower() in ("1", "true") for name in _GRAPH_OPTIONS)

    def _take(self, session) -> None:
        """Run by `session` from now on, with the parameters as they are."""
        size = self.batch_size
        valid = isinstance(size, Integral) and not isinstance(size, bool) and size > 0
        if size is not None and not valid:
            raise ValueError(
                "The 'batch_size' parameter of OnnxPredictor must be an int of at least 1 or None. "
                f"Got {size!r} instead."
            )
        constants = AdapterChoice(session, self._properties).feed(self.adapter)
        if self._is_fixed():
            check_fixed(session, size)
            self._runner = FixedRunner(session, size, constants)
        else:
            self._runner = Runner(session, size, constants)
        self._runner_pid = os.getpid()

    def _read(self, session) -> None:
        """Set the attributes that the model tells."""
        self._properties = properties_of(session)
        self._outputs = [output.name for output in session.get_outputs()]
        if not set(self._outputs) & set(_OUTPUTS):
            raise ValueError(
                "The 'model' parameter of OnnxPredictor must have outputs 'label' and "
                f"'probabilities', one of these, or 'embeddings'. Got {self._outputs} instead. "
                "Write it with to_onnx."
            )
        names = feature_names_of(session, self._properties)
        self._inputs = inputs_of(session, names, "OnnxPredictor")
        if len(self._inputs.row_shape) == 1:
            self.n_features_in_ = self._inputs.row_shape[0]
            if self._inputs.names is not None:
                self.feature_names_in_ = np.array(self._inputs.names, dtype=object)
        classes = classes_of(session, self._properties)
        if classes is not None:
            self.classes_ = classes
        if "metric" in self._properties:
            self.metric = self._properties["metric"]
        self.adapters_ = AdapterChoice(session, self._properties).names
        self._take(session)

    def __getstate__(self):
        return {**super().__getstate__(), "_runner": None}  # a session cannot be pickled

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

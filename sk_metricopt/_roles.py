"""Data roles: training rows, validation rows, and which of them gradients may come from."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from sk_metricopt import _embedding_net, _skorch, _validation
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._candidate import ClassifierScoring
from sk_metricopt._resampling import Resampling, StratifiedResampling
from sk_metricopt._retriever import EmbeddingRetriever
from sk_metricopt._scoring import ValidationRows
from sk_metricopt._tasks import (
    ClassificationTask,
    RetrievalTask,
    RetrieverScoring,
    Task,
    search_resampling,
)
from sk_metricopt.exploration._rows import LabelledRows, Rows

N_FOLDS = 2  # of the validation rows, for twins to be judged on
_CRITERION_ROWS = 64  # that a criterion is tried on
_PROBE_ROWS = 1500  # training rows the value function reads where it may not read validation rows


@dataclass(frozen=True)
class Data:
    """Checked input.

    Attributes
    ----------
    X, y : ndarray
        Training rows and their labels.
    fit_params : dict
        Metadata for the net's `fit`.
    X_val : ndarray
        Validation rows as the net takes them.
    observed : ValidationRows
        The same rows as the scorer gets them.
    scorer : callable
    given : tuple of ndarray
        All rows of `fit` and their labels, before validation rows were split off.
    feature_names : ndarray or None
        Names of the columns, where `fit` was given any.
    """

    X: np.ndarray
    y: np.ndarray
    fit_params: dict
    X_val: np.ndarray
    observed: ValidationRows
    scorer: Callable
    given: tuple[np.ndarray, np.ndarray]
    feature_names: np.ndarray | None = None


class Subject(ABC):
    """The pre-trained estimator that is finetuned.

    Attributes
    ----------
    estimator : estimator
        Fitted; a private one.
    bridge : Bridge
        To its net.
    classes : ndarray or None
        Labels behind the outputs of a classifier.
    """

    estimator: object
    bridge: _skorch.Bridge
    classes: np.ndarray | None = None

    @abstractmethod
    def around(self, module: nn.Module) -> object:
        """Return an estimator like this one around another module."""

    @abstractmethod
    def deployed(self, module: nn.Module | None) -> object:
        """Return what `fit` ends with: around `module`, or as it came if None."""

    @abstractmethod
    def task(
        self,
        adapted: AdaptedNet,
        use_validation_labels: bool,
        rng: np.random.RandomState,
        model_of: Callable[[object], object],
    ) -> Task:
        """Return the task; `model_of` makes of an estimator what a scorer may see."""


class ClassifierSubject(Subject):
    """A classifier net: trained, copied or wrapped.

    Parameters
    ----------
    estimator : skorch net, FrozenEstimator or torch.nn.Module
    data : Data
    """

    def __init__(self, estimator, data: Data):
        self.data = data
        labels = np.unique(data.y)
        if isinstance(estimator, FrozenEstimator):
            net = _skorch.frozen_net(estimator)
        elif isinstance(estimator, nn.Module):
            net = _skorch.net_around(estimator, data.X)
        else:
            _skorch.check_trainable(estimator, len(labels))
            net = None
        classes = labels if net is None else _validation.known_classes(labels, net.classes_)
        _validation.check_classes(data.observed.y, data.y, classes)
        if net is None:
            y = _validation.encoded(data.y, classes)
            net = _skorch.trained_net(estimator, data.X, y, data.fit_params)
        self.estimator, self.classes = net, classes
        self.bridge = _skorch.NetBridge(net)
        self.bridge.check_output(data.X, len(classes))

    def around(self, module: nn.Module):
        """Return a net like this one around another module."""
        return self.bridge.with_module(module)

    def deployed(self, module: nn.Module | None):
        """Return the net."""
        return self.estimator if module is None else self.around(module)

    def task(self, adapted, use_validation_labels, rng, model_of) -> ClassificationTask:
        """Return a task of log-scores."""
        codes = [_validation.encoded(y, self.classes) for y in (self.data.y, self.data.observed.y)]
        rows, judged = labelled_rows(
            adapted, self.data, codes, use_validation_labels, StratifiedResampling(codes[1]), rng
        )
        template = model_of(self.estimator)
        scoring = ClassifierScoring(self.data.scorer, self.data.observed, template)

        def model_at(phi: Tensor):
            return model_of(self.around(adapted.fold(phi)))

        return ClassificationTask(adapted, rows, judged, scoring, model_at)


class RetrieverSubject(Subject):
    """A retriever: trained, or a copy of a fitted one.

    Its gallery is the training rows while candidates are compared, and all rows of `fit` in the
    end. A fitted retriever's own gallery is embeddings of the net as it came, without the rows to
    embed anew; where the scorer searches the gallery, a warning says that it is replaced.

    Parameters
    ----------
    estimator : EmbeddingRetriever or FrozenEstimator
    data : Data
    """

    def __init__(self, estimator, data: Data):
        self.data = data
        if isinstance(estimator, FrozenEstimator):
            retriever = self._copied(estimator.estimator)
        else:
            retriever = clone(estimator).fit(data.X, data.y)
        self.estimator = retriever
        self.bridge = retriever._bridge()
        self.bridge.check_output(data.X)

    def _copied(self, fitted: EmbeddingRetriever) -> EmbeddingRetriever:
        retriever = copy.copy(fitted)
        retriever.estimator_ = _skorch.copy_net(retriever._bridge().net)
        # It is given arrays from here on: names are the finetuner's to check.
        names = retriever.__dict__.pop("feature_names_in_", None)
        _validation.check_feature_names(names, self.data.feature_names)
        labels = getattr(fitted, "gallery_labels_", None)
        searched = getattr(self.data.scorer, "gallery", None) == "fitted"
        if searched and labels is not None and not np.array_equal(labels, self.data.given[1]):
            warnings.warn(
                f"The gallery of the frozen retriever, {len(labels)} rows, is replaced by the rows "
                f"of MetricOptFinetuner.fit, {len(self.data.given[1])}: the gallery is re-embedded "
                "from X of fit. Pass the catalogue as X and y, and queries as X_val and y_val.",
                UserWarning,
                stacklevel=2,
            )
        return retriever

    def around(self, module: nn.Module) -> EmbeddingRetriever:
        """Return a retriever like this one around another module, training rows its gallery."""
        return self.estimator._with_module(module, self.data.X, self.data.y)

    def deployed(self, module: nn.Module | None) -> EmbeddingRetriever:
        """Return the retriever, its gallery all rows of `fit`."""
        own = self.bridge.module if module is None else module
        return self.estimator._with_module(own, *self.data.given)

    def task(self, adapted, use_validation_labels, rng, model_of) -> RetrievalTask:
        """Return a task of embeddings."""
        data = self.data
        if use_validation_labels:  # else only the scorer knows what they find
            _validation.check_searchable(data.observed.y)
        codes = [np.unique(y, return_inverse=True)[1] for y in (data.y, data.observed.y)]
        rows, judged = labelled_rows(
            adapted, data, codes, use_validation_labels, search_resampling(codes[1]), rng
        )
        template = model_of(self.estimator)
        scoring = RetrieverScoring(data.scorer, data.observed, template, self.estimator, data.y)

        def model_at(phi: Tensor):
            return model_of(self.around(adapted.fold(phi)))

        criterion = self._criterion_of_any_labels(rows.training)
        return RetrievalTask(adapted, rows, judged, scoring, model_at, criterion)

    def _criterion_of_any_labels(self, training: Rows) -> Callable | None:
        """Return the net's own criterion, if new labels mean something to it."""
        criterion = copy.deepcopy(self.estimator._criterion_module())  # some remember batches
        by_label = np.argsort(self.data.y, kind="stable")
        n_rows = min(_CRITERION_ROWS, len(by_label))
        some = by_label[np.linspace(0, len(by_label) - 1, n_rows).astype(int)]
        embedded = torch.as_tensor(self.bridge.embed(self.data.X[some]), device=self.bridge.device)
        labels = training.y[torch.as_tensor(some, device=training.y.device)]
        return criterion if _embedding_net.takes_any_labels(criterion, embedded, labels) else None


def subject_of(estimator, data: Data) -> Subject:
    """Return what finetuning starts from."""
    kind = RetrieverSubject if is_retriever(estimator) else ClassifierSubject
    return kind(estimator, data)


def is_retriever(estimator) -> bool:
    """Whether `estimator`, frozen or not, searches rather than classifies."""
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    return isinstance(inner, EmbeddingRetriever)


def net_of(estimator):
    """Return the net, frozen net or module in whatever may be finetuned."""
    if not is_retriever(estimator):
        return estimator
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    return getattr(inner, "estimator_", inner.estimator)


def check_estimator_kind(estimator) -> None:
    """Raise TypeError unless `estimator` is something that can be finetuned."""
    if not is_retriever(estimator):
        _skorch.check_estimator_kind(estimator)
    elif _embedding_net.is_transformer(net_of(estimator)):
        raise TypeError(
            "The 'estimator' parameter of MetricOptFinetuner must be a retriever around a skorch "
            f"net or a torch.nn.Module. Got one around {net_of(estimator)!r:.200}, which has "
            "nothing to finetune. Pass the retriever of the net that it was made of."
        )
    _skorch.check_not_trimmed(net_of(estimator))


def labelled_rows(
    adapted: AdaptedNet,
    data: Data,
    codes: list[np.ndarray],
    use_validation_labels: bool,
    resampling: Resampling,
    rng: np.random.RandomState,
) -> tuple[LabelledRows, LabelledRows]:
    """Return the rows that gradients come from and the rows that candidates are observed on.

    They are the same where validation labels may be used.

    Parameters
    ----------
    adapted : AdaptedNet
    data : Data
    codes : list of ndarray
        Encoded labels of training and validation rows.
    use_validation_labels : bool
    resampling : Resampling
        Deals validation rows into the folds of twins.
    rng : numpy.random.RandomState
    """
    device, n_classes = adapted.device, int(codes[0].max()) + 1
    training, validation = (
        Rows(adapted.encode(X), torch.as_tensor(y, device=device))
        for X, y in zip((data.X, data.X_val), codes, strict=True)
    )
    if use_validation_labels:
        fold_of = resampling.folds(N_FOLDS, rng)
        folds = [
            torch.as_tensor(np.flatnonzero(fold_of == k), device=device) for k in range(N_FOLDS)
        ]
        rows = LabelledRows(training, validation, folds, n_classes)
        return rows, rows
    some = torch.as_tensor(rng.permutation(len(training))[:_PROBE_ROWS], device=device)
    rows = LabelledRows(training, training.take(some), [], n_classes)
    return rows, LabelledRows(training, validation, [], n_classes)

"""Data roles: training rows, validation rows, and which of them gradients may come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator

from sk_metricopt import _skorch, _validation
from sk_metricopt._adapted import AdaptedNet
from sk_metricopt._observation import ValidationRows
from sk_metricopt._resampling import stratified_folds
from sk_metricopt.exploration._trajectories import LabelledRows, Rows

N_FOLDS = 2  # of the validation rows, for twins to be judged on
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
    """

    X: np.ndarray
    y: np.ndarray
    fit_params: dict
    X_val: np.ndarray
    observed: ValidationRows
    scorer: Callable


def pretrained(estimator, data: Data) -> tuple[object, np.ndarray]:
    """Return the fitted net that finetuning starts from, and the labels behind its outputs."""
    labels = np.unique(data.y)
    if isinstance(estimator, FrozenEstimator):
        net = _skorch.frozen_net(estimator)
    elif isinstance(estimator, torch.nn.Module):
        net = _skorch.net_around(estimator, data.X)
    else:
        _skorch.check_trainable(estimator, len(labels))
        net = None
    classes = labels if net is None else _validation.known_classes(labels, net.classes_)
    _validation.check_classes(data.observed.y, data.y, classes)
    if net is None:
        y = _validation.encoded(data.y, classes)
        net = _skorch.trained_net(estimator, data.X, y, data.fit_params)
    return net, classes


def labelled_rows(
    adapted: AdaptedNet,
    data: Data,
    classes: np.ndarray,
    use_validation_labels: bool,
    rng: np.random.RandomState,
) -> tuple[LabelledRows, LabelledRows]:
    """Return the rows that gradients come from and the rows that candidates are observed on.

    They are the same where validation labels may be used.
    """
    device, n_classes = adapted.device, len(classes)

    def rows_of(X: np.ndarray, y: np.ndarray) -> Rows:
        codes = _validation.encoded(y, classes)
        return Rows(adapted.encode(X), torch.as_tensor(codes, device=device))

    training, validation = rows_of(data.X, data.y), rows_of(data.X_val, data.observed.y)
    if use_validation_labels:
        fold_of = stratified_folds(validation.y.cpu().numpy(), N_FOLDS, rng)
        folds = [
            torch.as_tensor(np.flatnonzero(fold_of == k), device=device) for k in range(N_FOLDS)
        ]
        rows = LabelledRows(training, validation, folds, n_classes)
        return rows, rows
    some = torch.as_tensor(rng.permutation(len(training))[:_PROBE_ROWS], device=device)
    rows = LabelledRows(training, training.take(some), [], n_classes)
    return rows, LabelledRows(training, validation, [], n_classes)

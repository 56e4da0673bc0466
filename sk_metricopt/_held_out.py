"""A classifier, trained where needed, and what one that did not see them says of other rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch, _safe_indexing, indexable
from sklearn.utils.validation import (
    _check_method_params,
    _num_samples,
    assert_all_finite,
    column_or_1d,
)

from sk_metricopt import _validation
from sk_metricopt._scoring import ValidationRows

_CALLER = "PostShiftClassifier"


@dataclass(frozen=True)
class HeldOut:
    """Rows that the metric is observed on, and what was said of them unseen.

    Attributes
    ----------
    rows : ValidationRows
    proba : ndarray of shape (n_samples, n_classes)
    decided : ndarray of shape (n_samples,)
        The classifier's own decisions, as index of the class.
    """

    rows: ValidationRows
    proba: np.ndarray
    decided: np.ndarray

    def sample_weight(self) -> np.ndarray:
        """Return the weight of each row for the scorer, 1 on average."""
        n_rows = len(self.rows)
        weight = np.asarray(self.rows.params.get("sample_weight", np.ones(n_rows)), np.float64)
        wrong = weight.shape != (n_rows,) or not np.isfinite(weight).all() or weight.min() < 0
        if wrong or not weight.sum():
            raise ValueError(
                f"The 'sample_weight' parameter of {_CALLER}.fit must be numbers of at least 0, "
                f"one per row, not all 0, since the scorer asks for it. Got {weight!r:.200} for "
                f"{n_rows} validation rows. Leave rows without weight out."
            )
        return weight / weight.mean()


@dataclass(frozen=True)
class Splitting:
    """How validation rows are come by; see PostShiftClassifier for the meaning."""

    validation_fraction: float
    cv: object
    seed: int


def fitted(
    estimator, splitting: Splitting, training: tuple, validation: tuple | None, routed: Bunch
) -> tuple[object, HeldOut]:
    """Return the fitted classifier and what it, or its like, says of rows held out from it.

    Parameters
    ----------
    estimator : classifier
    splitting : Splitting
    training : tuple
        X and y of `fit`.
    validation : tuple or None
        X_val and y_val.
    routed : Bunch
        Metadata for the estimator, the scorer and the splitter.
    """
    (X, y), params, given = training, routed.estimator.fit, routed.scorer.score
    everything = np.arange(len(y))
    if validation is not None:
        if splitting.cv is not None:
            raise ValueError(
                f"The 'cv' parameter of {_CALLER} must be None where X_val and y_val are given, on "
                f"which the metric is observed. Got {splitting.cv!r:.200}. Leave one of them out."
            )
        trained_on = everything
        rows = ValidationRows(validation[0], validation[1], given)
        _validation.check_validation_params(given, len(rows), _CALLER)
    else:
        trained_on = held = everything
        if splitting.cv is None and not isinstance(estimator, FrozenEstimator):
            trained_on, held = _validation.stratified_split(
                y, splitting.validation_fraction, splitting.seed, caller=_CALLER
            )
        of_rows = _check_method_params(X, given, indices=held)
        rows = ValidationRows(_safe_indexing(X, held), y[held], of_rows)
    model = _trained(estimator, X, y, params, trained_on)
    _validation.check_classes(rows.y, y, model.classes_, _CALLER)
    if validation is None and splitting.cv is not None:
        return model, _out_of_fold(estimator, splitting.cv, rows, model.classes_, routed)
    return model, HeldOut(rows, *_answers(model, rows.X, model.classes_))


def _out_of_fold(estimator, cv, rows: ValidationRows, classes, routed: Bunch) -> HeldOut:
    """Return what classifiers say of the rows that each of them did not train on."""
    X, y = rows.X, rows.y
    proba = np.full((len(y), len(classes)), np.nan)
    decided = np.zeros(len(y), dtype=np.intp)
    splits = check_cv(cv, y, classifier=True).split(X, y, **routed.splitter.split)
    for training, held in splits:
        model = _trained(estimator, X, y, routed.estimator.fit, training)
        proba[held], decided[held] = _answers(model, _safe_indexing(X, held), classes)
    seen = np.flatnonzero(~np.isnan(proba[:, 0]))
    missing = np.setdiff1d(classes, y[seen])
    if len(missing):
        raise ValueError(
            f"The 'cv' parameter of {_CALLER} must hold out rows of every class. Got no row of "
            f"{missing[:5].tolist()!r} in {cv!r:.200}. Pass a number of folds, or a splitter that "
            "holds out more."
        )
    return HeldOut(rows.take(seen), proba[seen], decided[seen])


def check_probabilistic(estimator) -> None:
    """Raise TypeError unless `estimator` is a classifier that gives probabilities."""
    if is_classifier(estimator) and hasattr(estimator, "predict_proba"):
        return
    raise TypeError(
        f"The 'estimator' parameter of {_CALLER} must be a classifier with predict_proba. "
        f"Got {estimator!r:.200} instead. Wrap a classifier that gives scores only in "
        "sklearn.calibration.CalibratedClassifierCV."
    )


def checked_rows(X, y, name: str) -> tuple:
    """Return rows that can be indexed, and labels."""
    X, y = indexable(_validation.as_array(X), _validation.as_array(y))
    y = column_or_1d(y, warn=True)
    if y.dtype.kind == "f":
        assert_all_finite(y, input_name=name)
    _validation.check_encodable(y, _CALLER, name)
    return X, y


def _trained(estimator, X, y, params: dict, rows: np.ndarray):
    """Return a clone of `estimator` fitted on some rows; a frozen one as it is."""
    of_rows = _check_method_params(X, params, indices=rows)
    if len(rows) < _num_samples(X):
        X, y = _safe_indexing(X, rows), y[rows]
    return clone(estimator).fit(X, y, **of_rows)


def _answers(estimator, X, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (n_samples, n_classes) and decisions (n_samples,), encoded."""
    proba = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    known = _validation.encoded(estimator.classes_, classes)
    wanted = (_num_samples(X), len(known))
    sums = proba.sum(axis=1) if proba.ndim == 2 else np.zeros(1)
    if proba.shape != wanted or not np.allclose(sums, 1, atol=1e-3) or proba.min() < 0:
        raise ValueError(
            f"The 'estimator' parameter of {_CALLER} must be a classifier whose predict_proba "
            f"gives probabilities of shape {wanted}. Got shape {proba.shape} and a first row that "
            f"sums to {float(sums[0]):.3g}. Check its training, or calibrate it."
        )
    of_all = np.zeros((len(proba), len(classes)))
    of_all[:, known] = proba
    return of_all, _validation.encoded(np.asarray(estimator.predict(X)), classes)

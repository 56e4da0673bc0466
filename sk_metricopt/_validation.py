"""Checks of what the user passed, with errors that name the parameter and the next step."""

from __future__ import annotations

import difflib
import inspect
import warnings

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.metrics import get_scorer_names
from sklearn.metrics._scorer import _MultimetricScorer
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.utils import check_array, check_X_y
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

_CALLER = "MetricOptFinetuner"
_LABELS_EACH_SIDE = 8  # of a split by label, or rows of every label are split where they can be


def check_one_metric(scoring, caller: str = _CALLER) -> None:
    """Raise TypeError or ValueError unless `scoring` is one metric."""
    expected = f"The 'scoring' parameter of {caller} must be one metric: the name of a scorer, "
    expected += "an object made by make_scorer, a callable scorer(estimator, X, y) or None."
    if isinstance(scoring, str) and scoring not in get_scorer_names():
        near = difflib.get_close_matches(scoring, get_scorer_names())
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"{expected} Got {scoring!r} instead.{hint} sklearn.metrics.get_scorer_names() lists "
            "all names; make_scorer makes a scorer of any metric, and make_retrieval_scorer of "
            "sk_metricopt.metrics one of search."
        )
    several = isinstance(scoring, dict | list | tuple | set | _MultimetricScorer)
    if several or not (scoring is None or isinstance(scoring, str) or callable(scoring)):
        raise TypeError(
            f"{expected} Got a {type(scoring).__name__} instead. To have several count, combine "
            "them in a callable that returns one number."
        )


def check_instance(estimator, caller: str = _CALLER) -> None:
    """Raise TypeError for a class in the place of an estimator made of it."""
    if not isinstance(estimator, type):
        return
    name = estimator.__name__
    step = f"Pass an instance, {name}(...)"
    if issubclass(estimator, torch.nn.Module):
        net = "NeuralNet" if caller == "EmbeddingRetriever" else "NeuralNetClassifier"
        step += f", if it holds trained weights, or {net}({name}, criterion=...) to have it trained"
    raise TypeError(
        f"The 'estimator' parameter of {caller} must be an instance. Got the class {name} instead. "
        f"{step}."
    )


def features_and_labels(estimator, X, y, dtype, reset: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return `X` as an array of `dtype` and `y` as labels, checked as scikit-learn does."""
    owner = type(estimator).__name__
    check_container(X, owner)
    X, y = as_array(X), _labels(y, owner)
    _check_numbers(X, owner)
    if reset:
        _forget_shape(estimator)
    if not _is_nd(estimator, X):
        return validate_data(
            estimator, X, y, dtype=dtype, order="C", force_writeable=True, reset=reset
        )
    options = {"order": "C", "allow_nd": True, "ensure_2d": False, "force_writeable": True}
    X, y = check_X_y(X, y, dtype=dtype, estimator=estimator, **options)
    _check_sample_shape(estimator, X, reset)
    return X, y


def validation_rows(estimator, X, y, dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return `X_val` and `y_val` as `features_and_labels` does, named in errors."""
    try:
        return features_and_labels(estimator, X, y, dtype, reset=False)
    except ValueError as error:
        raise ValueError(f"In 'X_val' and 'y_val' of {_CALLER}.fit: {error}") from error


def features(estimator, X, dtype, reset: bool = False) -> np.ndarray:
    """Return `X` as an array of `dtype`, of the shape `fit` saw."""
    owner = type(estimator).__name__
    check_container(X, owner)
    X = as_array(X)
    _check_numbers(X, owner)
    if reset:
        _forget_shape(estimator)
    if not _is_nd(estimator, X):
        return validate_data(
            estimator, X, dtype=dtype, order="C", force_writeable=True, reset=reset
        )
    options = {
        "order": "C",
        "allow_nd": True,
        "ensure_2d": False,
        "force_writeable": True,
    }  # torch may write
    X = check_array(X, dtype=dtype, estimator=estimator, **options)
    _check_sample_shape(estimator, X, reset)
    return X


def check_container(X, owner: str) -> None:
    """Raise TypeError or ValueError for rows that cannot be taken from an array."""
    if issparse(X) or X is None:  # scikit-learn says what to do; some sparse ones are dicts
        return
    refused = isinstance(X, dict | np.matrix | torch.utils.data.Dataset)
    if refused or (isinstance(X, torch.Tensor) and X.layout is not torch.strided):
        raise TypeError(_no_rows(X, owner))
    if hasattr(X, "shape"):
        _check_column_names(X, owner)
        return
    try:
        n_dims = np.asarray(X).ndim
    except (TypeError, ValueError, RuntimeError) as error:  # rows of unlike lengths
        raise ValueError(_no_rows(X, owner, error)) from error
    if n_dims == 0 and not np.isscalar(X):  # a generator or a set
        raise TypeError(_no_rows(X, owner))


def _check_column_names(X, owner: str) -> None:
    names = list(getattr(X, "columns", []))
    if len(set(names)) < len(names):
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        raise ValueError(
            f"The 'X' parameter of {owner} must have columns with different names. Got several "
            f"called {', '.join(map(repr, twice[:5]))} instead. Rename them."
        )


def _check_numbers(X, owner: str) -> None:
    """Raise TypeError for values that numpy would not convert, or would make up numbers for."""
    columns = {name: X[name] for name in X.columns} if hasattr(X, "columns") else {None: X}
    text = []
    for name, column in columns.items():
        dtype = getattr(column, "dtype", None)
        if getattr(dtype, "kind", None) in ("m", "M", "V"):
            raise TypeError(_no_rows(X, owner, f"of {dtype}"))
        if getattr(dtype, "kind", None) in (None, "O"):
            try:
                np.asarray(column, dtype=np.float64)
            except (TypeError, OverflowError) as error:
                raise TypeError(_no_rows(X, owner, error)) from error
            except ValueError:
                text.append(name)
    if text and hasattr(X, "columns"):  # elsewhere scikit-learn shows the string that is no number
        raise ValueError(
            f"The 'X' parameter of {owner} must hold numbers. Got text in columns {text!r:.200} "
            "instead. Encode such columns in a Pipeline before it, such as by "
            "make_column_transformer((OneHotEncoder(sparse_output=False), columns), "
            "remainder='passthrough')."
        )


def _no_rows(X, owner: str, why: object = "") -> str:
    why = f" ({why})" if str(why) else ""
    return (
        f"The 'X' parameter of {owner} must be an array, a data frame, a tensor or a list, of "
        f"numbers. Got a {type(X).__name__}{why} instead. Stack its rows into one array of shape "
        "(n_samples, ...)."
    )


def _labels(y, owner: str):
    """Return labels as scikit-learn takes them, or raise for what it does not name `y` for."""
    if hasattr(y, "shape") or y is None:
        return as_array(y)
    try:
        return np.asarray(y) if np.asarray(y).ndim == 0 else y
    except ValueError as error:
        raise ValueError(
            f"The 'y' parameter of {owner} must be an array of labels. Got a {type(y).__name__} "
            f"that is none ({error}). Pass the label of each row."
        ) from error


def _is_nd(estimator, X) -> bool:
    """Whether rows are images or sequences, or were in fit."""
    n_dims = getattr(X, "ndim", None)  # a list has none
    return (np.asarray(X).ndim if n_dims is None else n_dims) > 2 or hasattr(
        estimator, "_sample_shape"
    )


def _forget_shape(estimator) -> None:
    for name in ("_sample_shape", "n_features_in_", "feature_names_in_"):
        if hasattr(estimator, name):
            delattr(estimator, name)


def _check_sample_shape(estimator, X: np.ndarray, reset: bool) -> None:
    """Images and sequences: scikit-learn's feature count would be their first axis."""
    if reset:
        estimator._sample_shape = X.shape[1:]
    of_rows = (getattr(estimator, "n_features_in_", None),)
    expected = getattr(estimator, "_sample_shape", of_rows)
    if X.shape[1:] != expected:
        raise ValueError(
            f"The 'X' parameter of {type(estimator).__name__} must have samples of the shape seen "
            f"in fit, {expected}. Got {X.shape[1:]} instead. Reshape X."
        )


def known_classes(labels: np.ndarray, known) -> np.ndarray:
    """Return the labels behind the outputs of a fitted net that knows `known`."""
    known = np.unique(known)
    if len(labels) == len(known):
        return labels
    if (labels.dtype.kind in "iub") == (known.dtype.kind in "iub") and np.isin(labels, known).all():
        return known
    raise ValueError(
        f"The 'y' parameter of {_CALLER}.fit must hold the classes of the fitted net, "
        f"{known.tolist()!r}, or as many in the same order. Got {labels.tolist()!r}. Encode y as "
        "it was when the net was trained."
    )


def check_validation_params(params: dict, n_rows: int, caller: str = _CALLER) -> None:
    """Raise ValueError unless metadata for the scorer goes with the rows of X_val."""
    for name, value in params.items():
        if hasattr(value, "__len__") and not isinstance(value, str) and len(value) != n_rows:
            raise ValueError(
                f"The {name!r} parameter of {caller}.fit must have one entry per row of X_val, "
                f"{n_rows}, since the scorer asks for it. Got {len(value)}. Pass it for X_val, or "
                "leave X_val out to have both split alike."
            )


def check_labels(y: np.ndarray, caller: str = _CALLER, name: str = "y") -> None:
    """Raise unless `y` holds labels; that many are alone with theirs is no concern."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        try:
            check_classification_targets(y)
            np.unique(y)
        except TypeError as error:  # bytes, and kinds that cannot be compared
            raise TypeError(
                f"The {name!r} parameter of {caller}.fit must hold labels of one kind, such as "
                f"integers or strings, none missing. Got an array of {y.dtype} instead ({error}). "
                "Convert them to strings, and drop rows without a label."
            ) from error


def check_encodable(y: np.ndarray, caller: str = _CALLER, name: str = "y") -> None:
    """Raise ValueError unless `y` holds the labels of a classification of two classes or more."""
    check_labels(y, caller, name)
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(
            f"The {name!r} parameter of {caller}.fit must hold at least 2 classes. "
            f"Got one class: {classes[:1].tolist()!r}. Pass rows of every class."
        )


def encoded(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the index of each label in `classes`, in whatever order these are."""
    order = np.argsort(classes)
    return order[np.searchsorted(classes, y, sorter=order)]


def check_classes(
    y_val: np.ndarray, y: np.ndarray, classes: np.ndarray, caller: str = _CALLER
) -> None:
    """Raise ValueError unless every label is known and every class is among `y_val`."""
    for name, labels in (("y", y), ("y_val", y_val)):
        unknown = np.setdiff1d(labels, classes)
        if len(unknown):
            raise ValueError(
                f"The {name!r} parameter of {caller}.fit must hold labels the estimator knows, "
                f"{classes.tolist()!r}. Got {unknown[:5].tolist()!r} besides. Drop these rows, or "
                "train the estimator on rows of these classes too."
            )
    absent = np.setdiff1d(classes, y_val)
    if len(absent):
        from_y = np.isin(absent, y).all()  # so a split would have had them
        step = " or leave X_val and y_val out to have a stratified set split off" if from_y else ""
        raise ValueError(
            f"The {'y_val' if from_y else 'y'!r} parameter of {caller}.fit must hold every class "
            f"the estimator knows. Got no row of {absent[:5].tolist()!r}. Add rows of these "
            f"classes{step}."
        )


def check_val_pair(X_val, y_val, caller: str = _CALLER) -> None:
    """Raise ValueError unless both or neither of the validation inputs are given."""
    if (X_val is None) != (y_val is None):
        given, missing = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
        raise ValueError(
            f"The {missing!r} parameter of {caller}.fit must be given together with {given!r}. "
            f"Got {given!r} alone. Pass both, or neither to have a validation set split off."
        )


def stratified_split(
    y: np.ndarray, fraction: float, seed: int, n_each: int = 1, caller: str = _CALLER
) -> tuple[np.ndarray, np.ndarray]:
    """Return training and validation rows, every class in both, of few rows `n_each` or so."""
    classes, counts = np.unique(y, return_counts=True)
    if counts.min() < 2:
        lone = classes[counts < 2]
        raise ValueError(
            f"The 'y' parameter of {caller}.fit must hold at least 2 rows of every class, one to "
            f"train on and one to observe the metric on. Got one row of {lone[:5].tolist()!r}. "
            "Add rows of these classes or drop them."
        )
    n_validation = max(int(np.ceil(fraction * len(y))), n_each * len(classes))
    n_validation = min(n_validation, len(y) - len(classes))
    splitter = StratifiedShuffleSplit(1, test_size=n_validation, random_state=seed)
    training, validation = next(splitter.split(np.zeros(len(y)), y))
    return _with_every_class(y, np.sort(training), np.sort(validation))


def split_by_label(y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training and validation rows of different labels, as search is judged on new ones.

    Where labels are too few for that, rows of every label, if there are enough to find each other.
    Rows alone with their label are for training: as queries they would find nothing.
    """
    labels, counts = np.unique(y, return_counts=True)
    labels, n_rows = labels[counts > 1], counts[counts > 1].sum()
    n_validation = max(2, int(np.ceil(fraction * len(labels))))
    pairs = fraction * n_rows >= 2 * len(labels)
    if min(n_validation, len(labels) - n_validation) < (_LABELS_EACH_SIDE if pairs else 2):
        return split_rows_of_labels(y, fraction, seed)
    chosen = np.random.RandomState(seed).permutation(labels)[:n_validation]
    held = np.isin(y, chosen)
    return np.flatnonzero(~held), np.flatnonzero(held)


def split_rows_of_labels(
    y: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return training and validation rows, of every label two in validation or so.

    Rows alone with their label are for training.
    """
    _, of, counts = np.unique(y, return_inverse=True, return_counts=True)
    alone = counts[of] < 2
    if alone.all():
        raise ValueError(
            f"The 'y' parameter of {_CALLER}.fit must hold labels with several rows, for rows to "
            "find each other. Got a label of its own for every row. Pass several rows of several "
            "labels."
        )
    shared = np.flatnonzero(~alone)
    training, validation = stratified_split(y[shared], fraction, seed, n_each=2)
    return np.union1d(shared[training], np.flatnonzero(alone)), shared[validation]


def check_searchable(y_val: np.ndarray) -> None:
    """Raise ValueError unless some validation rows share a label and some do not."""
    labels, counts = np.unique(y_val, return_counts=True)
    if counts.max() < 2 or len(labels) < 2:
        got = "one label" if len(labels) < 2 else "a label of its own for every row"
        raise ValueError(
            f"The validation rows of {_CALLER}.fit must hold at least 2 labels, one of them twice, "
            f"for rows to find each other. Got {got}. Pass X_val and y_val with several rows of "
            "several labels, have more rows split off by validation_fraction, or leave them to the "
            "scorer with use_validation_labels=False."
        )


def check_feature_names(fitted: np.ndarray | None, given: np.ndarray | None) -> None:
    """Raise ValueError, as scikit-learn does, where columns have other names than in fit."""
    if fitted is None or given is None or np.array_equal(fitted, given):
        return
    raise ValueError(
        "The feature names should match those that were passed during fit.\n"
        f"The estimator of {_CALLER} was fitted on {fitted.tolist()!r:.200}. "
        f"Got {given.tolist()!r:.200} instead. Pass the columns of X in that order."
    )


def _with_every_class(y, training, validation):
    """Move one row of each class that stratification rounded away."""
    for label in np.setdiff1d(y, y[validation]):
        row = training[np.flatnonzero(y[training] == label)[0]]
        training, validation = np.setdiff1d(training, row), np.append(validation, row)
    for label in np.setdiff1d(y, y[training]):
        row = validation[np.flatnonzero(y[validation] == label)[0]]
        validation, training = np.setdiff1d(validation, row), np.append(training, row)
    return np.sort(training), np.sort(validation)


def as_array(X):
    """Return tensors as arrays on the CPU; anything else as it came."""
    return X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else X


def holds_integers(X) -> bool:
    """Whether all values are whole numbers, of whatever type a Pipeline made of them."""
    values = np.asarray(as_array(X))
    return values.dtype.kind in "iub" or (
        values.dtype.kind == "f" and np.array_equal(values, np.trunc(values))
    )


def as_given(given, checked: np.ndarray):
    """Return what the user passed where rows can be taken from it, else the checked array."""
    given = as_array(given)
    return given if hasattr(given, "shape") else checked


def optimizer_class(optimizer) -> type[torch.optim.Optimizer]:
    """Return the torch optimizer class behind the 'optimizer' parameter."""
    named = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    if isinstance(optimizer, str):
        return named[optimizer]
    if not issubclass(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"The 'optimizer' parameter of {_CALLER} must be 'adam', 'sgd' or a subclass of "
            f"torch.optim.Optimizer. Got {optimizer.__name__} instead. Pass the class itself, "
            "such as torch.optim.RMSprop."
        )
    steps_with_closure = "closure" in inspect.signature(optimizer.step).parameters and (
        inspect.signature(optimizer.step).parameters["closure"].default is inspect.Parameter.empty
    )
    if steps_with_closure:
        raise ValueError(
            f"The 'optimizer' parameter of {_CALLER} must be an optimizer that steps without a "
            f"closure. Got {optimizer.__name__}. Use 'adam', 'sgd' or another first-order one."
        )
    _check_steps(optimizer)
    return optimizer


def check_callbacks(callbacks, caller: str = _CALLER) -> None:
    """Raise TypeError unless all can be called."""
    for callback in callbacks or ():
        if not callable(callback):
            raise TypeError(
                f"The 'callbacks' parameter of {caller} must be a list of functions fn(state). Got "
                f"one with {callback!r} instead. Callbacks of skorch go to the net: "
                "NeuralNetClassifier(..., callbacks=[...])."
            )


def _check_steps(optimizer: type[torch.optim.Optimizer]) -> None:
    """Raise ValueError for an optimizer that does not step a dense tensor such as φ."""
    params = torch.zeros(1, 1, 1, requires_grad=True)
    params.grad = torch.zeros_like(params)
    try:
        optimizer([{"params": [params], "lr": 1e-3}]).step()  # type: ignore[call-arg]
    except Exception as error:
        raise ValueError(
            f"The 'optimizer' parameter of {_CALLER} must be an optimizer that steps a dense "
            f"tensor. Got {optimizer.__name__}, which failed "
            f"({type(error).__name__}: {error}). Use 'adam', 'sgd' or another first-order one."
        ) from error

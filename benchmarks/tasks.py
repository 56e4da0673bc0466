"""Benchmark tasks: a real data set, the metric it is judged by, and noise in its training labels.

The data folder is named by the environment variable ``SK_METRICOPT_DATA_HOME``. Metrics are
ordinary scikit-learn scorers, in vectorised numpy because a scorer runs thousands of times.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import make_scorer
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

DATA_HOME = "SK_METRICOPT_DATA_HOME"
MAX_TRAIN, MAX_VAL, MAX_TEST = 4000, 1500, 6000
CLIP = 8.0


def confusion(y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Count rows by true class (axis 0) and predicted class (axis 1).

    Examples
    --------
    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]))
    array([[1, 0],
           [1, 1]])
    """
    y, predicted = np.asarray(y), np.asarray(predicted)
    size = int(max(y.max(), predicted.max())) + 1
    return np.bincount(y * size + predicted, minlength=size * size).reshape(size, size)


def f_beta(y: np.ndarray, predicted: np.ndarray, beta: float = 1.0) -> float:
    """F-beta of class 1."""
    truth, found = np.asarray(y) == 1, np.asarray(predicted) == 1
    hits = np.count_nonzero(truth & found)
    weighted = beta**2 * np.count_nonzero(truth) + np.count_nonzero(found)
    return (1 + beta**2) * hits / weighted if weighted else 0.0


def g_mean(y: np.ndarray, predicted: np.ndarray) -> float:
    """Geometric mean of the recalls of the classes in `y`."""
    counts = confusion(y, predicted)
    support = counts.sum(axis=1)
    recalls = counts.diagonal()[support > 0] / support[support > 0]
    return float(np.exp(np.log(recalls).mean())) if recalls.min() > 0 else 0.0


def macro_f1(y: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes that occur in `y` or among the predictions."""
    counts = confusion(y, predicted)
    total = counts.sum(axis=0) + counts.sum(axis=1)
    seen = total > 0
    return float(np.mean(2 * counts.diagonal()[seen] / total[seen]))


def quadratic_weighted_kappa(y: np.ndarray, predicted: np.ndarray) -> float:
    """Cohen's kappa with quadratic weights, for ordered classes."""
    counts = confusion(y, predicted)
    grade = np.arange(len(counts))
    weights = (grade[:, None] - grade) ** 2
    chance = counts.sum(axis=1)[:, None] * counts.sum(axis=0) / counts.sum()
    expected = np.sum(weights * chance)
    return 1.0 - float(np.sum(weights * counts) / expected) if expected else 0.0


def _precision_recall(y: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at each distinct threshold, from the highest down."""
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], np.cumsum(np.asarray(y)[order] == 1)
    last_of_tie = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    hits = hits[last_of_tie]
    return hits / (last_of_tie + 1), hits / max(hits[-1], 1)


def average_precision(y: np.ndarray, score: np.ndarray) -> float:
    """Average precision of class 1."""
    precision, recall = _precision_recall(y, score)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def precision_at_recall(y: np.ndarray, score: np.ndarray, recall: float = 0.8) -> float:
    """Best precision of class 1 among the thresholds that reach `recall`."""
    precision, reached = _precision_recall(y, score)
    return float(precision[reached >= recall].max(initial=0.0))


@dataclass(frozen=True)
class MoneyScorer:
    """A plain callable scorer: minus the mean cost of a decision, in units of money.

    Parameters
    ----------
    costs : tuple of tuple of float
        ``costs[i][j]`` is what deciding class ``j`` costs for a row of class ``i``.
    """

    costs: tuple[tuple[float, ...], ...]

    def __call__(self, estimator, X, y) -> float:
        return -float(np.asarray(self.costs)[np.asarray(y), estimator.predict(X)].mean())


# Euro per patient: a specialist visit for a healthy one, treatment begun late for an ill one.
_THYROID_COSTS = MoneyScorer(((0, 40, 60), (150, 0, 30), (600, 200, 0)))
# Cent per block of a scanned page: 1 text, 2 horizontal line, 3 graphic, 4 vertical line,
# 5 picture. Text that is not read is retyped by hand, pictures that are "read" are cleaned up.
_PAGE_COSTS = MoneyScorer(
    (
        (0, 20, 40, 20, 40),
        (10, 0, 5, 5, 5),
        (60, 30, 0, 30, 5),
        (10, 5, 5, 0, 5),
        (60, 30, 5, 30, 0),
    )
)


def _on_probability(metric: Callable, **options) -> Callable:
    return make_scorer(metric, response_method="predict_proba", **options)


SCORERS: dict[str, Callable] = {
    "f1": make_scorer(f_beta),
    "f2": make_scorer(f_beta, beta=2.0),
    "g_mean": make_scorer(g_mean),
    "macro_f1": make_scorer(macro_f1),
    "qwk": make_scorer(quadratic_weighted_kappa),
    "average_precision": _on_probability(average_precision),
    "precision_at_recall_80": _on_probability(precision_at_recall),
    "precision_at_recall_95": _on_probability(precision_at_recall, recall=0.95),
    "page_cost": _PAGE_COSTS,
    "thyroid_cost": _THYROID_COSTS,
}


def best_score(metric: str) -> float:
    """The score nothing can exceed: no money lost, or 1."""
    return 0.0 if isinstance(SCORERS[metric], MoneyScorer) else 1.0


@dataclass(frozen=True)
class Task:
    """One benchmark task.

    Parameters
    ----------
    dataset : str
        Name of the ``.npz`` file.
    metric : str
        Key of ``SCORERS``.
    half : {"design", "confirm"}
        Choices may be made on the design half only.
    noise : float, default=0.0
        Share of the training labels that are wrong: class k recorded as k + 1, or, with two
        classes, a positive recorded as negative. Validation and test labels stay right.
    min_class_rows : int, default=0
        Rows of classes smaller than this are left out.
    slow : bool, default=False
        Whether the net is a CNN.
    """

    dataset: str
    metric: str
    half: str
    noise: float = 0.0
    min_class_rows: int = 0
    slow: bool = False

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.metric}" + (f"/{self.noise:g}" if self.noise else "")

    @property
    def scorer(self) -> Callable:
        return SCORERS[self.metric]


# No data set is in both halves. The confirm half holds the sets on which the method's defaults
# were never chosen; look at it once, when a choice is final.
TASKS = (
    Task("mammography", "f1", "design"),
    Task("mammography", "precision_at_recall_80", "design"),
    Task("adult", "f2", "design"),
    Task("adult", "precision_at_recall_80", "design"),
    Task("adult", "f1", "design", noise=0.3),
    Task("phoneme", "average_precision", "design"),
    Task("optdigits", "macro_f1", "design", noise=0.4),
    Task("page_blocks", "page_cost", "design"),
    Task("yeast", "g_mean", "design", min_class_rows=40),
    Task("spambase", "f1", "confirm"),
    Task("spambase", "precision_at_recall_95", "confirm"),
    Task("spambase", "f2", "confirm", noise=0.3),
    Task("abalone19", "average_precision", "confirm"),
    Task("penbased", "macro_f1", "confirm", noise=0.4),
    Task("winequality_red", "qwk", "confirm"),
    Task("hypothyroid", "thyroid_cost", "confirm", min_class_rows=10),
    Task("kr_vs_k", "g_mean", "confirm", min_class_rows=150),
    Task("bccd_cells", "macro_f1", "confirm", slow=True),
    Task("bccd_cells", "macro_f1", "confirm", noise=0.3, slow=True),
)


def select_tasks(names: str, tasks: tuple = TASKS) -> list:
    """Tasks by half, by name (comma separated), or all of them.

    Examples
    --------
    >>> [task.name for task in select_tasks("adult/f2,yeast/g_mean")]
    ['adult/f2', 'yeast/g_mean']
    """
    by_name = {task.name: task for task in tasks}
    if names == "all":
        return list(tasks)
    if names in ("design", "confirm"):
        return [task for task in tasks if task.half == names]
    unknown = [name for name in names.split(",") if name not in by_name]
    if unknown:
        raise ValueError(
            f"The 'tasks' option must be 'design', 'confirm', 'all' or names out of "
            f"{sorted(by_name)}. Got {unknown} instead. Check the spelling."
        )
    return [by_name[name] for name in names.split(",")]


@dataclass(frozen=True)
class Split:
    """Standardised rows and encoded labels of a task, in their three roles."""

    X_train: np.ndarray
    y_train: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def load_split(task: Task, seed: int) -> Split:
    """Load the rows of `task`, divided and, in the training rows, mislabelled by `seed`."""
    arrays = _load_arrays(task.dataset)
    kept = _rows_of_common_classes(arrays["y"], task.min_class_rows)
    X, groups = arrays["X"][kept], _groups(arrays)[kept]
    y = np.unique(arrays["y"][kept], return_inverse=True)[1]
    official_test = arrays["split"][kept] == "test" if "split" in arrays else None
    rng = np.random.default_rng(seed)
    roles = _assign_roles(y, groups, official_test, seed)
    caps = (MAX_TRAIN, MAX_VAL, MAX_TEST)
    train, val, test = (rng.permutation(rows)[:cap] for rows, cap in zip(roles, caps, strict=True))
    scale = _scaler(X[train], arrays.get("is_onehot"))
    y_train = _mislabel(y[train], task.noise, int(y.max()) + 1, rng)
    return Split(scale(X[train]), y_train, scale(X[val]), y[val], scale(X[test]), y[test])


def data_home() -> Path:
    """Return the data folder, or say how to name it."""
    home = os.environ.get(DATA_HOME)
    if not home or not Path(home).is_dir():
        raise FileNotFoundError(
            f"The benchmarks read real data from the folder named by the environment variable "
            f"{DATA_HOME}. Got {home!r} instead. Set it to a folder that holds the .npz files."
        )
    return Path(home)


@lru_cache(maxsize=2)
def _load_arrays(dataset: str) -> dict[str, np.ndarray]:
    path = data_home() / f"{dataset}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"The folder named by {DATA_HOME} must hold {dataset}.npz, which is missing. Put the "
            f"file there, or leave its tasks out with --tasks."
        )
    with np.load(path) as file:
        return dict(file)


def _rows_of_common_classes(y: np.ndarray, min_rows: int) -> np.ndarray:
    return np.flatnonzero(np.bincount(y)[y] >= min_rows)


def _groups(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Label rows so that identical rows, and rows of one origin, share a label."""
    if "image_id" in arrays:
        return arrays["image_id"]
    identical = np.unique(arrays["X"], axis=0, return_inverse=True)[1].ravel()
    if "group" not in arrays:
        return identical
    origin = arrays["group"] + identical.max() + 1
    links = coo_array((np.ones(len(origin)), (identical, origin)), shape=(origin.max() + 1,) * 2)
    return connected_components(links, directed=False)[1][identical]


def _assign_roles(
    y: np.ndarray, groups: np.ndarray, official_test: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows for training, validation and test: 40 %, 20 % and 40 % where no test part is given."""
    if official_test is None:
        folds = _group_folds(y, groups, 5, seed)
        return np.concatenate(folds[3:]), folds[2], np.concatenate(folds[:2])
    test = np.flatnonzero(official_test)
    rest = np.flatnonzero(~np.isin(groups, groups[test]))
    folds = [rest[fold] for fold in _group_folds(y[rest], groups[rest], 3, seed)]
    return np.concatenate(folds[1:]), folds[0], test


def _group_folds(y: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> list[np.ndarray]:
    if len(np.unique(groups)) == len(groups):  # then the plain splitter does, 100 times faster
        splits = StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(y, y)
    else:
        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        splits = splitter.split(y, y, groups)
    return [fold for _, fold in splits]


def _mislabel(y: np.ndarray, noise: float, n_classes: int, rng: np.random.Generator) -> np.ndarray:
    wrong = np.zeros_like(y) if n_classes == 2 else (y + 1) % n_classes
    return np.where(rng.random(len(y)) < noise, wrong, y)


def _scaler(X: np.ndarray, is_onehot: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray]:
    """Standardise by the training rows: per channel for images, 0/1 columns left as they are."""
    axes = (0, 2, 3) if X.ndim == 4 else (0,)
    X = X.astype(np.float64)
    mean, scale = X.mean(axis=axes, keepdims=True), X.std(axis=axes, keepdims=True)
    scale[scale == 0] = 1.0
    if is_onehot is not None:
        mean[..., is_onehot], scale[..., is_onehot] = 0.0, 1.0
    return lambda rows: np.clip((rows - mean) / scale, -CLIP, CLIP).astype(np.float32)

"""Benchmark tasks: a real data set, the metric it is judged by, and noise in its training labels.

The data folder is named by the environment variable ``SK_METRICOPT_DATA_HOME``.
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
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from benchmarks.metrics import SCORERS

DATA_HOME = "SK_METRICOPT_DATA_HOME"
MAX_TRAIN, MAX_VAL, MAX_TEST = 4000, 1500, 6000
CLIP = 8.0
SHIFT_KEPT = 0.2  # of the training rows of the largest class under a shift of labels
BUILT_IN = {"digits": load_digits, "breast_cancer": load_breast_cancer}


@dataclass(frozen=True)
class Task:
    """One benchmark task.

    Parameters
    ----------
    dataset : str
        Name of the ``.npz`` file, or one of ``BUILT_IN``.
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
    shift : {"", "labels", "covariates"}, default=""
        How training rows differ from the others: they hold few rows of the largest class, or few
        of those that lie far along the first principal component.
    """

    dataset: str
    metric: str
    half: str
    noise: float = 0.0
    min_class_rows: int = 0
    slow: bool = False
    shift: str = ""

    @property
    def name(self) -> str:
        noise = f"{self.noise:g}" if self.noise else ""
        return "/".join(filter(None, [self.dataset, self.metric, noise, self.shift]))

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
    if task.shift:
        train = train[_kept_under(task.shift, X[train], y[train], rng)]
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
    if dataset in BUILT_IN:
        X, y = BUILT_IN[dataset](return_X_y=True)
        return {"X": X, "y": y}
    path = data_home() / f"{dataset}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"The folder named by {DATA_HOME} must hold {dataset}.npz, which is missing. Put the "
            f"file there, or leave its tasks out with --tasks."
        )
    with np.load(path) as file:
        return _in_one_piece(dict(file))


def _in_one_piece(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Join parts that come as ``X_train`` and ``X_test``; ``split`` says which rows are whose."""
    if "X" in arrays:
        return arrays
    joined = {k: np.concatenate([arrays[f"{k}_train"], arrays[f"{k}_test"]]) for k in ("X", "y")}
    split = np.repeat(["train", "test"], [len(arrays["y_train"]), len(arrays["y_test"])])
    return joined | {"split": split}


def _rows_of_common_classes(y: np.ndarray, min_rows: int) -> np.ndarray:
    return np.flatnonzero(np.bincount(y)[y] >= min_rows)


def _groups(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Label rows so that identical rows, and rows of one origin, share a label."""
    if arrays["X"].ndim == 4:
        return arrays.get("image_id", np.arange(len(arrays["X"])))
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


def _kept_under(shift: str, X: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return which training rows a shift leaves."""
    if shift == "labels":
        share = np.where(y == np.bincount(y).argmax(), SHIFT_KEPT, 1.0)
    else:
        rows = _scaler(X, None)(X)
        along = rows @ np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][0]
        along *= np.sign(along[np.abs(along).argmax()])  # an SVD leaves the sign to chance
        share = 1 / (1 + np.exp(3 * (along - np.median(along)) / along.std()))
    return np.flatnonzero(rng.random(len(y)) < share)


def _scaler(X: np.ndarray, is_onehot: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray]:
    """Standardise by the training rows: per channel for images, 0/1 columns left as they are."""
    axes = (0, 2, 3) if X.ndim == 4 else (0,)
    X = X.astype(np.float64)
    mean, scale = X.mean(axis=axes, keepdims=True), X.std(axis=axes, keepdims=True)
    scale[scale == 0] = 1.0
    if is_onehot is not None:
        mean[..., is_onehot], scale[..., is_onehot] = 0.0, 1.0
    return lambda rows: np.clip((rows - mean) / scale, -CLIP, CLIP).astype(np.float32)

"""Tasks of the benchmark of `PostShiftClassifier`, and the classifiers it is put on.

The tabular data sets of `benchmarks.tasks` with metrics of decisions. Halves, noise and the least
size of a class are those declared there. Two data sets come thinned as well: they are balanced as
they are, and imbalance is what weights on classes are for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from benchmarks.tasks import TASKS, Split, Task, load_split

BINARY = ("mammography", "adult", "phoneme", "spambase", "abalone19")
MULTICLASS = (
    "optdigits",
    "page_blocks",
    "yeast",
    "penbased",
    "winequality_red",
    "hypothyroid",
    "kr_vs_k",
)
THINNED = ("optdigits", "penbased")
THINNING, LEAST_ROWS = 0.65, 4  # class k keeps .65 ** k of its rows, but at least so many
BINARY_METRICS, MULTICLASS_METRICS = ("f1", "f2", "g_mean"), ("macro_f1", "g_mean")
DECLARED_METRICS = ("qwk", "page_cost", "thyroid_cost")  # where `benchmarks.tasks` has them
IMBALANCED = 3.0  # largest class / smallest class
ESTIMATORS = ("logistic", "boosting")


@dataclass(frozen=True)
class PostShiftTask(Task):
    """A task whose classes may be thinned out.

    Parameters
    ----------
    thinned : bool, default=False
        Whether class k is reduced to a share of .65 ** k, in all three roles.
    """

    thinned: bool = False

    @property
    def name(self) -> str:
        dataset = self.dataset + ("_thin" if self.thinned else "")
        return replace(self, dataset=dataset, thinned=False).name if self.thinned else super().name

    @property
    def rows(self) -> Task:
        """The same for all tasks on the same rows."""
        return replace(self, metric="")

    def load(self, seed: int) -> Split:
        """Load the rows in their roles."""
        split = load_split(self, seed)
        return _thin(split, np.random.default_rng(seed)) if self.thinned else split

    def groups(self, X: np.ndarray) -> np.ndarray:
        """Index of the group of each row: there is one."""
        return np.zeros(len(X), dtype=np.intp)


def _thin(split: Split, rng: np.random.Generator) -> Split:
    roles = []
    for X, y in (
        (split.X_train, split.y_train),
        (split.X_val, split.y_val),
        (split.X_test, split.y_test),
    ):
        kept = thinned_rows(y, rng)
        roles += [X[kept], y[kept]]
    return Split(*roles)


def thinned_rows(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows that are left when each class is thinned, in their order.

    Examples
    --------
    >>> y = np.repeat([0, 1, 2], 10)
    >>> np.bincount(y[thinned_rows(y, np.random.default_rng(0))]).tolist()
    [10, 6, 4]
    """
    kept = []
    for k, count in enumerate(np.bincount(y)):
        n = min(count, max(LEAST_ROWS, round(THINNING**k * count)))
        kept.append(rng.permutation(np.flatnonzero(y == k))[:n])
    return np.sort(np.concatenate(kept))


def _tasks_of(dataset: str, metrics: tuple[str, ...]) -> list[PostShiftTask]:
    declared = [task for task in TASKS if task.dataset == dataset]
    like = declared[0]
    about = {"half": like.half, "min_class_rows": like.min_class_rows}
    clean = [PostShiftTask(dataset, metric, **about) for metric in metrics]
    clean += [
        PostShiftTask(dataset, task.metric, **about)
        for task in declared
        if task.metric in DECLARED_METRICS
    ]
    noisy = [
        PostShiftTask(dataset, task.metric, **about, noise=task.noise)
        for task in declared
        if task.noise and task.metric in metrics
    ]
    thinned = [replace(task, thinned=True) for task in clean] if dataset in THINNED else []
    return clean + noisy + thinned


POST_SHIFT_TASKS: tuple[PostShiftTask, ...] = (
    *(task for dataset in BINARY for task in _tasks_of(dataset, BINARY_METRICS)),
    *(task for dataset in MULTICLASS for task in _tasks_of(dataset, MULTICLASS_METRICS)),
)


def make_estimator(name: str, seed: int):
    """Return an unfitted classifier."""
    makers: dict[str, Callable] = {
        "logistic": lambda: LogisticRegression(max_iter=300),
        "boosting": lambda: HistGradientBoostingClassifier(max_iter=60, random_state=seed),
    }
    return makers[name]()


def imbalance(split: Split) -> float:
    """Rows of the largest class over rows of the smallest, where labels are right."""
    counts = np.bincount(np.concatenate([split.y_val, split.y_test]))
    return float(counts.max() / counts[counts > 0].min())

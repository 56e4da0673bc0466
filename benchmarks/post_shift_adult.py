"""A fair classifier on Adult: the setting of Hiranandani et al. (ICML 2021), and its rivals.

The metric is the geometric mean of the true positive and true negative rates of women and of men.
Incomes are known right for few rows, on which the metric is observed. Training labels are as they
are, or positives are recorded as negatives, those of women more often. The official test part is
the test. Features are standardised instead of cut into bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import train_test_split

from benchmarks.post_shift_baselines import (
    Problem,
    Result,
    Search,
    Shifted,
    balanced_plugin,
    balancing,
    none,
    reweighted,
    threshold,
)
from benchmarks.tasks import Split, _load_arrays, _scaler

FLIPS = ((0.0, 0.0), (0.3, 0.1))  # share of positives recorded as negatives: women, men
SHARES = (0.01, 0.05)  # of the training part, with right labels, to observe the metric on
GENDER = 61  # the column "sex=Female" of adult.npz, checked when rows are loaded


def gender(X: np.ndarray) -> np.ndarray:
    """1 for women, 0 for men."""
    return (np.asarray(X)[:, GENDER] > 0.5).astype(np.intp)


def group_g_mean(estimator, X, y) -> float:
    """Geometric mean of the rates at which both classes of both genders are found."""
    cells = 2 * gender(X) + np.asarray(y)
    hits = np.bincount(cells, weights=estimator.predict(X) == y, minlength=4)
    return float(np.prod(hits / np.maximum(np.bincount(cells, minlength=4), 1)) ** 0.25)


@dataclass(frozen=True)
class AdultTask:
    """Adult with some noise, and some share of the rows to validate on."""

    flips: tuple[float, float]
    share: float
    dataset: str = "adult"
    metric: str = "group_g_mean"
    half: str = "adult"
    thinned: bool = False

    @property
    def noise(self) -> float:
        return self.flips[0]

    @property
    def name(self) -> str:
        return f"adult_gender/{self.noise:g}/{self.share:g}"

    @property
    def rows(self) -> AdultTask:
        return replace(self, metric="")

    @property
    def scorer(self) -> Callable:
        return group_g_mean

    def groups(self, X) -> np.ndarray:
        return gender(X)

    def load(self, seed: int) -> Split:
        """Load the rows in their roles, women's and men's positives partly mislabelled."""
        arrays = _load_arrays(self.dataset)
        assert arrays["feature_names"][GENDER] == "sex=Female"
        X, y, is_test = arrays["X"], arrays["y"], arrays["split"] == "test"
        known, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
        train, val = train_test_split(
            known,
            test_size=self.share,
            stratify=2 * gender(X[known]) + y[known],
            random_state=seed,
        )
        scale = _scaler(X[train], arrays["is_onehot"])
        women = gender(X[train]) == 1
        flip = np.where(women, *self.flips)
        wrong = np.random.default_rng(seed).random(len(train)) < flip
        y_train = np.where(wrong, 0, y[train])
        return Split(scale(X[train]), y_train, scale(X[val]), y[val], scale(X[test]), y[test])


ADULT_TASKS = tuple(AdultTask(flips, share) for flips in FLIPS for share in SHARES)


def reweighted_cells(problem: Problem) -> Result:
    """Train again, both classes of both genders weighted as if all were as frequent."""
    X, y = problem.split.X_train, problem.split.y_train
    cells = 2 * gender(X) + y
    weight = len(y) / (4 * np.bincount(cells, minlength=4)[cells])
    return Result(clone(problem.estimator).fit(X, y, sample_weight=weight))


def clean_only(problem: Problem) -> Result:
    """Train on the validation rows, whose labels are right."""
    return Result(clone(problem.estimator).fit(problem.split.X_val, problem.split.y_val))


def balanced_plugin_gender(problem: Problem) -> Result:
    """Divide probabilities by class shares of the validation rows of the same gender."""
    return Result(Shifted(problem.fitted, balancing(problem, 2), gender))


def one_threshold(problem: Problem) -> Result:
    """Search one threshold at quantiles."""
    search = Search(problem)
    threshold(search)
    return search.result()


def threshold_gender(problem: Problem) -> Result:
    """Search a grid of two thresholds, at quantiles of each gender."""
    search = Search(problem, 2)
    levels = np.linspace(0, 1, int(np.sqrt(search.left)) + 2)[1:-1]
    margin = search.log_proba[:, 0] - search.log_proba[:, 1]
    of_men, of_women = (np.quantile(margin[search.groups == g], levels) for g in (0, 1))
    for men in of_men:
        for women in of_women:
            search.observe(np.array([[0.0, men + 1e-9], [0.0, women + 1e-9]]))
    return search.result()


def bias_gender(problem: Problem) -> Result:
    """Search two thresholds one at a time, from the better of none and balanced ones."""
    search = Search(problem, 2)
    search.observe(balancing(problem, 2))
    search.coordinates()
    return search.result()


ADULT_BASELINES: dict[str, Callable[[Problem], Result]] = {
    "none": none,
    "balanced_plugin": balanced_plugin,
    "balanced_plugin_gender": balanced_plugin_gender,
    "reweighted": reweighted,
    "reweighted_gender": reweighted_cells,
    "clean_only": clean_only,
    "threshold": one_threshold,
    "threshold_gender": threshold_gender,
    "bias_gender": bias_gender,
}
ADULT_OURS: dict[str, dict] = {
    "post_shift": {},
    "post_shift_gender": {"basis": (GENDER,)},
    "post_shift_gender_noguard": {"basis": (GENDER,), "guard_z": None},
    "post_shift_gender_random": {"basis": (GENDER,), "randomized": True},
}

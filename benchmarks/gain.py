"""The suite ``gain``: what finetuning to a metric gains on test rows, beside its rivals.

One row per task, seed, budget, setting and method. All methods of a row start from the same net,
which saw the training rows only. In the setting "labelled", validation rows may be trained on; in
"opaque", their labels reach the scorer and nothing else. Methods that need no more than that are
measured once, as "either".
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator

from benchmarks import auc_losses, retraining
from benchmarks.baselines import BASELINES
from benchmarks.gain_tables import ON_WEIGHTS
from benchmarks.gain_tasks import GAIN_TASKS
from benchmarks.metrics import judges_decisions
from benchmarks.models import train_base
from benchmarks.problem import Outcome, Problem
from benchmarks.provenance import clock, seconds_since
from benchmarks.tasks import Split, Task, load_split
from sk_metricopt import MetricOptFinetuner, PostShiftClassifier
from sk_metricopt.adapters import WeightAdapter
from sk_metricopt.exploration import BaseExploration, PortfolioExploration, Recipe
from sk_metricopt.value_functions import BaseValueFunction

TASKS = GAIN_TASKS
KEY = ["setting", "task", "seed", "method", "budget"]
ABOUT_TASK = ["dataset", "metric", "noise", "half"]
SCORES = ["base_score", "test_score", "gain", "val_claimed_gain", "improved", "n_observations"]
COLUMNS = [
    *KEY,
    *ABOUT_TASK,
    *SCORES,
    "n_scorer_calls",
    "fit_seconds",
    "cpu_seconds",
    "machine",
    "versions",
    "commit",
]
GUARDS = {"": 1.0, "_z0": 0.0, "_z1.64": 1.64}


@dataclass(frozen=True)
class Result:
    """What a method came to.

    Attributes
    ----------
    test_score : float
    claimed_gain : float
        On the validation rows, by the method's own account; NaN if it gives none.
    improved : bool
        Whether it changed the net at all.
    n_observations : int
        Model evaluations it made.
    n_scorer_calls : int or None
        Calls of the scorer, where these are more: some are on resamples of an observation.
    """

    test_score: float
    claimed_gain: float
    improved: bool
    n_observations: int
    n_scorer_calls: int | None = None


@dataclass
class Case:
    """A trained net and what is to be made of it with a number of observations."""

    task: Task
    split: Split
    net: Any
    seed: int
    budget: int
    setting: str
    borrowed: np.ndarray = field(default_factory=lambda: np.zeros(2))
    _known: dict[Hashable, tuple[Any, np.ndarray]] = field(default_factory=dict)

    @cached_property
    def problem(self) -> Problem:
        return Problem(self.net, self.task.scorer, self.split)

    @cached_property
    def weights_problem(self) -> Problem:
        return Problem(self.net, self.task.scorer, self.split, WeightAdapter())

    @cached_property
    def base_score(self) -> float:
        return self.test_score(self.net)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` makes, made once; its seconds count for whoever asks for it."""
        if key not in self._known:
            started = np.array(clock())
            self._known[key] = make(), np.array(clock()) - started
        else:
            self.borrowed += self._known[key][1]
        return self._known[key][0]

    def score(self, net, X: np.ndarray, y: np.ndarray) -> float:
        with torch.no_grad():
            return self.problem.score(net.module_.eval()(torch.as_tensor(X)), X, y)

    def validation_score(self, net) -> float:
        return self.score(net, self.split.X_val, self.split.y_val)

    def test_score(self, model) -> float:
        return float(self.task.scorer(model, self.split.X_test, self.split.y_test))

    def result(self, model, claimed_gain: float, n_observations: int) -> Result:
        """Score the model of a method on the test rows."""
        improved = model is not self.net
        return Result(self.test_score(model), claimed_gain, improved, n_observations)


def of_outcome(case: Case, outcome: Outcome) -> Result:
    """Score the best point of a baseline on the test rows."""
    split = case.split
    test = outcome.problem.score_point(outcome.phi, outcome.shift, split.X_test, split.y_test)
    claimed = outcome.best_score - outcome.initial_score
    return Result(test, claimed, outcome.changed, len(outcome.scores))


def baseline(case: Case, search: Callable[[Problem, int, int], Outcome]) -> Result:
    """Run a baseline on adapters around the net."""
    return of_outcome(case, search(case.problem, case.budget, case.seed))


def on_weights(case: Case, search: Callable[[Problem, int, int], Outcome]) -> Result:
    """Run a baseline on all weights of the layers, as ours does."""
    return of_outcome(case, search(case.weights_problem, case.budget, case.seed))


def libauc(case: Case) -> Result:
    """Finetune on a loss made for the metric."""
    return of_outcome(
        case, auc_losses.libauc(case.problem, case.budget, case.seed, case.task.metric)
    )


class MixedLoss(BaseExploration):
    """One trajectory, on training and validation rows with natural class weights."""

    def recipes(self, n_classes, use_validation_labels, max_observations, rng):
        return [Recipe(0.5, 0.0)]


class Natural(BaseExploration):
    """The default recipes without class weights."""

    def recipes(self, n_classes, use_validation_labels, max_observations, rng):
        return [Recipe(0.5, 0.0), Recipe(1.0, 0.0)]


class Blind(BaseValueFunction):
    """A value function that knows nothing, and so has no say."""

    reads_rows = False

    def start(self, scores, y):
        return self

    def describe(self, phi, scores, y):
        return phi.new_zeros(len(phi), 1)

    def fit(self, descriptors, values):
        return self

    def predict(self, descriptors):
        return descriptors[:, 0]


def finetuned(case: Case, guard_z: float, **params) -> Result:
    """Finetune a frozen copy of the net.

    The guard has the last word, so one fit tells what each `guard_z` would have come to. (Not so
    where a run ends early; these scorers never fail.)
    """
    key = ("finetuned", *map(str, sorted(params.items())))
    finetuner = case.once(key, lambda: _fit(case, **copy.deepcopy(params)))
    accepted = finetuner.improved_ and finetuner.score_gain_ > guard_z * finetuner.score_gain_se_
    test = case.once((*key, "test"), lambda: case.test_score(finetuner))
    return Result(
        test if accepted else case.base_score,
        finetuner.score_gain_,
        bool(accepted),
        finetuner.n_observations_,
        finetuner.n_scorer_calls_,
    )


def _fit(case: Case, **params) -> MetricOptFinetuner:
    finetuner = MetricOptFinetuner(
        FrozenEstimator(case.net),
        scoring=case.task.scorer,
        max_observations=case.budget,
        use_validation_labels=case.setting != "opaque",
        guard_z=0.0,
        random_state=case.seed,
        **params,
    )
    split = case.split
    return finetuner.fit(split.X_train, split.y_train, X_val=split.X_val, y_val=split.y_val)


def post_shift(case: Case) -> Result:
    """Weight the probabilities of the net."""
    shifted = PostShiftClassifier(
        FrozenEstimator(case.net),
        scoring=case.task.scorer,
        max_observations=case.budget,
        random_state=case.seed,
    ).fit(case.split.X_val, case.split.y_val)
    return Result(
        case.test_score(shifted),
        shifted.score_gain_,
        bool(shifted.improved_),
        shifted.n_observations_,
        shifted.n_scorer_calls_,
    )


VARIANTS: dict[str, dict] = {
    "ours": {},
    "ours_unguided": {"guidance_weight": 0.0},
    "ours_film": {"adapter": "film"},
    "ours_film_unguided": {"adapter": "film", "guidance_weight": 0.0},
}
OURS: dict[str, Callable[[Case], Result]] = {
    f"{name}{suffix}": partial(finetuned, guard_z=z, **params)
    for name, params in VARIANTS.items()
    for suffix, z in GUARDS.items()
}
ABLATIONS: dict[str, dict] = {
    "scale_.1": {"adapter": WeightAdapter(0.1)},
    "scale_.4": {"adapter": WeightAdapter(0.4)},
    "540_steps": {"exploration": PortfolioExploration(n_steps=540)},
    "1500_steps": {"exploration": PortfolioExploration(n_steps=1500)},
    "natural": {"exploration": Natural()},
    "last_layer": {"adapter_targets": ["4"]},
}
MIXSOUP = {
    "adapter": "weights",
    "exploration": MixedLoss(),
    "value_function": Blind(),
    "guidance_weight": 0.0,
}
METHODS: dict[str, Callable[[Case], Result]] = {
    **{name: partial(baseline, search=search) for name, search in BASELINES.items()},
    **{f"weights_{name}": partial(on_weights, search=BASELINES[name]) for name in ON_WEIGHTS},
    "weighted": retraining.weighted,
    "refit": retraining.refit,
    "weighted_refit": retraining.weighted_refit,
    "tuned_threshold": retraining.tuned_threshold,
    "all_weights_val": retraining.all_weights_val,
    "all_weights_mix": retraining.all_weights_mix,
    "all_weights_held_out": retraining.all_weights_held_out,
    "libauc": libauc,
    "post_shift": post_shift,
    "mixsoup": partial(finetuned, guard_z=1.0, **MIXSOUP),
    **OURS,
    **{name: partial(finetuned, guard_z=1.0, **params) for name, params in ABLATIONS.items()},
}
# These read validation labels through the scorer only.
EITHER = (
    *("none", "bias", "loss", "balanced", "weights_loss", "weights_balanced"),
    *("cma_.02", "cma_.05", "cma_.1", "cma_2000", "tpe"),
)
BINARY = ("adult", "mammography", "phoneme", "spambase", "abalone19", "breast_cancer")


def applies(method: str, task: Task, setting: str) -> bool:
    """Whether a method is measured on a task in a setting."""
    if (method in EITHER) != (setting == "either"):
        return False
    if method in ABLATIONS:
        return setting == "labelled" and task.half == "design" and not task.slow
    if setting == "opaque":
        return method in OURS
    if method == "libauc":
        return auc_losses.applies(task.metric)
    if method == "tuned_threshold":
        return task.dataset in BINARY and judges_decisions(task.metric)
    return True


def measure(
    task: Task, seed: int, wanted: list[tuple[str, str, int]], about: dict
) -> Iterator[dict]:
    """Train the net once and measure what is wanted: settings, methods and budgets."""
    torch.set_num_threads(1)
    split = load_split(task, seed)
    net = train_base(split, seed)
    cases: dict[tuple[str, int], Case] = {}
    failures = []
    for setting, method, budget in wanted:
        key = (setting, budget)
        case = cases.setdefault(key, Case(task, split, net, seed, budget, setting))
        try:
            measured = _measured(case, METHODS[method])
        except Exception as error:  # noqa: BLE001  the other methods go on; raised in the end
            failures.append(error)
            continue
        row = {"setting": setting, "task": task.name, "seed": seed, "method": method}
        row |= {name: getattr(task, name) for name in ABOUT_TASK}
        yield row | {"budget": budget} | measured | about
    if failures:
        raise ExceptionGroup(f"{task.name}, seed {seed}", failures)


def _measured(case: Case, method: Callable[[Case], Result]) -> dict:
    base = case.base_score, case.problem, case.weights_problem  # not the method's seconds
    case.borrowed[:] = 0
    started = clock()
    result = method(case)
    seconds = seconds_since(started)
    return {
        "base_score": base[0],
        "test_score": result.test_score,
        "gain": result.test_score - base[0],
        "val_claimed_gain": result.claimed_gain,
        "improved": result.improved,
        "n_observations": result.n_observations,
        "n_scorer_calls": result.n_scorer_calls or result.n_observations,
        "fit_seconds": round(seconds["fit_seconds"] + case.borrowed[0], 3),
        "cpu_seconds": round(seconds["cpu_seconds"] + case.borrowed[1], 3),
    }

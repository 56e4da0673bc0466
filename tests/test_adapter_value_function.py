"""The paper's value function: interpolated trajectories, order of pairs, meta-training, trust."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from sk_metricopt import MetricOptFinetuner
from sk_metricopt.testing import check_value_function
from sk_metricopt.value_functions import AdapterValueFunction, TrajectoryPoints
from sk_metricopt.value_functions._interpolation import interpolated
from tests.nets import classifier, table

X, Y = table(2)
X_FIT, Y_FIT, X_VAL, Y_VAL = X[::2], Y[::2], X[1::2], Y[1::2]
N_PARAMS = 24
EVERY = 4  # points of a trajectory from one observation to the next


def metric(phi: np.ndarray) -> np.ndarray:
    """A score with a best point and a direction that does not matter much, in steps of 1 %."""
    goal = np.linspace(1, 2, N_PARAMS)
    return np.round(np.exp(-((phi - goal) ** 2).mean(1)), 2)


def trajectory(seed: int, n: int = 48) -> np.ndarray:
    """φ from zero towards and past somewhere near the best point, as smooth as an average is."""
    rng = np.random.RandomState(seed)
    target = np.linspace(1, 2, N_PARAMS) * rng.uniform(0.6, 1.4) + 0.4 * rng.randn(N_PARAMS)
    noise = np.cumsum(0.02 * rng.randn(n, N_PARAMS), axis=0)
    return 1.5 * np.linspace(0, 1, n)[:, None] * target + noise


def points(seeds, observed_every=EVERY, first=0) -> TrajectoryPoints:
    phis = [trajectory(seed) for seed in seeds]
    n = len(phis[0])
    seen = np.arange(n) % observed_every == 0
    scores = [np.where(seen, metric(phi), np.nan) for phi in phis]
    which = np.repeat(np.arange(first, first + len(phis)), n)
    return TrajectoryPoints(
        np.concatenate(phis), np.concatenate(scores), which, np.tile(np.arange(n) * 10, len(phis))
    )


def joined(*parts: TrajectoryPoints) -> TrajectoryPoints:
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return TrajectoryPoints(*(np.concatenate(column) for column in columns))


def first_observations(of: TrajectoryPoints, n: int) -> TrajectoryPoints:
    rows = np.flatnonzero(np.isfinite(of.scores))[:n]
    return TrajectoryPoints(*(column[rows] for column in vars(of).values()))


def rank(value: AdapterValueFunction, phi: np.ndarray) -> float:
    return float(spearmanr(value.predict(torch.as_tensor(phi).float()), metric(phi))[0])


@pytest.fixture(scope="module")
def fitted():
    return AdapterValueFunction().start(torch.zeros(1, 2), torch.zeros(1)).learn(points(range(6)))


def test_it_keeps_the_contract_of_value_functions():
    check_value_function(AdapterValueFunction())


# interpolation ----------------------------------------------------------------------------------


def test_interpolation_keeps_observations_and_is_less_sure_further_from_them():
    step = np.arange(0, 130, 10)
    scores = np.where(step % 40 == 0, np.sin(step / 60), np.nan)
    between = interpolated(np.zeros((13, 2)), scores, step)
    np.testing.assert_array_equal(between.mean[between.observed], scores[between.observed])
    assert between.observed.sum() == 4
    assert np.abs(between.mean - np.sin(step / 60)).max() < 0.15
    assert (between.std[~between.observed] > between.std[0]).all()
    assert between.std[2] > between.std[1] and between.std[6] > between.std[5]


@pytest.mark.parametrize("n_observed", [1, 2, 3])
def test_a_trajectory_with_few_observations_is_interpolated_all_the_same(n_observed):
    step = np.arange(8)
    scores = np.where(step < n_observed, 0.1 * step, np.nan)
    between = interpolated(np.zeros((8, 2)), scores, step)
    assert np.isfinite(between.mean).all() and (between.std > 0).all()


def test_without_interpolation_only_observations_are_learned_from():
    trajectories = points(range(3))
    whole = AdapterValueFunction(interpolate=False, n_steps=20).learn(trajectories)
    known = np.isfinite(trajectories.scores)
    alone = TrajectoryPoints(*(column[known] for column in vars(trajectories).values()))
    other = AdapterValueFunction(interpolate=False, n_steps=20).learn(alone)
    phi = torch.as_tensor(trajectory(9)).float()
    assert torch.equal(whole.predict(phi), other.predict(phi))
    assert whole.n_waypoints == 0 and AdapterValueFunction().n_waypoints > 0


# ranks ------------------------------------------------------------------------------------------


def test_ranks_hold_between_the_observations_of_seen_trajectories(fitted):
    held_out = [trajectory(seed)[np.arange(48) % EVERY != 0] for seed in range(6)]
    assert np.mean([rank(fitted, phi) for phi in held_out]) > 0.9


def test_five_observations_of_an_unseen_trajectory_adapt_ranks_to_it(fitted):
    seen, before, after = points(range(6)), [], []
    for seed in range(20, 32):
        unseen = points([seed], first=6)
        rest = trajectory(seed)[5 * EVERY :]
        before.append(rank(fitted.learn(seen), rest))
        adapted = fitted.learn(joined(seen, first_observations(unseen, 5)))
        after.append(rank(adapted, rest))
    fitted.learn(seen)
    assert np.mean(after) > 0.8
    assert np.mean(after) > np.mean(before)


def test_embeddings_keep_scores_in_order(fitted):
    phi = np.concatenate([trajectory(seed) for seed in range(6)])
    embedded = fitted.embed(torch.as_tensor(phi).float()).numpy()
    assert embedded.shape == (len(phi), fitted.n_members * 8)
    centred = embedded - embedded.mean(0)
    along = centred @ np.linalg.lstsq(centred, metric(phi) - metric(phi).mean(), rcond=None)[0]
    assert spearmanr(along, metric(phi))[0] > 0.9


def test_pairs_in_order_are_worth_what_rank_weight_says():
    seen = points(range(6))
    unranked = AdapterValueFunction(rank_weight=0.0).learn(seen)
    ranked = AdapterValueFunction(rank_weight=1.0).learn(seen)
    phi = torch.as_tensor(trajectory(40)).float()
    assert not torch.equal(unranked.predict(phi), ranked.predict(phi))


# trust ------------------------------------------------------------------------------------------


def test_the_ensemble_is_less_sure_where_nothing_was_observed(fitted):
    near = torch.as_tensor(trajectory(0)).float()
    far = near + 8 * torch.randn(N_PARAMS, generator=torch.Generator().manual_seed(0))
    assert fitted.predict(far, return_std=True)[1].mean() > 2 * (
        fitted.predict(near, return_std=True)[1].mean()
    )


def test_guidance_climbs_the_prediction_less_what_is_unsure(fitted):
    phi = torch.as_tensor(trajectory(50)).float()
    mean, std = fitted.predict(phi, return_std=True)
    assert torch.allclose(fitted.trusted(phi), mean - fitted.caution * std)
    assert (fitted.trusted(phi) < mean).all()


def test_going_along_the_gradient_improves_the_score(fitted):
    gains = []
    for seed in range(60, 66):
        phi = torch.as_tensor(trajectory(seed)[12:13]).float()
        start = metric(phi.numpy())
        for _ in range(20):
            leaf = phi.clone().requires_grad_(True)
            gradient = torch.autograd.grad(fitted.trusted(leaf).sum(), leaf)[0]
            phi = phi + 0.2 * gradient / gradient.norm()
        gains.append(metric(phi.numpy()) - start)
    assert np.mean(gains) > 0.02


# engineering ------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_predictions_and_touches_no_global_stream():
    torch.manual_seed(3)
    state, phi = torch.get_rng_state(), torch.as_tensor(trajectory(7)).float()
    one, two = (AdapterValueFunction(n_steps=10).learn(points(range(3))) for _ in range(2))
    assert torch.equal(one.predict(phi), two.predict(phi))
    assert torch.equal(torch.get_rng_state(), state)
    other = AdapterValueFunction(n_steps=10, random_state=1).learn(points(range(3)))
    assert not torch.equal(one.predict(phi), other.predict(phi))


def test_a_long_phi_is_read_along_a_few_directions():
    seen = points(range(6))
    value = AdapterValueFunction(max_directions=8).learn(seen)
    assert value._weights["w0"].shape[1] == 8
    assert np.mean([rank(value, trajectory(seed)) for seed in range(6)]) > 0.8


def test_without_adaptation_everything_is_fitted_anew():
    seen, more = points(range(3)), points([3], first=3)
    value = AdapterValueFunction(adapt=False, n_steps=20).learn(seen).learn(joined(seen, more))
    other = AdapterValueFunction(adapt=False, n_steps=20).learn(joined(seen, more))
    phi = torch.as_tensor(trajectory(9)).float()
    assert torch.equal(value.predict(phi), other.predict(phi))


@pytest.fixture(scope="module")
def finetuned():
    model = MetricOptFinetuner(
        classifier(), scoring="f1", value_function="adapter", max_observations=40, random_state=0
    )
    return model.fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)


def test_the_finetuner_guides_by_it(finetuned):
    assert isinstance(finetuned.value_function_, AdapterValueFunction)
    assert finetuned.value_function_.n_params_ == len(finetuned.adapter_params_)
    guided = finetuned.observations_["phase"] == "guide"
    assert guided.any() and np.isfinite(finetuned.observations_["predicted_score"][guided]).all()


def test_points_that_trajectories_come_by_are_no_observations(finetuned):
    without = MetricOptFinetuner(
        classifier(),
        scoring="f1",
        value_function=AdapterValueFunction(interpolate=False),
        max_observations=40,
        random_state=0,
    ).fit(X_FIT, Y_FIT, X_val=X_VAL, y_val=Y_VAL)
    explored = without.observations_["phase"] == "explore"
    for column in ("score", "step", "trajectory"):
        np.testing.assert_array_equal(
            without.observations_[column][explored], finetuned.observations_[column][explored]
        )
    assert without.n_observations_ == finetuned.n_observations_ <= 40

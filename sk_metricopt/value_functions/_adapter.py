"""The value function of the paper: a network that reads adapter parameters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sk_metricopt.value_functions import _networks
from sk_metricopt.value_functions._base import (
    BaseValueFunction,
    TrajectoryPoints,
    cannot_start_warm,
)
from sk_metricopt.value_functions._file import Fields
from sk_metricopt.value_functions._interpolation import Interpolated, interpolated

_WAYPOINTS = 3  # between two observations
_PARAMS = (
    "n_members",
    "interpolate",
    "rank_weight",
    "meta_train",
    "adapt",
    "caution",
    "n_steps",
    "max_directions",
    "random_state",
)
_MOST_PARAMS, _MOST_MEMBERS = 2**20, 2**6  # of a value function in a file


class AdapterValueFunction(BaseValueFunction):
    """Predicts the score from adapter parameters φ, as published [1]_.

    A light network maps φ to an embedding and the embedding to the score. The sparse scores of each
    trajectory are interpolated by a Gaussian process over steps, and every point weighs by how sure
    its score is; the order of pairs is preserved beside the values. The network is meta-trained,
    one trajectory a task, so that a few observations of further trajectories adapt it. An ensemble
    tells how far it is to be trusted: guidance climbs the mean prediction less `caution` standard
    deviations, and so keeps to where something has been observed.

    Parameters
    ----------
    n_members : int, default=4
        Networks in the ensemble.
    interpolate : bool, default=True
        Whether points between observations are learned from as well.
    rank_weight : float, default=1.0
        Of the order of pairs, relative to squared errors. 0 leaves it out.
    meta_train : bool, default=True
        Whether trajectories are tasks (first-order MAML) or pooled.
    adapt : bool, default=True
        Whether what is observed after the first fit adapts the network. If not, everything is
        fitted anew.
    caution : float, default=1.0
        Standard deviations that guidance allows for. 0 trusts the network everywhere.
    n_steps : int, default=200
        Of training.
    max_directions : int or None, default=None
        Read φ along at most so many principal directions of the points seen first, which bounds
        the time for a long φ. None reads it whole, as published.
    random_state : int, default=0
        Seeds the networks.

    Attributes
    ----------
    n_params_ : int
        Length of φ.

    See Also
    --------
    BehaviourValueFunction : The default, which needs far fewer observations.

    Notes
    -----
    It is here for comparison and for research: reading behaviour predicts better, and in
    milliseconds. ``docs/benchmarks/value_functions.md`` has the numbers.

    References
    ----------
    .. [1] Huang, Zhai, Guo and Gu, "MetricOpt: Learning to Optimize Black-Box Evaluation
       Metrics", CVPR 2021, section 3. arXiv:2104.10631

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sk_metricopt.value_functions import AdapterValueFunction
    >>> phi = torch.linspace(-1, 1, 40)[:, None] * torch.ones(5)
    >>> value = AdapterValueFunction().fit(phi.numpy(), np.linspace(0, 1, 40))
    >>> predicted, std = value.predict(phi, return_std=True)
    >>> bool(np.corrcoef(predicted, np.arange(40))[0, 1] > 0.9)
    True
    """

    reads_rows = False
    _meta: dict[str, Tensor]
    _weights: dict[str, Tensor]

    def __init__(
        self,
        n_members: int = 4,
        *,
        interpolate: bool = True,
        rank_weight: float = 1.0,
        meta_train: bool = True,
        adapt: bool = True,
        caution: float = 1.0,
        n_steps: int = 200,
        max_directions: int | None = None,
        random_state: int = 0,
    ):
        self.n_members = n_members
        self.interpolate = interpolate
        self.rank_weight = rank_weight
        self.meta_train = meta_train
        self.adapt = adapt
        self.caution = caution
        self.n_steps = n_steps
        self.max_directions = max_directions
        self.random_state = random_state

    @property
    def n_waypoints(self) -> int:  # type: ignore[override]
        """Points between two observations that are interpolated."""
        return _WAYPOINTS if self.interpolate else 0

    def start(self, scores: Tensor, y: Tensor) -> AdapterValueFunction:
        """Forget earlier fits; rows are not read."""
        self.__dict__.pop("_meta", None)
        return self

    def resume(self, adapter_params: Tensor, scores: Tensor, y: Tensor) -> AdapterValueFunction:
        """Keep what was learned, about adapter parameters of the same length."""
        if not hasattr(self, "_meta"):
            raise cannot_start_warm("an AdapterValueFunction that was never fitted")
        if len(adapter_params) != self.n_params_:
            raise cannot_start_warm(
                f"one that reads {self.n_params_} adapter parameters for a net with "
                f"{len(adapter_params)} of them: what it learned is about these very layers. A "
                "BehaviourValueFunction can change nets"
            )
        self._weights = self._meta
        self._learned = set[int]()
        return self

    def describe(self, adapter_params: Tensor, scores: Tensor, y: Tensor) -> Tensor:
        """Return φ itself."""
        return adapter_params

    # learn --------------------------------------------------------------------------------------

    def fit(self, descriptors: np.ndarray, observed: np.ndarray) -> AdapterValueFunction:
        """Learn from observations that belong to no trajectory, all anew."""
        n = len(observed)
        self.__dict__.pop("_meta", None)
        points = TrajectoryPoints(descriptors, observed, np.full(n, -1), np.zeros(n, dtype=int))
        return self.learn(points)

    def learn(self, points: TrajectoryPoints) -> AdapterValueFunction:
        """Meta-train on the first trajectories; let what follows adapt the network."""
        first = "_meta" not in vars(self)
        if not self.interpolate:
            points = points.observed()
        if first or not self.adapt:
            self._take_scales(points)
        trajectories = self._trajectories(points)
        loss = _networks.Loss(self.rank_weight, torch.Generator().manual_seed(self.random_state))
        if first or not self.adapt:
            self._learned = set(trajectories)
            self._weights = self._meta = self._trained(list(trajectories.values()), loss)
            return self
        news = [t for name, t in trajectories.items() if name not in self._learned]
        if news:
            self._weights = _networks.adapted(self._meta, _networks.Tasks([_joined(news)]), loss)
        return self

    def _trained(self, trajectories: list[Interpolated], loss: _networks.Loss) -> dict:
        tasks = _networks.Tasks(trajectories)
        generator = torch.Generator().manual_seed(self.random_state)
        weights = _networks.initial(self.n_members, tasks.X.shape[2], generator)
        several = len(tasks) > 1
        train = _networks.meta_trained if self.meta_train and several else _networks.trained
        return train(weights, tasks, loss, self.n_steps)

    def _take_scales(self, points: TrajectoryPoints) -> None:
        phi, known = points.descriptors, points.scores[np.isfinite(points.scores)]
        self.n_params_ = phi.shape[1]
        self._mean, self._scale = float(known.mean()), max(float(known.std()), 1e-6)
        self._size = max(float(np.sqrt((phi**2).mean())), 1e-6)
        self._directions = None
        if self.max_directions is not None and self.max_directions < self.n_params_:
            kept = np.linalg.svd(phi - phi.mean(0), full_matrices=False)[2][: self.max_directions]
            self._directions = kept.T * np.sqrt(len(kept) / self.n_params_)

    def _trajectories(self, points: TrajectoryPoints) -> dict[int, Interpolated]:
        """Return each trajectory, with the points that belong to none as part of all."""
        scores = (points.scores - self._mean) / self._scale
        X = self._read(points.descriptors)
        names = np.unique(points.trajectory[points.trajectory >= 0]).tolist() or [-1]
        found = {}
        for name in names:
            own = (points.trajectory == name) | (points.trajectory == -1)
            if np.isfinite(scores[own]).any():
                found[name] = interpolated(X[own], scores[own], points.step[own])
        return found

    def _read(self, phi: np.ndarray) -> np.ndarray:
        phi = phi / self._size
        return phi if self._directions is None else phi @ self._directions

    # predict ------------------------------------------------------------------------------------

    def predict(self, descriptors: Tensor, return_std: bool = False):
        """Return predicted scores (n_candidates,).

        Parameters
        ----------
        descriptors : Tensor of shape (n_candidates, n_params)
        return_std : bool, default=False
            Whether to return the standard deviation over the ensemble as well.
        """
        members = _networks.values(self._on(descriptors), self._inputs(descriptors))
        mean = self._mean + self._scale * members.mean(0)
        if not return_std:
            return mean
        return mean, self._scale * self._spread(members)

    def trusted(self, descriptors: Tensor) -> Tensor:
        """Return predicted scores less `caution` standard deviations."""
        mean, std = self.predict(descriptors, return_std=True)
        return mean - self.caution * std

    def embed(self, descriptors: Tensor) -> Tensor:
        """Return where the networks put points before they read scores off: in their order.

        Parameters
        ----------
        descriptors : Tensor of shape (n_candidates, n_params)

        Returns
        -------
        Tensor of shape (n_candidates, n_members * 8)
        """
        members = _networks.embedded(self._on(descriptors), self._inputs(descriptors))
        return members.transpose(0, 1).flatten(1)

    def _spread(self, members: Tensor) -> Tensor:
        return (members.var(0, unbiased=False) + 1e-12).sqrt()

    def _inputs(self, descriptors: Tensor) -> Tensor:
        phi = descriptors / self._size
        return phi if self._directions is None else phi @ torch.as_tensor(self._directions).to(phi)

    def _on(self, like: Tensor) -> dict[str, Tensor]:
        return {name: w.to(like) for name, w in self._weights.items()}

    # files --------------------------------------------------------------------------------------

    def _state(self) -> dict:
        if not hasattr(self, "_meta"):
            raise ValueError("This AdapterValueFunction has learned nothing yet. Fit it first.")
        own = {name: getattr(self, name) for name in _PARAMS}
        networks = {"meta": _as_arrays(self._meta), "adapted": _as_arrays(self._weights)}
        scales = {"mean": self._mean, "scale": self._scale, "size": self._size}
        return {**own, **networks, **scales, "n_params": self.n_params_, "along": self._directions}

    @classmethod
    def _from_state(cls, state: Fields) -> AdapterValueFunction:
        n = state.count("n_params", 1, _MOST_PARAMS)
        most = state.optional_count("max_directions", 1, _MOST_PARAMS)
        value_function = cls(
            state.count("n_members", 1, _MOST_MEMBERS),
            interpolate=state.flag("interpolate"),
            rank_weight=state.number("rank_weight", least=0.0),
            meta_train=state.flag("meta_train"),
            adapt=state.flag("adapt"),
            caution=state.number("caution", least=0.0),
            n_steps=state.count("n_steps", 0, _MOST_PARAMS),
            max_directions=most,
            random_state=state.count("random_state", 0, 2**32 - 1),
        )
        value_function.n_params_, value_function._learned = n, set()
        value_function._mean = state.number("mean")
        value_function._scale = state.number("scale", least=1e-9)
        value_function._size = state.number("size", least=1e-9)
        value_function._directions = state.optional_array("along", n)
        along = value_function._directions
        sizes = _networks.shapes(value_function.n_members, n if along is None else along.shape[1])
        for attribute, name in (("_meta", "meta"), ("_weights", "adapted")):
            part = state.part(name)
            weights = {k: torch.as_tensor(part.array(k, *shape)).float() for k, shape in sizes}
            setattr(value_function, attribute, weights)
        return value_function


def _as_arrays(weights: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: w.double().numpy() for name, w in weights.items()}


def _joined(trajectories: list[Interpolated]) -> Interpolated:
    names = ("descriptors", "mean", "std", "observed")
    return Interpolated(*(np.concatenate([getattr(t, n) for t in trajectories]) for n in names))

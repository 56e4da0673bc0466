"""The value function contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sk_metricopt.value_functions._file import Fields, read, write


@dataclass(frozen=True)
class TrajectoryPoints:
    """Points on trajectories, those observed first, each in the order they came.

    Parameters
    ----------
    descriptors : ndarray of shape (n_points, n_descriptors)
    scores : ndarray of shape (n_points,)
        NaN where a trajectory only came by, or the scorer failed.
    trajectory : ndarray of int of shape (n_points,)
        Which one; -1 for the model as it came. An agent that restarts begins another one.
    step : ndarray of int of shape (n_points,)
        Optimizer steps taken on it.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_metricopt.value_functions import TrajectoryPoints
    >>> scores = np.array([0.5, 0.7, np.nan])
    >>> points = TrajectoryPoints(np.zeros((3, 2)), scores, np.array([-1, 0, 0]), np.arange(3))
    >>> points.observed().step
    array([0, 1])
    """

    descriptors: np.ndarray
    scores: np.ndarray
    trajectory: np.ndarray
    step: np.ndarray

    def observed(self) -> TrajectoryPoints:
        """Return those with a score.

        Returns
        -------
        TrajectoryPoints
        """
        known = np.isfinite(self.scores) & np.isfinite(self.descriptors).all(axis=1)
        return TrajectoryPoints(*(column[known] for column in vars(self).values()))


class BaseValueFunction(ABC):
    """A differentiable map from a candidate to its predicted score.

    The engine calls `start` once, `describe` on every observed candidate, `learn` after every round
    of observations, and takes gradients of ``trusted(describe(...))`` in between. Only the four
    abstract methods have to be written.

    Attributes
    ----------
    reads_rows : bool
        Whether descriptors tell what a candidate does to rows. Such a value function can take the
        noise of few rows out of a judged gain. Another can only read φ, which
        ``adapter="auto"`` then keeps short.
    n_waypoints : int
        Points between two observations of a trajectory that `learn` is shown as well.

    See Also
    --------
    BehaviourValueFunction : The default.
    sk_metricopt.testing.check_value_function : The contract as a test.

    Examples
    --------
    A value function that reads the mean log-score of the true class and nothing else:

    >>> import numpy as np
    >>> from sk_metricopt.testing import check_value_function
    >>> from sk_metricopt.value_functions import BaseValueFunction
    >>> class LogScore(BaseValueFunction):
    ...     def start(self, scores, y):
    ...         return self
    ...     def describe(self, adapter_params, scores, y):
    ...         right = scores.log_softmax(-1)[:, range(len(y)), y]
    ...         return right.mean(1, keepdim=True)
    ...     def fit(self, descriptors, observed):
    ...         self.slope, self.level = np.polyfit(descriptors[:, 0], observed, 1)
    ...         return self
    ...     def predict(self, descriptors):
    ...         return self.level + self.slope * descriptors[:, 0]
    >>> check_value_function(LogScore())
    """

    reads_rows: bool = True
    n_waypoints: int = 0

    @abstractmethod
    def start(self, scores: Tensor, y: Tensor) -> BaseValueFunction:
        """Forget earlier fits and take scales from the model as it came.

        Parameters
        ----------
        scores : Tensor of shape (n_samples, n_classes)
            Log-scores of the model as it came; of a retriever, embeddings.
        y : Tensor of shape (n_samples,)
            Encoded labels.
        """

    @abstractmethod
    def describe(self, adapter_params: Tensor, scores: Tensor, y: Tensor) -> Tensor:
        """Return descriptors (n_candidates, n_descriptors), differentiable in what they read.

        Parameters
        ----------
        adapter_params : Tensor of shape (n_candidates, n_params)
        scores : Tensor of shape (n_candidates, n_samples, n_classes)
            Log-scores, or embeddings, of the rows that the labels belong to.
        y : Tensor of shape (n_samples,)
        """

    @abstractmethod
    def fit(self, descriptors: np.ndarray, observed: np.ndarray) -> BaseValueFunction:
        """Learn from observations.

        Parameters
        ----------
        descriptors : ndarray of shape (n_observations, n_descriptors)
        observed : ndarray of shape (n_observations,)
            Scores, all finite.
        """

    @abstractmethod
    def predict(self, descriptors: Tensor) -> Tensor:
        """Return predicted scores (n_candidates,), differentiable in what is described.

        Parameters
        ----------
        descriptors : Tensor of shape (n_candidates, n_descriptors)
        """

    def learn(self, points: TrajectoryPoints) -> BaseValueFunction:
        """Learn from all points so far; by default `fit` on those that have a score.

        Parameters
        ----------
        points : TrajectoryPoints

        Returns
        -------
        self : BaseValueFunction
        """
        known = points.observed()
        return self.fit(known.descriptors, known.scores)

    def trusted(self, descriptors: Tensor) -> Tensor:
        """Return what guidance climbs: predicted scores, lowered where they are not to be trusted.

        Parameters
        ----------
        descriptors : Tensor of shape (n_candidates, n_descriptors)

        Returns
        -------
        Tensor of shape (n_candidates,)
        """
        return self.predict(descriptors)

    def resume(self, adapter_params: Tensor, scores: Tensor, y: Tensor) -> BaseValueFunction:
        """Start on another model as it came, with what was learned on an earlier one.

        Parameters
        ----------
        adapter_params : Tensor of shape (n_params,)
            Zero.
        scores : Tensor of shape (n_samples, n_classes)
        y : Tensor of shape (n_samples,)

        Raises
        ------
        ValueError, TypeError
            If that is not possible: nothing has been learned, or of something else.
        """
        raise cannot_start_warm(f"{type(self).__name__}, which has no method 'resume'")

    # files --------------------------------------------------------------------------------------

    def to_file(self, path) -> None:
        """Write what was learned to a safetensors file; nothing in it has to be run to be read.

        Parameters
        ----------
        path : str or PathLike

        Raises
        ------
        ValueError
            If nothing has been learned.
        TypeError
            If the class does not say what it has learned (`_state`, `_from_state`).
        """
        write(path, type(self).__name__, self._state())

    @classmethod
    def from_file(cls, path) -> BaseValueFunction:
        """Read a value function: one of `cls`, or of a class derived from it.

        Parameters
        ----------
        path : str or PathLike

        Returns
        -------
        BaseValueFunction

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged, too large, of another format or of another class.
        """
        name, state = read(path)
        kinds = {kind.__name__: kind for kind in _family(cls)}
        if name not in kinds:
            raise ValueError(
                f"The 'path' parameter must be the file of one of {', '.join(sorted(kinds))}. Got "
                f"one of {name!r:.50}. Read it with the class that wrote it."
            )
        return kinds[name]._from_state(Fields(state))

    def _state(self) -> dict:
        raise TypeError(
            f"{type(self).__name__} cannot be written to a file: it has no methods '_state' and "
            "'_from_state'. See BehaviourValueFunction for an example."
        )

    @classmethod
    def _from_state(cls, state: Fields) -> BaseValueFunction:
        raise TypeError(
            f"{cls.__name__} cannot be read from a file: it has no methods '_state' and "
            "'_from_state'. See BehaviourValueFunction for an example."
        )


def cannot_start_warm(got: str) -> ValueError:
    """Return the error of a value function that cannot go on from what it learned."""
    return ValueError(
        "The 'value_function' parameter of MetricOptFinetuner, with warm_start_value=True, must be "
        f"one that was fitted on models like this one. Got {got}. Pass the value_function_ of such "
        "a finetuner, or leave out warm_start_value."
    )


def _family(cls: type) -> Iterator[type]:
    yield cls
    derived: type
    for derived in cls.__subclasses__():
        yield from _family(derived)

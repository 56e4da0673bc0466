"""The value function as a smoother: it takes noise out of what was observed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sk_metricopt._guard import Gain
from sk_metricopt._observer import Observer
from sk_metricopt._selection import Referee, spread

_FOLDS = 5
_TRUSTED_R2 = 0.5  # cross-validated, from which predictions are used
_PREDICTED_SHARES = (0.0, 0.25, 0.5, 0.75)  # of the prediction in a judged gain
_TINY = 1e-12


class ValueSmoother:
    """Mixes observed gains with predicted ones, where predictions are good.

    The metric of a few hundred rows jumps where soft metrics of the same rows glide. A value
    function that predicts the metric well from these therefore says with less noise how much a
    candidate gains, and the guard recognises smaller gains. (Choosing candidates by mixed scores
    was tried and made the choice worse.)

    Parameters
    ----------
    observer : Observer
    referee : Referee

    Attributes
    ----------
    trusted : bool
        Whether the value function reads the validation rows and predicts scores it was not
        fitted on.
    """

    def __init__(self, observer: Observer, referee: Referee):
        self._observer = observer
        self._referee = referee
        self.trusted = self._reads_rows() and self._cross_validated_r2() > _TRUSTED_R2
        if self.trusted:
            observer.learn()

    def _reads_rows(self) -> bool:
        task = self._observer.task
        return self._observer.value_function.reads_rows and task.row_wise and task.reads_labels

    def _cross_validated_r2(self) -> float:
        """Share of the variance of observed scores that the value function predicts."""
        descriptors, observed = self._observer.observed()
        if len(observed) < 4 * _FOLDS or observed.std() < _TINY:
            return -np.inf
        value_function, device = self._observer.value_function, self._observer.task.adapted.device
        fold = np.arange(len(observed)) % _FOLDS
        squared = 0.0
        with self._observer.engine.clock.on("value function"):
            for k in range(_FOLDS):
                held = torch.as_tensor(descriptors[fold == k], device=device)
                value_function.fit(descriptors[fold != k], observed[fold != k])
                predicted = value_function.predict(held).detach().cpu().numpy()
                squared += ((predicted - observed[fold == k]) ** 2).sum()
        self._error = float(np.sqrt(squared / len(observed)))
        return 1 - squared / (len(observed) * observed.var())

    def _predict(self, phi: Tensor, scores: Tensor, rows: Tensor) -> list[float]:
        value_function, y = self._observer.value_function, self._observer.task.judged.probe.y
        described = value_function.describe(phi, scores[:, rows], y[rows])
        return value_function.predict(described).tolist()

    def gain(self, index: int, phi: Tensor, answers, initial, reference: int = 0) -> Gain:
        """Return the gain of an observation over the model as it came.

        Observed and predicted gain are mixed so that the standard error, which counts the error
        of predictions in, is smallest.

        Parameters
        ----------
        index : int
        phi : Tensor of shape (n_params,)
        answers, initial
            Of that observation and of the model as it came.
        reference : int
            Observation of the model as it came.
        """
        scores = self._observer.engine.scores.tolist()
        gain = scores[index] - scores[reference]
        gains = self._referee.resampled(index) - self._referee.resampled(reference)
        if not self.trusted or not np.isfinite(gain):
            return Gain(gain, spread(gains), gains)
        both, phis = torch.stack([answers, initial]), torch.stack([phi, torch.zeros_like(phi)])
        bags = [np.arange(len(answers)), *self._referee.resamples]
        tensors = [torch.as_tensor(bag, device=answers.device) for bag in bags]
        with self._observer.engine.clock.on("value function"):
            values = np.array([self._predict(phis, both, rows) for rows in tensors])
        predicted, *predicted_gains = values[:, 0] - values[:, 1]
        resampled = np.array(predicted_gains)
        if resampled.std() < _TINY:  # blind to rows: its certainty means nothing
            return Gain(gain, spread(gains), gains)
        mixtures = [
            self._mixed((1 - w) * gain + w * predicted, (1 - w) * gains + w * resampled, w)
            for w in _PREDICTED_SHARES
        ]
        return min(mixtures, key=lambda mixture: mixture.se)

    def _mixed(self, gain: float, resampled: np.ndarray, share: float) -> Gain:
        se = float(np.hypot(spread(resampled), share * self._error))
        return Gain(gain, se, resampled)

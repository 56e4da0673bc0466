"""Descriptors of behaviour: what a candidate does to labelled rows, in differentiable numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from sk_metricopt.value_functions._file import Fields

_TEMPERATURE = 0.5  # decisions are softened by this
_PAIRED_POSITIVES = 60  # positives that soft ranking metrics look at
_RANKED_ROWS = 2**14  # positives or negatives that these are ranked among, at most
_LEAST_SCALE = 1e-3
_EPS = 1e-6


class BaseDescriptor(ABC):
    """Maps log-scores on labelled rows to a fixed number of differentiable quantities.

    Attributes
    ----------
    scales : tuple of str
        Attributes that `start` takes from the model as it came; they are kept in files.
    """

    scales: tuple[str, ...] = ()

    def start(self, scores: Tensor, y: Tensor) -> BaseDescriptor:
        """Take scales from log-scores (n, K) of the model as it came."""
        return self

    @abstractmethod
    def __call__(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return (J, n_descriptors) for log-scores (J, n, K) and labels (n,)."""

    @abstractmethod
    def size(self, n_outputs: int) -> int:
        """Return n_descriptors for a number of classes, or of components."""

    def state(self) -> dict:
        """Return the scales, for a file."""
        return {name: getattr(self, name) for name in self.scales}

    def set_state(self, state: Fields) -> None:
        """Take the scales that a file tells."""
        for name in self.scales:
            setattr(self, name, state.number(name, least=_LEAST_SCALE))


class SoftConfusionDescriptor(BaseDescriptor):
    """Share of each class's rows that softly go to each class: K x K numbers.

    Any metric of the confusion matrix is a function of these; which one, the value function has
    to find out.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt.value_functions import SoftConfusionDescriptor
    >>> scores = torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])
    >>> SoftConfusionDescriptor()(scores, torch.tensor([0, 1])).round(decimals=3).tolist()
    [[1.0, 0.0, 0.0, 1.0]]
    """

    def size(self, n_outputs: int) -> int:
        """Return K * K."""
        return n_outputs**2

    def __call__(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return (J, K * K) shares, row-normalised."""
        joint = _soft_confusion(scores, y)
        return (joint / joint.sum(2, keepdim=True).clamp_min(_EPS)).flatten(1)


class SoftMetricDescriptor(BaseDescriptor):
    """A dictionary of soft surrogates of well-known metrics, each greater is better.

    Accuracy, balanced accuracy, macro F1, mean log recall, smallest recall, kappa, macro precision
    and minus the cross-entropy, natural and class-balanced. For two classes also F0.5, F1, F2,
    area under the ROC curve, average precision, log false positive rate and precision at recall
    0.8 and 0.5; for more, the quadratic weighted kappa.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt.value_functions import SoftMetricDescriptor
    >>> scores, y = torch.randn(4, 30, 3), torch.arange(30) % 3
    >>> SoftMetricDescriptor().start(scores[0], y)(scores, y).shape
    torch.Size([4, 10])
    """

    scales = ("margin_scale",)

    def start(self, scores: Tensor, y: Tensor) -> SoftMetricDescriptor:
        """Take the spread of the margin as the scale of soft comparisons."""
        spread = float((scores[:, -1] - scores[:, 0]).std())
        self.margin_scale = max(0.3 * spread, _LEAST_SCALE)
        return self

    def size(self, n_outputs: int) -> int:
        """Return 10, or 17 for two classes."""
        return 17 if n_outputs == 2 else 10

    def __call__(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return (J, 10), or (J, 17) for two classes."""
        joint = _soft_confusion(scores, y)
        values = _confusion_metrics(joint) + _cross_entropies(scores, y)
        if scores.shape[-1] == 2:
            values += _f_scores(joint) + _ranking_metrics(scores, y, self.margin_scale)
        else:
            values.append(_quadratic_kappa(joint))
        return torch.stack(values, dim=1)


def _soft_confusion(scores: Tensor, y: Tensor) -> Tensor:
    onehot = F.one_hot(y, scores.shape[-1]).to(scores.dtype)
    return onehot.T @ torch.softmax(scores / _TEMPERATURE, -1) / len(y)


def _confusion_metrics(joint: Tensor) -> list[Tensor]:
    hits = joint.diagonal(dim1=1, dim2=2)
    true, predicted = joint.sum(2).clamp_min(_EPS), joint.sum(1).clamp_min(_EPS)
    accuracy = hits.sum(1)
    recall = (hits / true).clamp_min(1e-3)
    chance = (true * predicted).sum(1)
    return [
        accuracy,
        recall.mean(1),
        (2 * hits / (true + predicted)).mean(1),
        recall.log().mean(1),
        -torch.logsumexp(-10 * recall, 1) / 10,
        (accuracy - chance) / (1 - chance).clamp_min(_EPS),
        (hits / predicted).mean(1),
    ]


def _cross_entropies(scores: Tensor, y: Tensor) -> list[Tensor]:
    log_proba = F.log_softmax(scores, -1)
    right = log_proba.gather(-1, y.expand(len(scores), -1).unsqueeze(-1)).squeeze(-1)
    counts = torch.bincount(y, minlength=scores.shape[-1]).clamp_min(1)
    balance = 1 / (counts[y] * (counts > 0).sum())
    return [right.mean(1), right @ balance.to(right.dtype)]


def _f_scores(joint: Tensor) -> list[Tensor]:
    hits = joint[:, 1, 1]
    true, predicted = joint[:, 1].sum(1), joint[:, :, 1].sum(1)
    return [(1 + b) * hits / (b * true + predicted).clamp_min(_EPS) for b in (0.25, 1.0, 4.0)]


def _quadratic_kappa(joint: Tensor) -> Tensor:
    ranks = torch.arange(joint.shape[-1], dtype=joint.dtype, device=joint.device)
    penalty = (ranks[:, None] - ranks) ** 2
    chance = joint.sum(2)[:, :, None] * joint.sum(1)[:, None, :]
    return 1 - (penalty * joint).sum((1, 2)) / (penalty * chance).sum((1, 2)).clamp_min(_EPS)


def _ranking_metrics(scores: Tensor, y: Tensor, scale: float) -> list[Tensor]:
    """Soft AUC, average precision, log false positive rate, precision at recall 0.8 and 0.5."""
    margin = scores[..., 1] - scores[..., 0]
    positive, negative = margin[:, y == 1], margin[:, y == 0]
    if positive.shape[1] == 0 or negative.shape[1] == 0:
        return [margin.new_zeros(len(margin))] * 5
    share = positive.shape[1] / len(y)
    positive, negative = _some(positive, _RANKED_ROWS), _some(negative, _RANKED_ROWS)
    looked_at = _some(positive, _PAIRED_POSITIVES)

    def rate_above(values: Tensor, thresholds: Tensor) -> Tensor:
        return torch.sigmoid((values[:, None] - thresholds[..., None]) / scale).mean(2)

    false, true = rate_above(negative, looked_at), rate_above(positive, looked_at)
    precision = share * true / (share * true + (1 - share) * false).clamp_min(_EPS)
    values = [1 - false.mean(1), precision.mean(1), -(false + 1e-3).log().mean(1)]
    level = positive.mean(1, keepdim=True)
    for recall in (0.8, 0.5):
        # The threshold moves with the positives' mean, so that its gradient is a smooth one.
        at = torch.quantile(looked_at.detach(), 1 - recall, dim=1, keepdim=True)
        false = rate_above(negative, at + level - level.detach())[:, 0]
        values.append(share * recall / (share * recall + (1 - share) * false))
    return values


def _some(values: Tensor, n: int) -> Tensor:
    """Return at most `n` of the columns of `values` (J, n_rows), from end to end."""
    if values.shape[1] <= n:
        return values
    last = values.shape[1] - 1
    columns = torch.linspace(0, last, n, dtype=torch.float32, device=values.device)
    return values[:, columns.long().clamp_max(last)]  # float32 may round the last one up

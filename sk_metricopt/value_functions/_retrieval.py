"""The default value function of nets that embed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sk_metricopt.value_functions._behaviour import BehaviourValueFunction, RidgeExpert
from sk_metricopt.value_functions._descriptors import BaseDescriptor

_TEMPERATURES = (0.03, 0.1, 0.3)
_ROWS = 400  # looked at, more or less
_PER_LABEL = 40  # of them at most, or there would be no room for other labels
_EPS = 1e-4
_FAR = -1e9


class SoftSearchDescriptor(BaseDescriptor):
    """What search among labelled rows would find, in differentiable numbers; greater is better.

    At three temperatures the probability that a row's soft nearest neighbour has its label, and
    the logarithm of it; how much nearer rows of the same label are than others; and by how much the
    nearest others are passed. Rows are compared by cosine similarity.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt.value_functions import SoftSearchDescriptor
    >>> embeddings, y = torch.randn(4, 30, 8), torch.arange(30) % 5
    >>> SoftSearchDescriptor()(embeddings, y).shape
    torch.Size([4, 8])
    """

    def size(self, n_outputs: int) -> int:
        """Return 8."""
        return 8

    def __call__(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return (J, 8) for embeddings (J, n, d) and labels (n,)."""
        rows = _some_rows(y)
        unit, labels = F.normalize(scores[:, rows], dim=-1), y[rows]
        similarity = unit @ unit.transpose(1, 2)
        itself = torch.eye(len(rows), dtype=torch.bool, device=y.device)
        same = (labels[:, None] == labels) & ~itself
        other = labels[:, None] != labels
        known = same.any(1)
        if not known.any():
            known = ~known  # none can be found, and none is
        values = []
        for temperature in _TEMPERATURES:
            logits = (similarity / temperature).masked_fill(itself, _FAR)
            found = (logits.softmax(-1) * same).sum(2)[:, known]
            values += [found.mean(1), found.clamp_min(_EPS).log().mean(1)]
        values.append(_mean_where(similarity, same) - _mean_where(similarity, other))
        hardest = 0.05 * (similarity / 0.05).masked_fill(~other, _FAR).logsumexp(2)
        missed = F.softplus((hardest[:, :, None] - similarity) / 0.05)
        values.append(-_mean_where(missed, same))
        return torch.stack(values, dim=1)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum((1, 2)) / mask.sum().clamp_min(1)


def _some_rows(y: Tensor) -> Tensor:
    """Several rows of each label, of as many labels as there is room for, spread over all."""
    if len(y) <= _ROWS:
        return torch.arange(len(y), device=y.device)
    _, of, counts = torch.unique(y, return_inverse=True, return_counts=True)
    step = max(1, round(int(counts.clamp_max(_PER_LABEL).sum()) / _ROWS))
    chosen = torch.arange(len(counts), device=y.device) % step == 0
    if counts[chosen].max() < 2:  # most labels have one row, which says nothing
        chosen |= counts > 1
    rows = (chosen[of] & (_rank_in_label(of, counts) < _PER_LABEL)).nonzero()[:, 0]
    if len(rows) > 2 * _ROWS:  # labels chosen have more rows than others
        rows = rows[:: len(rows) // _ROWS]
    return rows


def _rank_in_label(of: Tensor, counts: Tensor) -> Tensor:
    """Return how many earlier rows have the label of each."""
    order = of.argsort(stable=True)
    start = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(of), device=of.device) - start[of[order]]
    return rank


class RetrievalValueFunction(BehaviourValueFunction):
    """Predicts the score of a net that embeds from what search among labelled rows would find.

    Attributes
    ----------
    cv_error_ : float
        Cross-validated mean squared error, in units of the variance of the scores.

    Examples
    --------
    >>> import torch
    >>> from sk_metricopt.value_functions import RetrievalValueFunction
    >>> embeddings, y = torch.randn(12, 40, 8), torch.arange(40) % 5
    >>> value = RetrievalValueFunction().start(embeddings[0], y)
    >>> X = value.describe(torch.zeros(12, 3), embeddings, y)
    >>> value.fit(X.numpy(), X[:, 0].numpy()).predict(X).shape
    torch.Size([12])
    """

    _fixed_outputs = False  # descriptors are the same for any number of components

    def _make_experts(self) -> dict[str, RidgeExpert]:
        return {"soft search": RidgeExpert(SoftSearchDescriptor(), non_negative=True)}

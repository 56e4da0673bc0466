"""Values of ranking metrics for each query, expected over a random order of equally near items.

Positions count from 0. A query without any relevant item gets NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sk_metricopt.metrics._relevance import Relevance


def recall(relevance: Relevance, similarity: Tensor, k: int, counts: str) -> Tensor:
    """Return whether any, or which share of all, relevant items are among the k nearest."""
    top = _top(relevance.binary(), similarity, k)
    if counts == "all":
        return top.expected.sum(1) / relevance.total
    # Only the last group can be cut: what comes before it is found for sure.
    size, mass, before = top.size[:, -1], top.mass[:, -1], top.before[:, -1]
    found = 1 - _none_drawn(size, mass, k - top.start[:, -1])
    return _or_lone(torch.where(before > 0, 1.0, found), relevance)


def precision(relevance: Relevance, similarity: Tensor, k: int) -> Tensor:
    """Return the share of relevant items among the k nearest."""
    top = _top(relevance.binary(), similarity, k)
    return _or_lone(top.expected.sum(1) / k, relevance)


def average_precision_at_r(relevance: Relevance, similarity: Tensor) -> Tensor:
    """Return the mean over the R nearest of the precision up to each relevant one."""
    total = relevance.total
    top = _top(relevance.binary(), similarity, max(1, int(total.max())))
    # At a position: the chance of a relevant item, times the relevant ones up to it given that.
    both = top.mass * (top.mass - 1) / (top.size * (top.size - 1)).clamp_min(1)
    hits = top.expected * (1 + top.before) + (top.position - top.start) * both
    counted = top.position < total[:, None]
    return (hits / (top.position + 1) * counted).sum(1) / total


def reciprocal_rank(relevance: Relevance, similarity: Tensor) -> Tensor:
    """Return one over the rank of the nearest relevant item."""
    relevant = relevance.grades().bool()
    best = similarity.masked_fill(~relevant, -torch.inf).amax(1, keepdim=True)
    nearer, level = (similarity > best).count_nonzero(1), similarity == best
    size = level.count_nonzero(1)
    value = 1.0 / (1 + nearer.double())
    tied = size > 1
    if tied.any():
        mass = (level[tied] & relevant[tied]).count_nonzero(1)
        value[tied] = _reciprocal_rank_of_ties(nearer[tied], size[tied], mass)
    return _or_lone(value, relevance)


def normalized_discounted_gain(relevance: Relevance, similarity: Tensor, k: int) -> Tensor:
    """Return the discounted grades of the k nearest, over those of the best order."""
    top = _top(relevance, similarity, k)
    discount = 1 / torch.log2(top.position + 2)
    return (top.expected * discount).sum(1) / (relevance.ideal(k) * discount).sum(1)


@dataclass
class _Top:
    """The first k positions of each query, and the group of equally near items at each.

    Attributes
    ----------
    position : Tensor of shape (k,)
    start, size, mass : Tensor of shape (n_queries, k)
        Where the group begins, how many items it has (also beyond k) and the sum of their grades.
    before : Tensor of shape (n_queries, k)
        Sum of the grades of all nearer items.
    """

    position: Tensor
    start: Tensor
    size: Tensor
    mass: Tensor
    before: Tensor

    @property
    def expected(self) -> Tensor:
        """Expected grade at each position."""
        return self.mass / self.size


def _top(relevance: Relevance, similarity: Tensor, k: int) -> _Top:
    value, index = similarity.topk(min(k + 1, similarity.shape[1]))
    gain = relevance.at(index[:, :k])
    position = torch.arange(k, dtype=gain.dtype, device=gain.device)
    start, size = position.repeat(len(gain), 1), torch.ones_like(gain)
    top = _Top(position, start, size, gain, gain.cumsum(1) - gain)
    tied = (value[:, 1:] == value[:, :-1]).any(1)
    if tied.any():
        _join_ties(top, tied, value[tied, :k], similarity[tied], relevance.of(tied).grades())
    return top


def _join_ties(top: _Top, rows: Tensor, value: Tensor, similarity: Tensor, grades: Tensor) -> None:
    """Set the groups of `rows`, whose nearest items have similarities `value`."""
    first = F.pad(value[:, 1:] != value[:, :-1], (1, 0), value=True)
    group = first.long().cumsum(1) - 1
    start = torch.where(first, top.position, 0).cummax(1).values
    size, mass = (
        torch.zeros_like(part).scatter_add_(1, group, part).gather(1, group)
        for part in (top.size[rows], top.mass[rows])
    )
    level = similarity == value[:, -1:]  # the last group may go on beyond the first k
    last = group == group[:, -1:]
    top.size[rows] = torch.where(last, level.count_nonzero(1)[:, None].to(size.dtype), size)
    beyond = torch.where(level, grades, 0).sum(1, keepdim=True, dtype=mass.dtype)
    top.before[rows] = top.before[rows].gather(1, start.long())
    top.mass[rows] = torch.where(last, beyond, mass)
    top.start[rows] = start


def _none_drawn(size: Tensor, relevant: Tensor, drawn: Tensor) -> Tensor:
    """Return the chance that `drawn` of `size` items hold none of the `relevant` ones."""
    others = size - relevant
    log_chance = (
        torch.lgamma(others + 1)
        + torch.lgamma(size - drawn + 1)
        - torch.lgamma((others - drawn).clamp_min(0) + 1)
        - torch.lgamma(size + 1)
    )
    return torch.where(drawn > others, 0.0, log_chance.exp())


def _reciprocal_rank_of_ties(nearer: Tensor, size: Tensor, relevant: Tensor) -> Tensor:
    """Return the expected 1 / rank of the first of `relevant` among `size` equally near items."""
    nearer, size, relevant = (part.double()[:, None] for part in (nearer, size, relevant))
    place = torch.arange(int(size.max()), dtype=size.dtype, device=size.device)
    left = (size - place).clamp_min(1)
    missed = ((left - relevant).clamp_min(0) / left).cumprod(1)
    not_yet = F.pad(missed[:, :-1], (1, 0), value=1.0)
    return (not_yet * relevant / left / (nearer + place + 1)).sum(1)


def _or_lone(values: Tensor, relevance: Relevance) -> Tensor:
    return values.masked_fill(relevance.total == 0, torch.nan)
